// Conversions of numbers: known values, and vector instructions against one element at a time. What torch makes of the
// same numbers is compared in tests/conformance.
#include "beeline/transfer/convert.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "poison.h"
#include "seed.h"

namespace beeline::transfer {
namespace {

constexpr std::array kFormats{kFloat64, kFloat32, kFloat16, kBFloat16, kFloat8E4M3, kFloat8E5M2};

std::vector<std::pair<DType, DType>> all_pairs() {
  std::vector<std::pair<DType, DType>> pairs;
  for (const DType from : kFormats) {
    for (const DType to : kFormats) {
      if (Conversion::of(from, to)) pairs.emplace_back(from, to);
    }
  }
  return pairs;
}

// Every pattern of 16 bits; of 32 bits every upper half with lower halves at and beside the ties of all targets.
std::vector<std::byte> patterns(DType from, std::mt19937_64& random) {
  std::vector<std::byte> bytes;
  const auto add = [&](auto bits) {
    const auto* const at = reinterpret_cast<const std::byte*>(&bits);
    bytes.insert(bytes.end(), at, at + sizeof bits);
  };
  for (std::uint32_t high = 0; high < 0x10000; ++high) {
    if (from.bits == 16) {
      add(static_cast<std::uint16_t>(high));
      continue;
    }
    for (const std::uint32_t low : {0u, 1u, 0x0FFFu, 0x1000u, 0x1001u, 0x3000u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu}) {
      const std::uint32_t bits = (high << 16) | low;
      if (from.bits == 32) add(bits);
      // Beside a float's ties, too.
      if (from.bits == 64) add((std::uint64_t{bits} << 32) | (low * 0x10001));
    }
    if (from.bits == 32) add((high << 16) | static_cast<std::uint32_t>(random() & 0xFFFF));
    if (from.bits == 64) add(random());
  }
  return bytes;
}

template <typename To, typename From>
To converted(DType from, DType to, From value) {
  const auto conversion = Conversion::of(from, to);
  EXPECT_TRUE(conversion.is_ok());
  To result{};
  conversion->apply(reinterpret_cast<std::byte*>(&result), reinterpret_cast<const std::byte*>(&value), 1);
  return result;
}

TEST(ConvertTest, ThePairsAreThese) {
  EXPECT_EQ(all_pairs().size(), 14u);
  const auto refused = Conversion::of({0, 64, 1}, kBFloat16);
  ASSERT_EQ(refused.status().code(), Code::kInvalidArgument);
  EXPECT_NE(refused.status().message().find("int64 is not converted to bfloat16"), std::string::npos);
  EXPECT_NE(refused.status().message().find("float32 to bfloat16, float16, float8_e4m3fn"), std::string::npos);
  EXPECT_FALSE(Conversion::of(kFloat32, kFloat32));
  EXPECT_FALSE(Conversion::of({2, 32, 4}, {4, 16, 4}));
}

TEST(ConvertTest, FloatsBecomeTheNearestBFloat16) {
  const auto of = [](std::uint32_t bits) { return converted<std::uint16_t>(kFloat32, kBFloat16, bits); };
  EXPECT_EQ(of(0x3F800000), 0x3F80);
  EXPECT_EQ(of(0x3F808000), 0x3F80);  // a tie goes to the even one
  EXPECT_EQ(of(0x3F818000), 0x3F82);
  EXPECT_EQ(of(0x3F808001), 0x3F81);
  EXPECT_EQ(of(0x7F7FFFFF), 0x7F80);  // the largest float becomes infinity
  EXPECT_EQ(of(0xFF800000), 0xFF80);
  EXPECT_EQ(of(0x00000001), 0x0000);
  EXPECT_EQ(of(0x80008001), 0x8001);  // subnormal
  EXPECT_EQ(of(0x7F800001), 0xFFFF);  // no number
  EXPECT_EQ(of(0x7FC00000), 0xFFFF);
  EXPECT_EQ((converted<std::uint16_t>(kFloat16, kBFloat16, std::uint16_t{0xFE00})), 0x7FC0);
}

TEST(ConvertTest, FloatsBecomeTheNearestFloat16) {
  const auto of = [](float value) { return converted<std::uint16_t>(kFloat32, kFloat16, value); };
  EXPECT_EQ(of(1.0F), 0x3C00);
  EXPECT_EQ(of(65504.0F), 0x7BFF);
  EXPECT_EQ(of(65519.996F), 0x7BFF);
  EXPECT_EQ(of(65520.0F), 0x7C00);
  EXPECT_EQ(of(-1e30F), 0xFC00);
  EXPECT_EQ(of(0x1p-24F), 0x0001);
  EXPECT_EQ(of(0x1p-25F), 0x0000);
  EXPECT_EQ(of(0x1.8p-24F), 0x0002);
  EXPECT_EQ(of(0x1.FFCp-15F), 0x03FF + 1);  // rounds up into the normal numbers
  EXPECT_EQ(of(-0.0F), 0x8000);
  EXPECT_EQ(of(std::bit_cast<float>(0xFFC02000)), 0xFE01);
}

TEST(ConvertTest, FloatsBecomeTheNearestFloat8) {
  const auto e4m3 = [](float value) { return converted<std::uint8_t>(kFloat32, kFloat8E4M3, value); };
  const auto e5m2 = [](float value) { return converted<std::uint8_t>(kFloat32, kFloat8E5M2, value); };
  const float none = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(e4m3(1.0F), 0x38);
  EXPECT_EQ(e4m3(448.0F), 0x7E);
  EXPECT_EQ(e4m3(464.0F), 0x7E);  // the tie with what would be 480
  EXPECT_EQ(e4m3(1e9F), 0x7E);
  EXPECT_EQ(e4m3(-infinity), 0xFE);
  EXPECT_EQ(e4m3(none), 0x7F);
  EXPECT_EQ(e4m3(-none), 0xFF);
  EXPECT_EQ(e4m3(0x1p-9F), 0x01);
  EXPECT_EQ(e4m3(0x1p-10F), 0x00);
  EXPECT_EQ(e4m3(-0x1.8p-10F), 0x81);
  EXPECT_EQ(e5m2(1.0F), 0x3C);
  EXPECT_EQ(e5m2(57344.0F), 0x7B);
  EXPECT_EQ(e5m2(61440.0F), 0x7C);
  EXPECT_EQ(e5m2(infinity), 0x7C);
  EXPECT_EQ(e5m2(-none), 0xFF);
  EXPECT_EQ(e5m2(0x1p-16F), 0x01);
  EXPECT_EQ(e5m2(0x1p-17F), 0x00);
}

TEST(ConvertTest, WhatIsWiderIsExact) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const auto exponent = static_cast<int>((bits >> 10) & 0x1F);
    const auto value = converted<float>(kFloat16, kFloat32, half);
    const float mantissa = static_cast<float>(bits & 0x3FF);
    float magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31) magnitude = std::numeric_limits<float>::infinity();
    if (exponent == 31 && mantissa != 0) {
      ASSERT_TRUE(std::isnan(value)) << bits;
    } else {
      ASSERT_EQ(std::abs(value), magnitude) << bits;
    }
    ASSERT_EQ(std::signbit(value), bits >= 0x8000) << bits;
    if (std::isnan(value)) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(value) & 0x7FFFFF, 0x400000 | (bits & 0x3FF) << 13);
    }
    ASSERT_EQ(converted<std::uint32_t>(kBFloat16, kFloat32, half), bits << 16);
  }
}

