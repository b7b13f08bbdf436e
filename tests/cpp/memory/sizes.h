#pragma once

#include <cstdint>

namespace beeline::memory {

inline constexpr std::uint64_t kMiB = 1 << 20;

}  // namespace beeline::memory
