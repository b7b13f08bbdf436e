// Whatever runs there are: cut into requests they are the same pieces, in order, within the limits.
#include "beeline/transport/cutter.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "seed.h"

namespace beeline::transport {
namespace {

struct Byte {
  std::uint64_t offset = 0;
  const std::byte* local = nullptr;
  friend bool operator==(const Byte&, const Byte&) = default;
};

void append(std::vector<Byte>& bytes, std::uint64_t offset, const std::byte* local, std::uint64_t length,
            std::uint64_t count, std::uint64_t stride, std::uint64_t local_stride) {
  for (std::uint64_t i = 0; i < count; ++i) {
    for (std::uint64_t k = 0; k < length; ++k) bytes.push_back({offset + i * stride + k, local + i * local_stride + k});
  }
}

TEST(CutterTest, RequestsHoldAllBytesInOrderAndNoMoreThanTheyMay) {
  std::mt19937_64 random(test_seed());
  const auto up_to = [&](std::uint64_t limit) { return random() % (limit + 1); };
  std::vector<std::byte> memory(1 << 16);
  for (int round = 0; round < 300; ++round) {
    const RequestLimits limits{1 + up_to(5), 1 + up_to(40), 1 + up_to(9)};
    std::vector<transport::Run> runs;
    std::vector<Byte> expected;
    for (std::uint64_t n = up_to(6); n > 0; --n) {
      const std::uint64_t length = up_to(50);
      const transport::Run run{nullptr,   up_to(1000),      memory.data() + up_to(1000), length, up_to(12),
                               up_to(80), length + up_to(9)};
      append(expected, run.offset, run.local, run.length, run.count, run.stride, run.local_stride);
      runs.push_back(run);
    }
    Cutter<transport::Run> cutter(runs, limits);
    std::vector<Byte> got;
    for (std::vector<Part> parts; cutter.next(parts);) {
      std::uint64_t bytes = 0, pieces = 0;
      for (const Part& part : parts) {
        ASSERT_GT(part.bytes(), 0u);
        append(got, part.offset, part.local, part.length, part.count, part.stride, part.local_stride);
        bytes += part.bytes();
        pieces += part.count;
      }
      ASSERT_LE(parts.size(), limits.parts);
      ASSERT_LE(bytes, limits.bytes);
      ASSERT_LE(pieces, limits.pieces);
    }
    ASSERT_EQ(got, expected) << "round " << round;
  }
}

}  // namespace
}  // namespace beeline::transport
