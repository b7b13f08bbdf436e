// Size classes of the arena's blocks, in pages: exact up to 8 pages, then eight steps per doubling, so that
// rounding up wastes less than 12.5 %.
#pragma once

#include <bit>
#include <cstdint>

namespace beeline::memory {

inline constexpr std::uint32_t kSizeClasses = 256;

// The largest class that is <= pages (pages > 0).
constexpr std::uint32_t class_of(std::uint32_t pages) {
  if (pages < 8) return pages;
  const std::uint32_t exponent = 31 - static_cast<std::uint32_t>(std::countl_zero(pages));
  return (exponent - 2) * 8 + ((pages >> (exponent - 3)) & 7);
}

// The smallest size of a class that is >= pages. Pages below 2^31.
constexpr std::uint32_t class_ceil(std::uint32_t pages) {
  if (pages <= 8) return pages;
  const std::uint32_t exponent = 31 - static_cast<std::uint32_t>(std::countl_zero(pages));
  const std::uint32_t step = 1u << (exponent - 3);
  return (pages + step - 1) & ~(step - 1);
}

static_assert(class_of(7) == 7 && class_of(8) == 8 && class_of(15) == 15 && class_of(16) == 16);
static_assert(class_of(0xffffffffu) < kSizeClasses);
static_assert(class_ceil(17) == 18 && class_ceil(512) == 512 && class_ceil(513) == 576);

}  // namespace beeline::memory
