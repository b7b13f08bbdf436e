// What bounds a call that waits.
#pragma once

#include <chrono>
#include <memory>
#include <optional>

#include "beeline/base/export.h"
#include "beeline/base/status.h"

namespace beeline::api {

struct Access;

// Ends, once and for all, the waits that it was given to: they return kCancelled soon. Copies are the same one.
// Thread-safe.
class BEELINE_API Cancellation {
 public:
  // kSystem where the process has no file descriptor left.
  static Result<Cancellation> make();

  // Returns at once. A transfer has stopped writing when its call has returned.
  void cancel() const;
  [[nodiscard]] bool is_cancelled() const;

 private:
  friend struct Access;
  struct Impl;
  explicit Cancellation(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;
};

// None: for ever.
using Timeout = std::optional<std::chrono::nanoseconds>;
inline constexpr Timeout kTimeout = std::chrono::seconds(60);

// kDeadlineExceeded after `timeout`.
struct Wait {
  Timeout timeout = kTimeout;
  const Cancellation* cancellation = nullptr;  // borrowed for the call
};

}  // namespace beeline::api
