// How a test steers the emulator of NIXL that its process has loaded.
#pragma once

#include <cstdint>

namespace nixl_emulator {

enum class Mode : std::int32_t {
  kPrompt,   // transfers are done when they are looked at for the third time
  kHeld,     // they stay under way, also those that were released, until the mode is another one
  kFailing,  // they fail when they are looked at; what was held stays so
};

struct Counts {
  std::uint64_t agents = 0;      // now
  std::uint64_t registered = 0;  // pieces of memory, now
  std::uint64_t under_way = 0;   // transfers that wait to move, with those that were released
  std::uint64_t late = 0;        // that moved after they had been released
};

}  // namespace nixl_emulator

extern "C" {
using nixl_emulator_set_mode_t = void (*)(nixl_emulator::Mode mode);
using nixl_emulator_counts_t = nixl_emulator::Counts (*)();
}
