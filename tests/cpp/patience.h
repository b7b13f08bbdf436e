// How long a test waits for what must come: enough for a busy machine and a sanitizer.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "beeline/base/clock.h"
#include "beeline/os/wait.h"

namespace beeline {

inline constexpr auto kPatience = std::chrono::seconds(20);

// For operations that take a Wait, from now on; before the watchdog of the test ends it.
inline os::Wait patience() {
  return os::Wait(Deadline::after(std::chrono::seconds(100)));
}

// Looks again and again.
template <typename Done>
void wait_until(Done&& done) {
  const os::Wait wait = patience();
  while (!done()) {
    ASSERT_FALSE(wait.deadline.passed());
    std::this_thread::yield();
  }
}

}  // namespace beeline
