// One thread's event loop: descriptors that become ready, and timers.
#pragma once

#include <sys/epoll.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>

#include "beeline/base/clock.h"
#include "beeline/base/status.h"
#include "beeline/os/fd.h"

namespace beeline::os {

// Not thread-safe: everything happens on the thread that calls run_once. Handlers may watch, forget and set
// timers freely, also their own. Descriptors are borrowed: forget them before closing them.
class EventLoop {
 public:
  using Handler = std::function<void(std::uint32_t events)>;
  using TimerId = std::uint64_t;  // 0 is no timer

  static Result<EventLoop> make();

  // Calls `handler` whenever one of `events` (EPOLLIN, EPOLLOUT) or an error is there (level-triggered).
  Status watch(int fd, std::uint32_t events, Handler handler);
  // Watches for other events than before.
  Status change(int fd, std::uint32_t events);
  // Its handler is not called any more, not even for events that have been received already.
  void forget(int fd);

  TimerId after(Nanos delay, std::function<void()> action);
  void cancel(TimerId timer);

  // Waits for an event, a timer or the deadline and handles what is there.
  Status run_once(Deadline deadline);

 private:
  struct Watch {
    int fd;
    std::uint32_t events;
    Handler handler;
  };
  struct Timer {
    Clock::time_point at;
    std::function<void()> action;
  };

  void run_timers();

  Fd epoll_;
  std::uint64_t next_id_ = 1;
  // Events carry the watch's id, never a descriptor's number, which may belong to someone else by then.
  std::unordered_map<std::uint64_t, std::shared_ptr<Watch>> watches_;
  std::unordered_map<int, std::uint64_t> id_of_fd_;
  std::map<TimerId, Timer> timers_;
  std::multimap<Clock::time_point, TimerId> due_;
};

}  // namespace beeline::os
