// A set of page numbers with predecessor and successor search in a few steps: one bit per page, and one
// bit per word of the level below. The memory is the caller's and starts zeroed; untouched parts of it cost
// nothing. Not thread-safe.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace beeline::memory {

class PageIndex {
 public:
  static constexpr std::uint32_t kNone = 0xffffffffu;

  static constexpr std::size_t words_for(std::uint32_t pages) {
    std::size_t total = 0;
    std::size_t words = pages;
    for (int level = 0; level < kLevels; ++level) {
      words = (words + 63) / 64;
      total += words;
    }
    return total;
  }

  void init(std::uint64_t* memory, std::uint32_t pages) {
    std::size_t words = pages;
    for (auto& level : levels_) {
      words = (words + 63) / 64;
      level = memory;
      memory += words;
    }
  }

  void insert(std::uint32_t page) {
    std::uint64_t at = page;
    for (auto* level : levels_) {
      level[at / 64] |= std::uint64_t{1} << (at % 64);
      at /= 64;
    }
  }

  void erase(std::uint32_t page) {
    std::uint64_t at = page;
    for (auto* level : levels_) {
      level[at / 64] &= ~(std::uint64_t{1} << (at % 64));
      if (level[at / 64] != 0) return;
      at /= 64;
    }
  }

  // The largest member <= page, or kNone.
  [[nodiscard]] std::uint32_t at_or_before(std::uint32_t page) const {
    std::uint64_t at = page;
    for (int level = 0; level < kLevels; ++level) {
      const std::uint64_t below = levels_[level][at / 64] & (~std::uint64_t{0} >> (63 - at % 64));
      if (below != 0) return descend(level, at / 64 * 64 + 63 - static_cast<unsigned>(std::countl_zero(below)));
      if (at / 64 == 0) return kNone;
      at = at / 64 - 1;
    }
    return kNone;
  }

 private:
  static constexpr int kLevels = 6;  // 64^6 > 2^32

  [[nodiscard]] std::uint32_t descend(int level, std::uint64_t at) const {
    while (level-- > 0) at = at * 64 + 63 - static_cast<unsigned>(std::countl_zero(levels_[level][at]));
    return static_cast<std::uint32_t>(at);
  }

  std::uint64_t* levels_[kLevels] = {};
};

}  // namespace beeline::memory