TEST(ConvertTest, VectorsGiveWhatSingleElementsGive) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  for (const auto& [from, to] : all_pairs()) {
    const auto source = patterns(from, random);
    const std::size_t count = source.size() / from.bytes();
    std::vector<std::byte> one_by_one(count * to.bytes(), kPoison);
    Conversion::portable(from, to)->apply(one_by_one.data(), source.data(), count);
    for (const Stores stores : {Stores::kCached, Stores::kPastCaches}) {
      std::vector<std::byte> vectors(count * to.bytes(), kPoison);
      Conversion::of(from, to)->apply(vectors.data(), source.data(), count, stores);
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t size = to.bytes();
        ASSERT_EQ(std::memcmp(vectors.data() + i * size, one_by_one.data() + i * size, size), 0)
            << name_of(from) << " to " << name_of(to) << ", element " << i << ", seed " << seed;
      }
    }
  }
}

// All lengths about those of vectors, at every alignment of the target; nothing beside the target is written.
TEST(ConvertTest, AnyLengthAndAlignment) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  for (const auto& [from, to] : all_pairs()) {
    const auto conversion = Conversion::of(from, to);
    for (std::size_t count = 0; count < 70; ++count) {
      const std::size_t before = random() % 32 / to.bytes() * to.bytes() + (random() % 8 == 0 ? 1 : 0);
      std::vector<std::byte> source(count * from.bytes());
      for (auto& byte : source) byte = static_cast<std::byte>(random());
      const std::size_t end = before + count * to.bytes();
      std::vector<std::byte> expected(end + 40, kPoison);
      Conversion::portable(from, to)->apply(expected.data() + before, source.data(), count);
      for (const Stores stores : {Stores::kCached, Stores::kPastCaches}) {
        std::vector<std::byte> target(end + 40, kPoison);
        conversion->apply(target.data() + before, source.data(), count, stores);
        ASSERT_EQ(target, expected) << name_of(from) << " to " << name_of(to) << ", " << count << ", seed " << seed;
      }
    }
  }
}

TEST(ConvertTest, ElementsThatLieApart) {
  std::vector<float> source(3000);
  for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<float>(i) * 0.37F;
  const auto conversion = Conversion::of(kFloat32, kBFloat16);
  std::vector<std::uint16_t> target(2000, 0xEEEE);
  // Every third one, into every other place, from the end on.
  conversion->apply_strided(reinterpret_cast<std::byte*>(&target[1998]), -4,
                            reinterpret_cast<std::byte*>(source.data()), 12, 1000);
  for (std::size_t i = 0; i < 1000; ++i) {
    ASSERT_EQ(target[1998 - 2 * i], converted<std::uint16_t>(kFloat32, kBFloat16, source[3 * i])) << i;
    ASSERT_EQ(target[2 * i + 1], 0xEEEE);
  }
}

}  // namespace
}  // namespace beeline::transfer
