// Sleeping on a 32-bit word, in one process or across processes.
#pragma once

#include <atomic>
#include <cstdint>

#include "beeline/base/clock.h"

namespace beeline::os {

enum class FutexWait { kWoken, kTimedOut, kInterrupted };

// Sleeps while `word` == `expected`, until a wake, the deadline, or a signal. Spurious wakes are possible:
// callers re-check their condition. `word` may lie in shared memory.
FutexWait futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, Deadline deadline);
// Wakes at most `count` sleepers.
void futex_wake(std::atomic<std::uint32_t>& word, int count);

}  // namespace beeline::os
