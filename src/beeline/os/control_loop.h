// A control thread: sleeps on sockets and timers, and handles what comes with the state lock held. For connections and
// deaths; calls and transfers do not pass here.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <unordered_map>
#include <vector>

#include "beeline/base/clock.h"
#include "beeline/os/fd.h"
#include "beeline/os/state_lock.h"

namespace beeline::os {

// start, stop and join are the owner's; the rest needs the state lock and may be called from any thread.
class ControlLoop {
 public:
  using Handler = std::function<void(std::uint32_t events)>;

  explicit ControlLoop(StateLock& lock) : lock_(lock) {}

  Status start();
  // Ends the thread; no handler runs after it returns. Not from a handler.
  void stop();

  // Level-triggered; a second call for the same descriptor replaces the first.
  void watch(int fd, bool also_writable, Handler handler);
  // Its handler is not called any more. Before the descriptor is closed.
  void forget(int fd);
  void after(Nanos delay, std::function<void()> action);
  // Runs `action` soon on the control thread, without the state lock: what may take a while, or another lock.
  void defer(std::function<void()> action);

 private:
  void run();
  int run_timers();

  StateLock& lock_;
  Fd epoll_;
  Fd wake_;
  std::uint64_t next_id_ = 1;
  std::unordered_map<std::uint64_t, std::shared_ptr<Handler>> handlers_;
  std::unordered_map<int, std::uint64_t> id_of_fd_;
  std::multimap<Clock::time_point, std::function<void()>> timers_;
  std::vector<std::function<void()>> deferred_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace beeline::os
