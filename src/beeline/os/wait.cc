#include "beeline/os/wait.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>

namespace beeline::os {

Result<std::shared_ptr<Cancellation>> Cancellation::make() {
  auto cancellation = std::make_shared<Cancellation>();
  BEELINE_ASSIGN(cancellation->event_, make_eventfd());
  return cancellation;
}

void Cancellation::cancel() {
  // Release: pairs with the acquire in is_cancelled().
  cancelled_.store(true, std::memory_order_release);
  signal_eventfd(event_.get());
}

Deadline Wait::tick() const {
  if (cancellation == nullptr && !interrupted) return deadline;
  const auto soon = Deadline::after(std::chrono::milliseconds(cancellation != nullptr ? 50 : 200));
  return std::min(soon, deadline);
}

Status Wait::check() const {
  if (cancellation != nullptr && cancellation->is_cancelled()) return {Code::kCancelled, "cancelled"};
  if (deadline.passed()) return {Code::kDeadlineExceeded, "the deadline passed"};
  return Status::ok();
}

Status wait_ready(int fd, short events, const Wait& wait, const char* what) {
  std::array<pollfd, 2> entries{};
  entries[0] = {fd, events, 0};
  nfds_t count = 1;
  if (wait.cancellation != nullptr) entries[count++] = {wait.cancellation->fd(), POLLIN, 0};
  for (;;) {
    BEELINE_RETURN_IF_ERROR(wait.check().with_context(std::string("while waiting for ") + what));
    int timeout_ms = -1;
    if (const Deadline until = wait.interrupted ? wait.tick() : wait.deadline; !until.is_never()) {
      constexpr std::int64_t kLongest = 1'000'000;  // looks again then: poll counts in an int
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(until.left()).count();
      timeout_ms = static_cast<int>(std::min<std::int64_t>(left, kLongest));
    }
    const int ready = ::poll(entries.data(), count, timeout_ms);
    if (ready > 0 && entries[0].revents != 0) return Status::ok();
    if (ready < 0 && errno != EINTR) return Status::from_errno(std::string("poll for ") + what, errno);
    if (ready <= 0 && wait.is_interrupted()) {
      return {Code::kInterrupted, std::string("a signal ended the wait for ") + what};
    }
  }
}

}  // namespace beeline::os
