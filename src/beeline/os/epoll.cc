#include "beeline/os/epoll.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace beeline::os {

Result<EventLoop> EventLoop::make() {
  EventLoop loop;
  loop.epoll_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!loop.epoll_.is_open()) return Status::from_errno("epoll_create1", errno);
  return loop;
}

Status EventLoop::watch(int fd, std::uint32_t events, Handler handler) {
  const std::uint64_t id = next_id_++;
  epoll_event event{};
  event.events = events;
  event.data.u64 = id;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return Status::from_errno("watch descriptor " + std::to_string(fd), errno);
  }
  watches_[id] = std::make_shared<Watch>(Watch{fd, events, std::move(handler)});
  id_of_fd_[fd] = id;
  return Status::ok();
}

Status EventLoop::change(int fd, std::uint32_t events) {
  const auto found = id_of_fd_.find(fd);
  if (found == id_of_fd_.end()) return {Code::kNotFound, "descriptor " + std::to_string(fd) + " is not watched"};
  auto& watch = *watches_.at(found->second);
  if (watch.events == events) return Status::ok();
  epoll_event event{};
  event.events = events;
  event.data.u64 = found->second;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) != 0) {
    return Status::from_errno("change the watch of descriptor " + std::to_string(fd), errno);
  }
  watch.events = events;
  return Status::ok();
}

void EventLoop::forget(int fd) {
  const auto found = id_of_fd_.find(fd);
  if (found == id_of_fd_.end()) return;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  watches_.erase(found->second);
  id_of_fd_.erase(found);
}

EventLoop::TimerId EventLoop::after(Nanos delay, std::function<void()> action) {
  const TimerId id = next_id_++;
  const auto at = Clock::now() + delay;
  timers_.emplace(id, Timer{at, std::move(action)});
  due_.emplace(at, id);
  return id;
}

void EventLoop::cancel(TimerId timer) {
  const auto found = timers_.find(timer);
  if (found == timers_.end()) return;
  const auto [first, last] = due_.equal_range(found->second.at);
  for (auto entry = first; entry != last; ++entry) {
    if (entry->second == timer) {
      due_.erase(entry);
      break;
    }
  }
  timers_.erase(found);
}

void EventLoop::run_timers() {
  const auto now = Clock::now();
  while (!due_.empty() && due_.begin()->first <= now) {
    const TimerId id = due_.begin()->second;
    due_.erase(due_.begin());
    const auto action = std::move(timers_.at(id).action);
    timers_.erase(id);
    action();
  }
}

Status EventLoop::run_once(Deadline deadline) {
  auto until = deadline.at();
  if (!due_.empty()) until = std::min(until, due_.begin()->first);
  int timeout_ms = -1;
  if (until != Clock::time_point::max()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
    timeout_ms = static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000));
  }
  std::array<epoll_event, 64> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  if (count < 0 && errno != EINTR) return Status::from_errno("epoll_wait", errno);
  for (int i = 0; i < count; ++i) {
    const auto found = watches_.find(events[static_cast<std::size_t>(i)].data.u64);
    if (found == watches_.end()) continue;
    const auto watch = found->second;  // the handler may forget itself
    watch->handler(events[static_cast<std::size_t>(i)].events);
  }
  run_timers();
  return Status::ok();
}

}  // namespace beeline::os
