// Monotonic time and deadlines. Every wait takes a Deadline and says what it waits for.
#pragma once

#include <chrono>
#include <compare>
#include <optional>

namespace beeline {

using Clock = std::chrono::steady_clock;
using Nanos = std::chrono::nanoseconds;

// A point in time, or never. A value type.
class Deadline {
 public:
  static Deadline never() { return Deadline(Clock::time_point::max()); }
  // A span that the clock cannot hold means never.
  static Deadline after(Nanos span) {
    const auto now = Clock::now();
    return span > Clock::time_point::max() - now ? never() : Deadline(now + span);
  }
  // Seconds as Python's timeouts give them; no value means never; negative counts as zero.
  static Deadline after_seconds(std::optional<double> seconds);

  [[nodiscard]] bool is_never() const { return at_ == Clock::time_point::max(); }
  [[nodiscard]] bool passed() const { return !is_never() && Clock::now() >= at_; }
  // Time left, zero once passed; never() gives Nanos::max().
  [[nodiscard]] Nanos left() const;
  [[nodiscard]] Clock::time_point at() const { return at_; }
  friend auto operator<=>(const Deadline&, const Deadline&) = default;

 private:
  explicit Deadline(Clock::time_point at) : at_(at) {}
  Clock::time_point at_;
};

}  // namespace beeline
