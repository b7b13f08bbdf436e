#include "beeline/transfer/notifications.h"

#include <climits>
#include <utility>

#include "beeline/os/futex.h"

namespace beeline::transfer {

Result<std::shared_ptr<Notifications>> Notifications::make(std::string topic, std::size_t limit, WhenFull when_full) {
  if (limit == 0) return Status(Code::kInvalidArgument, "a limit of 0 lets no notification in");
  std::shared_ptr<Notifications> made(new Notifications(std::move(topic), limit, when_full));
  BEELINE_ASSIGN(made->event_, os::make_eventfd());
  return made;
}

std::optional<Notification> Notifications::take() {
  if (waiting_.empty()) return std::nullopt;
  Notification first = std::move(waiting_.front());
  waiting_.pop_front();
  return first;
}

Result<Notification> Notifications::next(const os::Wait& wait) {
  for (;;) {
    // Before the look: what changes after it makes the sleep end at once.
    const std::uint32_t ticket = changes_.load();
    {
      const std::lock_guard guard(mutex_);
      if (auto first = take()) return std::move(*first);
      if (!ended_) return ended_;
    }
    BEELINE_RETURN_IF_ERROR(wait.check().with_context("while waiting for a notification of topic \"" + topic_ + "\""));
    os::futex_wait(changes_, ticket, wait.tick());
    if (wait.is_interrupted()) {
      return Status(Code::kInterrupted, "a signal ended the wait for a notification of topic \"" + topic_ + "\"");
    }
  }
}

std::optional<Notification> Notifications::poll() {
  const std::lock_guard guard(mutex_);
  return take();
}

Status Notifications::ended() const {
  const std::lock_guard guard(mutex_);
  return ended_;
}

Notifications::Stats Notifications::stats() const {
  const std::lock_guard guard(mutex_);
  return {waiting_.size(), refused_, dropped_};
}

void Notifications::wake() {
  changes_.fetch_add(1);
  os::futex_wake(changes_, INT_MAX);
  os::signal_eventfd(event_.get());
}

Status Notifications::add(Notification notification) {
  {
    const std::lock_guard guard(mutex_);
    if (waiting_.size() == limit_ && when_full_ == WhenFull::kRefuse) {
      ++refused_;
      return {Code::kResourceExhausted, std::to_string(limit_) + " notifications of topic \"" + topic_ +
                                            "\" wait there, its limit: send again once some were taken"};
    }
    if (waiting_.size() == limit_) {
      waiting_.pop_front();
      ++dropped_;
    }
    waiting_.push_back(std::move(notification));
  }
  wake();
  return Status::ok();
}

void Notifications::end(const Status& why) {
  {
    const std::lock_guard guard(mutex_);
    if (!ended_) return;
    ended_ = why;
  }
  wake();
}

}  // namespace beeline::transfer
