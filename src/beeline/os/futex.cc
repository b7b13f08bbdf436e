#include "beeline/os/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>

namespace beeline::os {

FutexWait futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, Deadline deadline) {
  timespec limit{};
  timespec* limit_pointer = nullptr;
  if (!deadline.is_never()) {
    const auto left = deadline.left();
    if (left <= Nanos::zero()) return FutexWait::kTimedOut;
    limit.tv_sec = static_cast<time_t>(left.count() / 1'000'000'000);
    limit.tv_nsec = static_cast<long>(left.count() % 1'000'000'000);
    limit_pointer = &limit;
  }
  const long result =
      ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAIT, expected, limit_pointer, nullptr, 0);
  if (result == 0) return FutexWait::kWoken;
  if (errno == ETIMEDOUT) return FutexWait::kTimedOut;
  return errno == EINTR ? FutexWait::kInterrupted : FutexWait::kWoken;
}

void futex_wake(std::atomic<std::uint32_t>& word, int count) {
  ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE, count, nullptr, nullptr, 0);
}

}  // namespace beeline::os
