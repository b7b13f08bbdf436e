#include "beeline/os/control_loop.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "beeline/os/thread.h"

namespace beeline::os {

Status ControlLoop::start() {
  epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.is_open()) return Status::from_errno("epoll_create1", errno);
  BEELINE_ASSIGN(wake_, make_eventfd());
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = 0;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) {
    return Status::from_errno("watch an eventfd", errno);
  }
  BEELINE_ASSIGN(thread_, try_start_thread([this] { run(); }));
  return Status::ok();
}

void ControlLoop::stop() {
  {
    const Locked locked(lock_);
    stopping_ = true;
  }
  if (wake_.is_open()) signal_eventfd(wake_.get());
  if (thread_.joinable()) thread_.join();
  // What handlers and actions hold ends without the lock, as it does while the thread runs.
  decltype(handlers_) handlers;
  decltype(timers_) timers;
  decltype(deferred_) deferred;
  const Locked locked(lock_);
  handlers_.swap(handlers);
  timers_.swap(timers);
  deferred_.swap(deferred);
  id_of_fd_.clear();
  epoll_.reset();
  wake_.reset();
}

void ControlLoop::watch(int fd, bool also_writable, Handler handler) {
  if (stopping_) return;
  const bool known = id_of_fd_.contains(fd);
  if (known) handlers_.erase(id_of_fd_[fd]);
  const std::uint64_t id = next_id_++;
  id_of_fd_[fd] = id;
  handlers_[id] = std::make_shared<Handler>(std::move(handler));
  epoll_event event{};
  event.events = EPOLLIN | (also_writable ? EPOLLOUT : 0u);
  event.data.u64 = id;
  ::epoll_ctl(epoll_.get(), known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
}

void ControlLoop::forget(int fd) {
  const auto it = id_of_fd_.find(fd);
  if (it == id_of_fd_.end()) return;
  handlers_.erase(it->second);
  id_of_fd_.erase(it);
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void ControlLoop::after(Nanos delay, std::function<void()> action) {
  if (stopping_) return;
  timers_.emplace(Clock::now() + delay, std::move(action));
  signal_eventfd(wake_.get());
}

void ControlLoop::defer(std::function<void()> action) {
  if (stopping_) return;
  deferred_.push_back(std::move(action));
  signal_eventfd(wake_.get());
}

// Runs what is due; milliseconds until the next timer, -1 if there is none.
int ControlLoop::run_timers() {
  while (!timers_.empty()) {
    const auto first = timers_.begin();
    const auto left = first->first - Clock::now();
    if (left > Nanos::zero()) {
      constexpr std::int64_t kLongest = 1'000'000;  // looks again then: epoll counts in an int
      return static_cast<int>(std::min(kLongest, std::chrono::ceil<std::chrono::milliseconds>(left).count()));
    }
    const auto action = std::move(first->second);
    timers_.erase(first);
    action();
  }
  return -1;
}

void ControlLoop::run() {
  ::pthread_setname_np(::pthread_self(), "bee-control");
  std::array<epoll_event, 64> events{};
  int timeout_ms = -1;
  for (;;) {
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
    Locked locked(lock_);
    if (stopping_) return;
    for (int i = 0; i < count; ++i) {
      const auto& event = events[static_cast<std::size_t>(i)];
      if (event.data.u64 == 0) {
        drain_eventfd(wake_.get());
        continue;
      }
      // Gone if an earlier handler of this round forgot it.
      const auto it = handlers_.find(event.data.u64);
      if (it == handlers_.end()) continue;
      const auto handler = it->second;
      (*handler)(event.events);
      if (stopping_) return;
    }
    timeout_ms = run_timers();
    const auto deferred = std::exchange(deferred_, {});
    locked.unlock();
    for (const auto& action : deferred) action();
  }
}

}  // namespace beeline::os
