#include "beeline/base/clock.h"

#include <algorithm>

namespace beeline {

Deadline Deadline::after_seconds(std::optional<double> seconds) {
  // Beyond a century a deadline is never: the sum would overflow.
  constexpr double kCentury = 3.0e9;
  if (!seconds || *seconds > kCentury) return never();
  const double bounded = std::max(0.0, *seconds);
  return after(std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(bounded)));
}

Nanos Deadline::left() const {
  if (is_never()) return Nanos::max();
  return std::max(Nanos::zero(), std::chrono::duration_cast<Nanos>(at_ - Clock::now()));
}

}  // namespace beeline
