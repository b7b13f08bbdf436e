// A lock of one word that allocates nothing and may be held across fork(): whoever holds it in the parent
// holds it in the child. Not recursive. Meets BasicLockable, for std::lock_guard.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace beeline::os {

class ForkableLock {
 public:
  void lock() {
    std::uint32_t seen = kFree;
    // Acquire: pairs with the release in unlock().
    if (word_.compare_exchange_strong(seen, kHeld, std::memory_order_acquire, std::memory_order_relaxed)) return;
    // Says that somebody may sleep, so that unlock() wakes; acquire pairs with unlock() as above.
    while (word_.exchange(kContended, std::memory_order_acquire) != kFree) {
      ::syscall(SYS_futex, &word_, FUTEX_WAIT_PRIVATE, kContended, nullptr, nullptr, 0);
    }
  }
  void unlock() {
    // Release: pairs with the acquire in lock().
    if (word_.exchange(kFree, std::memory_order_release) == kContended) {
      ::syscall(SYS_futex, &word_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
    }
  }

 private:
  static constexpr std::uint32_t kFree = 0;
  static constexpr std::uint32_t kHeld = 1;
  static constexpr std::uint32_t kContended = 2;
  std::atomic<std::uint32_t> word_{kFree};
};

}  // namespace beeline::os
