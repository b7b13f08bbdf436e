// Deadlines at the edges of what callers give: none, negative, not a number, beyond the clock's range.
#include "beeline/base/clock.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace beeline {
namespace {

TEST(DeadlineTest, NeverIsNeverPassed) {
  EXPECT_TRUE(Deadline::never().is_never());
  EXPECT_FALSE(Deadline::never().passed());
  EXPECT_EQ(Deadline::never().left(), Nanos::max());
  EXPECT_TRUE(Deadline::after_seconds(std::nullopt).is_never());
}

TEST(DeadlineTest, ZeroAndNegativeHavePassed) {
  for (const double seconds : {0.0, -1.0, -1e300, -std::numeric_limits<double>::infinity()}) {
    const auto deadline = Deadline::after_seconds(seconds);
    EXPECT_TRUE(deadline.passed()) << seconds;
    EXPECT_EQ(deadline.left(), Nanos::zero()) << seconds;
  }
  EXPECT_TRUE(Deadline::after_seconds(std::nan("")).passed());
}

TEST(DeadlineTest, WhatTheClockCannotHoldIsNever) {
  EXPECT_TRUE(Deadline::after_seconds(1e300).is_never());
  EXPECT_TRUE(Deadline::after_seconds(std::numeric_limits<double>::infinity()).is_never());
  EXPECT_TRUE(Deadline::after(Nanos::max()).is_never());
  EXPECT_FALSE(Deadline::after(Nanos::max() - std::chrono::seconds(1)).passed());
}

TEST(DeadlineTest, TimeLeftIsWhatWasGivenLessWhatWent) {
  const auto before = Clock::now();
  const auto deadline = Deadline::after(std::chrono::hours(1));
  const auto left = deadline.left();
  EXPECT_LE(left, std::chrono::hours(1));
  EXPECT_GE(left + (Clock::now() - before), std::chrono::hours(1));
  EXPECT_FALSE(deadline.passed());
}

}  // namespace
}  // namespace beeline
