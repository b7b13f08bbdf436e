// Runs transfers that were started: on threads of its own, some at a time with each peer, each within its own bounds.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "beeline/base/clock.h"
#include "beeline/os/fork_count.h"
#include "beeline/os/wait.h"

namespace beeline::transfer {

// Thread-safe. Its threads begin with the first transfer, keep it, and end with close(), which its owner calls. In a
// child of fork() it is the parent's: nothing is run there, and nothing ended.
class Runner : public std::enable_shared_from_this<Runner> {
 public:
  // With one peer: more at a time move no faster. What waits for them waits for this peer alone.
  static constexpr std::size_t kAtOnce = 4;
  // Of all peers.
  static constexpr std::size_t kMaxThreads = 1024;

  using Work = std::function<Status(const os::Wait& wait)>;
  // With what the work returned, or with why it never began. On any thread, without a lock.
  using Ended = std::function<void(const Status& status)>;

  static std::shared_ptr<Runner> make();
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;

  class Started;
  // Does the work now, or once fewer than kAtOnce are under way with the peer: within the deadline, for which it waits,
  // too. `ended` is called once. kSystem where the process may have no thread or descriptor for it, kShutdown after
  // close(); nothing is called then.
  Result<std::shared_ptr<Started>> start(std::string peer, Deadline deadline, Work work, Ended ended);
  // Ends it soon, with kCancelled unless it was done before; at once, if it has not begun.
  void cancel(const std::shared_ptr<Started>& started);
  // Waits for all that were started, but not for the one that calls it.
  void close();

 private:
  Runner() = default;

  // All of these need mutex_.
  Result<bool> has_thread_for_one_more();
  Status watch(const Started& started);
  bool withdraw(const std::shared_ptr<Started>& started);
  void admit_next(const std::string& peer);
  std::vector<std::shared_ptr<Started>> take_late(Clock::time_point& next);

  void run();
  void end_late();

  const std::uint64_t fork_count_ = os::fork_count();
  std::mutex mutex_;
  // The rest needs mutex_.
  std::condition_variable work_, watch_;
  std::unordered_map<std::string, std::size_t> running_;  // by peer: that run or are ready to
  std::deque<std::shared_ptr<Started>> ready_;            // for a thread
  // By peer: while kAtOnce others run. No queue is empty.
  std::unordered_map<std::string, std::deque<std::shared_ptr<Started>>> waiting_;
  std::vector<std::thread> threads_;
  std::size_t idle_ = 0;  // of those
  std::thread watcher_;   // ends those that wait for too long; begins with the first one that waits
  Clock::time_point watched_until_ = Clock::time_point::max();
  bool is_closing_ = false;
};

}  // namespace beeline::transfer
