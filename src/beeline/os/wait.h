// What bounds a wait, and waiting for a descriptor within those bounds.
#pragma once

#include <atomic>
#include <memory>

#include "beeline/base/clock.h"
#include "beeline/base/function_ref.h"
#include "beeline/base/status.h"
#include "beeline/os/fd.h"

namespace beeline::os {

// Ends, once and for all, the waits that look at it. Thread-safe.
class Cancellation {
 public:
  static Result<std::shared_ptr<Cancellation>> make();

  void cancel();
  // Acquire: pairs with the release in cancel().
  [[nodiscard]] bool is_cancelled() const { return cancelled_.load(std::memory_order_acquire); }
  // Readable from cancel() on.
  [[nodiscard]] int fd() const { return event_.get(); }

 private:
  std::atomic<bool> cancelled_{false};
  Fd event_;
};

// A value that borrows: it is passed down for the time of a call.
struct Wait {
  Wait() = default;
  Wait(Deadline until) : deadline(until) {}  // NOLINT(google-explicit-constructor): most waits have no more

  Deadline deadline = Deadline::never();
  const Cancellation* cancellation = nullptr;
  FunctionRef<bool()> interrupted = nullptr;  // asked after a signal on the calling thread: true ends the wait

  // How long to sleep at most before looking again. A signal that arrives just before the sleep does not end it, and a
  // futex knows nothing of a cancellation.
  [[nodiscard]] Deadline tick() const;
  // Whether what a signal's handler did ends the wait.
  [[nodiscard]] bool is_interrupted() const { return interrupted && interrupted(); }
  // kOk to go on, else kDeadlineExceeded or kCancelled.
  [[nodiscard]] Status check() const;
};

// Until `events` (POLLIN, POLLOUT), an error or a hang-up are at `fd`. kDeadlineExceeded, kCancelled or kInterrupted
// otherwise; messages say `what` was waited for.
Status wait_ready(int fd, short events, const Wait& wait, const char* what);

}  // namespace beeline::os
