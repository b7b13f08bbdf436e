#include "beeline/memory/copy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "memory/sizes.h"
#include "seed.h"

namespace beeline::memory {
namespace {

constexpr std::byte kUntouched{0xee};

// Small ones, and large ones that go past the caches.
TEST(CopyTest, CopiesEveryByteAndNoMoreAtAnyAlignment) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  std::vector<std::byte> source(20 * kMiB);
  for (std::size_t i = 0; i + 8 <= source.size(); i += 8) {
    const std::uint64_t word = random();
    std::copy_n(reinterpret_cast<const std::byte*>(&word), 8, &source[i]);
  }
  std::vector<std::byte> target(source.size() + 256);
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{100'000}, 16 * kMiB - 1, 16 * kMiB,
                                 16 * kMiB + 1, 17 * kMiB + 63}) {
    const std::size_t from = random() % 128;
    const std::size_t to = random() % 128;
    std::fill(target.begin(), target.end(), kUntouched);
    copy_bytes(&target[to], &source[from], size);
    EXPECT_TRUE(std::equal(source.begin() + static_cast<std::ptrdiff_t>(from),
                           source.begin() + static_cast<std::ptrdiff_t>(from + size),
                           target.begin() + static_cast<std::ptrdiff_t>(to)))
        << size << " bytes from " << from << " to " << to;
    EXPECT_EQ(static_cast<std::size_t>(
                  std::count(target.begin(), target.begin() + static_cast<std::ptrdiff_t>(to), kUntouched)),
              to);
    EXPECT_TRUE(std::all_of(target.begin() + static_cast<std::ptrdiff_t>(to + size), target.end(),
                            [](std::byte byte) { return byte == kUntouched; }));
  }
}

}  // namespace
}  // namespace beeline::memory
