#include "beeline/transfer/runner.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "beeline/os/thread.h"

namespace beeline::transfer {

class Runner::Started {
 public:
  Started(std::string with, Deadline until, std::shared_ptr<os::Cancellation> own, Work what, Ended told)
      : peer(std::move(with)),
        deadline(until),
        cancellation(std::move(own)),
        work_(std::move(what)),
        ended_(std::move(told)) {}

  const std::string peer;
  const Deadline deadline;
  const std::shared_ptr<os::Cancellation> cancellation;

  // By one thread, once; what it holds is let go of, whoever refers to it yet.
  void run() {
    os::Wait wait(deadline);
    wait.cancellation = cancellation.get();
    const Status status = std::exchange(work_, nullptr)(wait);
    std::exchange(ended_, nullptr)(status);
  }
  void end_unbegun(const Status& status) {
    work_ = nullptr;
    std::exchange(ended_, nullptr)(status);
  }

 private:
  Work work_;
  Ended ended_;
};

std::shared_ptr<Runner> Runner::make() {
  return std::shared_ptr<Runner>(new Runner());
}

Result<std::shared_ptr<Runner::Started>> Runner::start(std::string peer, Deadline deadline, Work work, Ended ended) {
  if (fork_count_ != os::fork_count()) {
    return Status(Code::kInvalidArgument, "the agent is that of the parent process: open another one after fork()");
  }
  BEELINE_ASSIGN(auto cancellation, os::Cancellation::make());
  auto started =
      std::make_shared<Started>(std::move(peer), deadline, std::move(cancellation), std::move(work), std::move(ended));
  const std::lock_guard locked(mutex_);
  if (is_closing_) return Status(Code::kShutdown, "the agent was closed");
  const auto found = running_.find(started->peer);
  const bool is_ready = found == running_.end() || found->second < kAtOnce;
  bool waits = true;
  if (is_ready) {
    BEELINE_ASSIGN(const bool has_thread, has_thread_for_one_more());
    waits = !has_thread;
  }
  if (waits) BEELINE_RETURN_IF_ERROR(watch(*started));
  if (is_ready) {
    ++running_[started->peer];
    ready_.push_back(started);
    work_.notify_one();
  } else {
    waiting_[started->peer].push_back(started);
  }
  return started;
}

// False: it has to wait for one of those that there are.
Result<bool> Runner::has_thread_for_one_more() {
  if (idle_ > ready_.size()) return true;
  if (threads_.size() == kMaxThreads) return false;
  auto thread = os::try_start_thread([self = shared_from_this()] { self->run(); });
  if (!thread) {
    if (threads_.empty()) return thread.status();
    return false;
  }
  threads_.push_back(std::move(*thread));
  ++idle_;
  return true;
}

// From here on somebody looks when its deadline passes.
Status Runner::watch(const Started& started) {
  if (started.deadline.is_never()) return Status::ok();
  if (!watcher_.joinable()) {
    BEELINE_ASSIGN(watcher_, os::try_start_thread([self = shared_from_this()] { self->end_late(); }));
  }
  if (started.deadline.at() < watched_until_) {
    watched_until_ = started.deadline.at();
    watch_.notify_one();
  }
  return Status::ok();
}

void Runner::cancel(const std::shared_ptr<Started>& started) {
  if (fork_count_ != os::fork_count()) return;
  started->cancellation->cancel();
  {
    const std::lock_guard locked(mutex_);
    if (!withdraw(started)) return;
  }
  started->end_unbegun({Code::kCancelled, "cancelled before it began"});
}

// False where it has begun.
bool Runner::withdraw(const std::shared_ptr<Started>& started) {
  if (const auto ready = std::ranges::find(ready_, started); ready != ready_.end()) {
    ready_.erase(ready);
    admit_next(started->peer);
    return true;
  }
  const auto queue = waiting_.find(started->peer);
  if (queue == waiting_.end()) return false;
  if (std::erase(queue->second, started) == 0) return false;
  if (queue->second.empty()) waiting_.erase(queue);
  return true;
}

// One with the peer is none of those any more that run or are ready to.
void Runner::admit_next(const std::string& peer) {
  const auto queue = waiting_.find(peer);
  if (queue == waiting_.end()) {
    const auto running = running_.find(peer);
    if (--running->second == 0) running_.erase(running);
    return;
  }
  ready_.push_back(std::move(queue->second.front()));
  queue->second.pop_front();
  if (queue->second.empty()) waiting_.erase(queue);
  work_.notify_one();
}

void Runner::run() {
  ::pthread_setname_np(::pthread_self(), "bee-transfer");
  std::unique_lock locked(mutex_);
  for (;;) {
    work_.wait(locked, [this] { return !ready_.empty() || is_closing_; });
    if (ready_.empty()) return;
    const auto started = std::move(ready_.front());
    ready_.pop_front();
    --idle_;
    locked.unlock();
    started->run();
    locked.lock();
    ++idle_;
    admit_next(started->peer);
  }
}

// Those whose deadline has passed before they began, withdrawn; and when to look again.
std::vector<std::shared_ptr<Runner::Started>> Runner::take_late(Clock::time_point& next) {
  std::vector<std::shared_ptr<Started>> late;
  next = Clock::time_point::max();
  const auto look = [&](const std::shared_ptr<Started>& started) {
    if (started->deadline.passed()) {
      late.push_back(started);
    } else {
      next = std::min(next, started->deadline.at());
    }
  };
  std::ranges::for_each(ready_, look);
  for (const auto& [peer, queue] : waiting_) std::ranges::for_each(queue, look);
  for (const auto& started : late) withdraw(started);
  return late;
}

void Runner::end_late() {
  std::unique_lock locked(mutex_);
  while (!is_closing_ || !ready_.empty() || !waiting_.empty()) {
    const auto late = take_late(watched_until_);
    if (late.empty()) {
      const auto until = watched_until_;  // others set it meanwhile
      if (until == Clock::time_point::max()) {
        watch_.wait(locked);
      } else {
        watch_.wait_until(locked, until);
      }
      continue;
    }
    locked.unlock();
    for (const auto& started : late) {
      started->end_unbegun({Code::kDeadlineExceeded,
                            "the deadline passed before it began, while others that were started earlier went on (" +
                                std::to_string(kAtOnce) + " at a time with one agent): " + started->peer});
    }
    locked.lock();
  }
}

void Runner::close() {
  if (fork_count_ != os::fork_count()) return;
  std::vector<std::thread> threads;
  std::thread watcher;
  {
    const std::lock_guard locked(mutex_);
    is_closing_ = true;
    threads.swap(threads_);
    watcher.swap(watcher_);
    work_.notify_all();
  }
  for (std::thread& thread : threads) {
    if (thread.get_id() == std::this_thread::get_id()) {
      thread.detach();
    } else {
      thread.join();
    }
  }
  if (!watcher.joinable()) return;
  {
    const std::lock_guard locked(mutex_);
    watch_.notify_one();
  }
  watcher.join();
}

}  // namespace beeline::transfer
