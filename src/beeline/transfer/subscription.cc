#include "beeline/transfer/subscription.h"

#include <climits>
#include <utility>

#include "beeline/os/futex.h"

namespace beeline::transfer {

Result<Version> Subscription::newer_than(std::uint64_t number, const os::Wait& wait) {
  for (;;) {
    // Before the look: what changes after it makes the sleep end at once.
    const std::uint32_t ticket = changes_.load();
    {
      const std::lock_guard guard(mutex_);
      if (latest_.number > number) return latest_;
      if (!ended_) return ended_;
    }
    BEELINE_RETURN_IF_ERROR(
        wait.check().with_context("while waiting for a version of \"" + name_ + "\" after " + std::to_string(number)));
    os::futex_wait(changes_, ticket, wait.tick());
    if (wait.is_interrupted()) {
      return Status(Code::kInterrupted, "a signal ended the wait for a version of \"" + name_ + "\"");
    }
  }
}

Version Subscription::latest() const {
  const std::lock_guard guard(mutex_);
  return latest_;
}

// A version that its publisher drops while it is read is passed over: its successor is on its way.
Result<Version> Subscription::nearest_newer_than(std::uint64_t number, const os::Wait& wait) {
  for (;;) {
    BEELINE_ASSIGN(const Version version, newer_than(number, wait));
    auto nearest = relay_->obtain(version, wait);
    if (nearest || nearest.status().code() != Code::kStale) return nearest;
    number = version.number;
  }
}

Version Subscription::nearest_latest() const {
  const Version told = latest();
  return told.number > 0 && relay_->needs_copies() ? relay_->latest() : told;
}

void Subscription::start_relaying(std::weak_ptr<Agent> agent, std::shared_ptr<Peer> publisher) {
  if (relay_ == nullptr) relay_ = std::make_unique<Relay>(name_, std::move(agent), std::move(publisher));
}

void Subscription::publish(Version version) {
  {
    const std::lock_guard guard(mutex_);
    if (version.number <= latest_.number) return;
    latest_ = std::move(version);
  }
  changes_.fetch_add(1);
  os::futex_wake(changes_, INT_MAX);
}

void Subscription::withdraw() {
  const std::lock_guard guard(mutex_);
  latest_ = {};
}

void Subscription::end(const Status& why) {
  if (relay_ != nullptr) relay_->end(why);
  {
    const std::lock_guard guard(mutex_);
    if (!ended_) return;
    ended_ = why;
  }
  changes_.fetch_add(1);
  os::futex_wake(changes_, INT_MAX);
}

}  // namespace beeline::transfer
