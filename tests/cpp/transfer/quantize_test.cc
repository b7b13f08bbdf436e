// Blocks as float8_e4m3fn with a scale each: known values, and vector instructions against one element at a time.
#include "beeline/transfer/quantize.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "beeline/transfer/convert.h"
#include "poison.h"
#include "seed.h"

namespace beeline::transfer {
namespace {

constexpr float kNone = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinite = std::numeric_limits<float>::infinity();

struct Quantized {
  std::vector<std::byte> values;
  float scale = 0;
};

// One row of floats as one block.
Quantized of(const std::vector<float>& numbers) {
  Quantized quantized{std::vector<std::byte>(numbers.size(), kPoison)};
  const auto columns = static_cast<std::int64_t>(numbers.size());
  quantized.scale =
      Quantizer::of(kFloat32)->apply({quantized.values.data(), columns, 1},
                                     {reinterpret_cast<const std::byte*>(numbers.data()), 4 * columns, 4}, 1, columns);
  return quantized;
}

TEST(QuantizeTest, TheLargestMagnitudeBecomes448) {
  const auto [values, scale] = of({1.0F, -896.0F, 2.0F, 0.0F});
  EXPECT_EQ(scale, 2.0F);
  EXPECT_EQ(values, (std::vector{std::byte{0x30}, std::byte{0xFE}, std::byte{0x38}, std::byte{0}}));
}

TEST(QuantizeTest, ABlockWhoseScaleWouldBeZeroGetsOne) {
  EXPECT_EQ(of({0.0F, -0.0F}).scale, 1.0F);
  EXPECT_EQ(of({0.0F, -0.0F}).values, (std::vector{std::byte{0}, std::byte{0x80}}));
  EXPECT_EQ(of({0x1p-149F, 0.0F}).scale, 1.0F);
  EXPECT_EQ(of({448 * 0x1p-149F}).scale, 0x1p-149F);
}

TEST(QuantizeTest, WhatIsNoNumberIsSeen) {
  EXPECT_TRUE(std::isnan(of({1.0F, kNone, kInfinite}).scale));
  EXPECT_EQ(of({1.0F, kNone}).values, (std::vector{std::byte{0x7F}, std::byte{0x7F}}));
  EXPECT_EQ(of({1.0F, -kInfinite}).scale, kInfinite);
  EXPECT_EQ(of({1.0F, 2.0F, kInfinite}).values[0], std::byte{0});
}

TEST(QuantizeTest, ScalesAreCountedInBlocks) {
  const TensorSpec spec{kFloat32, {3, 300, 256}, {}};
  EXPECT_EQ(scales_of({128, 128}, spec).shape, (std::vector<std::int64_t>{3, 3, 2}));
  EXPECT_EQ(scales_of({1, 128}, spec).shape, (std::vector<std::int64_t>{3, 300, 2}));
  EXPECT_EQ(scales_of({1024, 1024}, spec).shape, (std::vector<std::int64_t>{3, 1, 1}));
  EXPECT_EQ(scales_of({128, 128}, {kFloat32, {0, 256}, {}}).shape, (std::vector<std::int64_t>{0, 2}));
}

TEST(QuantizeTest, WhatCannotBeQuantisedIsRefused) {
  EXPECT_TRUE(check({128, 128}, {kFloat32, {1, 1}, {}}));
  EXPECT_FALSE(check({128, 128}, {kFloat32, {7}, {}}));
  EXPECT_FALSE(check({0, 128}, {kFloat32, {7, 7}, {}}));
  EXPECT_FALSE(check({1, -1}, {kFloat32, {7, 7}, {}}));
  EXPECT_FALSE(check({1 << 20, 2}, {kFloat32, {7, 7}, {}}));
  EXPECT_FALSE(check({INT64_MAX, INT64_MAX}, {kFloat32, {7, 7}, {}}));
  const auto refused = Quantizer::of(kFloat64);
  ASSERT_EQ(refused.status().code(), Code::kInvalidArgument);
  EXPECT_NE(refused.status().message().find("these are: float32, bfloat16, float16"), std::string::npos);
}

// Blocks of any size and layout, from every dtype; nothing beside the block's elements is written.
TEST(QuantizeTest, AnyLayoutAndVectorsGiveWhatSingleElementsGive) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  const auto draw = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  for (int round = 0; round < 300; ++round) {
    const DType from = std::vector{kFloat32, kBFloat16, kFloat16}[static_cast<std::size_t>(round) % 3];
    const auto size = static_cast<std::int64_t>(from.bytes());
    const std::int64_t rows = draw(1, 40), columns = draw(1, round % 10 == 0 ? 700 : 150);
    // Row-major or column-major, with gaps or without, on either side.
    const auto strides = [&](std::int64_t element) {
      const std::int64_t gap = draw(1, 2);
      const bool by_rows = draw(0, 1) == 0;
      return by_rows ? std::pair{columns * gap * element, gap * element}
                     : std::pair{gap * element, rows * gap * element};
    };
    const auto [from_row, from_column] = strides(size);
    const auto [to_row, to_column] = strides(1);
    std::vector<std::byte> source(static_cast<std::size_t>(2 * rows * columns * size));
    for (auto& byte : source) byte = static_cast<std::byte>(random());
    const Grid<const std::byte> grid{source.data(), from_row, from_column};
    std::vector<std::byte> target(static_cast<std::size_t>(2 * rows * columns), kPoison);
    const float scale = Quantizer::of(from)->apply({target.data(), to_row, to_column}, grid, rows, columns);
    std::vector<std::byte> expected = target;
    // Each element alone, and none that should not be.
    for (auto& byte : expected) byte = kPoison;
    const float portable = Quantizer::portable(from)->apply({expected.data(), to_row, to_column}, grid, rows, columns);
    const auto bits = [](float value) { return std::bit_cast<std::uint32_t>(value); };
    ASSERT_EQ(bits(scale), bits(portable)) << "seed " << seed << ", round " << round;
    ASSERT_EQ(target, expected) << "seed " << seed << ", round " << round;
    std::vector<bool> touched(target.size());
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < columns; ++j) touched[static_cast<std::size_t>(i * to_row + j * to_column)] = true;
    }
    for (std::size_t i = 0; i < target.size(); ++i) {
      ASSERT_TRUE(touched[i] || target[i] == kPoison) << "seed " << seed << ", round " << round;
    }
  }
}

}  // namespace
}  // namespace beeline::transfer
