// Slices, and the runs by which tensors of one layout become tensors of another: checked against walking all indices.
#include "beeline/transfer/tensor.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <numeric>
#include <random>

#include "seed.h"

namespace beeline::transfer {
namespace {

using transport::Region;

constexpr DType kFloat{2, 32, 1};
constexpr DType kByte{1, 8, 1};

Region region_of(std::uint64_t length) {
  Region region;
  region.length = length;
  return region;
}

TensorSpec dense(std::vector<std::int64_t> shape, DType dtype = kFloat) {
  return {dtype, std::move(shape), {}};
}

std::vector<transport::Run> runs_of(const Region& region, std::uint64_t offset, const TensorSpec& spec,
                                    std::byte* local, std::span<const std::int64_t> local_strides = {}) {
  std::vector<transport::Run> runs;
  append_runs(region, offset, spec, local, local_strides, runs);
  return runs;
}

TEST(TensorTest, ADenseTensorIsOneRun) {
  const Region region = region_of(4096);
  std::byte local{};
  const auto runs = runs_of(region, 64, dense({4, 3, 5}), &local);
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0].length, 240u);
  EXPECT_EQ(runs[0].count, 1u);
  EXPECT_EQ(runs[0].offset, 64u);
}

TEST(TensorTest, ColumnsAreOneRunOfMany) {
  const Region region = region_of(4096);
  std::byte local{};
  std::int64_t offset = 0;
  const std::array<Slice, 2> columns{Slice{0, 1, 8}, Slice{2, 1, 3}};
  const auto part = slice(dense({8, 16}), columns, offset);
  ASSERT_TRUE(part.is_ok());
  EXPECT_EQ(offset, 8);
  const auto runs = runs_of(region, 8, *part, &local);
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0].length, 12u);
  EXPECT_EQ(runs[0].count, 8u);
  EXPECT_EQ(runs[0].stride, 64u);
  EXPECT_EQ(runs[0].local_stride, 12u);
}

TEST(TensorTest, ATransposedTensorIsOneRunIntoOneLaidOutLikewise) {
  const Region region = region_of(4096);
  std::byte local{};
  const TensorSpec transposed{kFloat, {16, 8}, {1, 16}};
  // Into one that is laid out likewise.
  const std::array<std::int64_t, 2> likewise{1, 16};
  const auto whole = runs_of(region, 0, transposed, &local, likewise);
  ASSERT_EQ(whole.size(), 1u);
  EXPECT_EQ(whole[0].length, 16u * 8 * 4);
  // Into a row-major one: by the longer dimension.
  EXPECT_EQ(runs_of(region, 0, transposed, &local).size(), 8u);
}

TEST(TensorTest, AnExpandedTensorIsReadByRows) {
  const Region region = region_of(4096);
  std::byte local{};
  const auto runs = runs_of(region, 0, {kFloat, {5, 8}, {0, 1}}, &local);
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0].length, 32u);
  EXPECT_EQ(runs[0].count, 5u);
  EXPECT_EQ(runs[0].stride, 0u);
}

TEST(TensorTest, StridesArePreservedAsTorchDoes) {
  using Strides = std::vector<std::int64_t>;
  const auto preserved = [](std::vector<std::int64_t> shape, Strides strides) {
    return preserved_strides({kFloat, std::move(shape), std::move(strides)});
  };
  EXPECT_EQ(preserved({2, 3}, {}), Strides());
  EXPECT_EQ(preserved({2, 3}, {1, 2}), Strides({1, 2}));
  EXPECT_EQ(preserved({2, 3, 4, 5}, {60, 1, 15, 3}), Strides({60, 1, 15, 3}));  // channels last
  EXPECT_EQ(preserved({2, 1, 3}, {1, 77, 2}), Strides({1, 77, 2}));
  // What torch.empty_like() gives where there are gaps, or an element is in several places.
  EXPECT_EQ(preserved({2, 3}, {6, 2}), Strides());
  EXPECT_EQ(preserved({3, 4}, {2, 6}), Strides({1, 3}));
  EXPECT_EQ(preserved({2, 4, 3}, {2, 12, 4}), Strides({1, 6, 2}));
  EXPECT_EQ(preserved({8, 2, 4, 5}, {60, 1, 15, 3}), Strides({40, 1, 10, 2}));
  EXPECT_EQ(preserved({3, 5}, {0, 1}), Strides());
  EXPECT_EQ(preserved({4, 5}, {1, 1}), Strides({1, 4}));
  EXPECT_EQ(preserved({3, 2}, {-1, -3}), Strides({1, 3}));
  EXPECT_EQ(preserved({0, 3, 4}, {4, 4, 1}), Strides());
  EXPECT_EQ(preserved({1, 3}, {-3, 1}), Strides());
}

TEST(TensorTest, ScalarsAndEmptyTensors) {
  const Region region = region_of(4);
  std::byte local{};
  EXPECT_EQ(runs_of(region, 0, dense({}), &local).size(), 1u);
  EXPECT_TRUE(runs_of(region, 0, dense({3, 0, 2}), &local).empty());
  EXPECT_EQ(extent_of(dense({3, 0})).end, 0);
}

TEST(TensorTest, WhatIsNoTensorIsRefused) {
  EXPECT_FALSE(check({{2, 4, 1}, {2}, {}}));                                     // half a byte
  EXPECT_FALSE(check({kFloat, {-1}, {}}));                                       // negative
  EXPECT_FALSE(check({kFloat, {2, 2}, {1}}));                                    // strides of another tensor
  EXPECT_FALSE(check(dense({INT64_MAX, INT64_MAX})));                            // overflows
  EXPECT_FALSE(check({kFloat, {2}, {INT64_MIN}}));                               // likewise
  EXPECT_FALSE(check({kFloat, {1 << 20, 1 << 20}, {INT64_MAX / 2, 1}}));         // likewise
  EXPECT_FALSE(check(dense(std::vector<std::int64_t>(kMaxDimensions + 1, 1))));  // too many dimensions
  EXPECT_TRUE(check(dense({0, INT64_MAX / 4})));
  EXPECT_TRUE(check({kFloat, {3, 4}, {-4, 1}}));
}

TEST(TensorTest, SlicesThatDoNotFitAreRefused) {
  std::int64_t offset = 0;
  const auto refused = [&](Slice piece) { return !slice(dense({4}), {&piece, 1}, offset).is_ok(); };
  EXPECT_TRUE(refused({0, 1, 5}));
  EXPECT_TRUE(refused({-1, 1, 1}));
  EXPECT_TRUE(refused({0, 0, 2}));
  EXPECT_TRUE(refused({1, -1, 3}));
  EXPECT_TRUE(refused({0, INT64_MAX, 3}));
  EXPECT_TRUE(refused({0, 1, -1}));
  EXPECT_FALSE(refused({3, -1, 4}));
  EXPECT_FALSE(refused({9, 1, 0}));
  const std::array<Slice, 2> two{Slice{0, 1, 1}, Slice{0, 1, 1}};
  EXPECT_FALSE(slice(dense({4}), two, offset).is_ok());
}

TEST(TensorTest, RunsOutsideTheirRegionAreRefused) {
  const Region region = region_of(100);
  const auto refused = [&](transport::Run run) {
    run.region = &region;
    return !transport::check_bounds({&run, 1});
  };
  EXPECT_FALSE(refused({.offset = 90, .length = 10}));
  EXPECT_TRUE(refused({.offset = 91, .length = 10}));
  EXPECT_TRUE(refused({.offset = UINT64_MAX - 4, .length = 10}));
  EXPECT_TRUE(refused({.offset = 0, .length = 1, .count = UINT64_MAX, .stride = UINT64_MAX}));
  EXPECT_TRUE(refused({.offset = 0, .length = 10, .count = 11, .stride = 10}));
  EXPECT_TRUE(refused({.offset = 0, .length = 10, .count = 0}));
  EXPECT_FALSE(refused({.offset = 0, .length = 10, .count = 10, .stride = 10}));
}

TEST(TensorTest, RunsOutsideWhatWasRegisteredAreRefused) {
  const Region region = region_of(100);
  const std::vector<memory::Range> extents{{0, 10}, {20, 10}, {50, 50}};
  const auto refused = [&](transport::Run run) {
    run.region = &region;
    return !transport::check_extents(run, extents);
  };
  EXPECT_FALSE(refused({.offset = 2, .length = 8}));
  EXPECT_TRUE(refused({.offset = 2, .length = 9}));
  EXPECT_TRUE(refused({.offset = 12, .length = 2}));
  EXPECT_FALSE(refused({.offset = 0, .length = 10, .count = 2, .stride = 20}));
  EXPECT_TRUE(refused({.offset = 0, .length = 10, .count = 3, .stride = 20}));
}

// A random view of memory: a slice of a permutation of a dense tensor.
TEST(TensorTest, AnyViewArrivesAsItIs) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  const auto draw = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  for (int round = 0; round < 2000; ++round) {
    const int ndim = draw(0, 5);
    TensorSpec spec{kByte, {}, {}};
    for (int i = 0; i < ndim; ++i) spec.shape.push_back(draw(1, 5));
    std::vector<std::byte> source(spec.elements());
    for (auto& byte : source) byte = static_cast<std::byte>(random());
    // Permuted.
    std::vector<std::size_t> order(spec.shape.size());
    std::iota(order.begin(), order.end(), 0u);
    std::shuffle(order.begin(), order.end(), random);
    const auto strides = spec.strides_or_dense();
    TensorSpec view{kByte, {}, {}};
    for (const auto i : order) {
      view.shape.push_back(spec.shape[i]);
      view.strides.push_back(strides[i]);
    }
    // Sliced, also backwards.
    std::vector<Slice> slices;
    for (const auto size : view.shape) {
      const int count = draw(0, 9) == 0 ? 0 : draw(1, static_cast<int>(size));
      const int step = count > 1 ? draw(1, static_cast<int>((size - 1) / (count - 1))) : 1;
      const int start = draw(0, static_cast<int>(size) - 1 - (count > 0 ? (count - 1) * step : 0));
      slices.push_back(draw(0, 1) == 0 || count == 0
                           ? Slice{start, step, count}
                           : Slice{start + static_cast<std::int64_t>(count - 1) * step, -step, count});
    }
    std::int64_t offset = 0;
    const auto part = slice(view, slices, offset);
    ASSERT_TRUE(part.is_ok()) << "seed " << seed << ": " << part.status().message();
    ASSERT_TRUE(check(*part));
    // Into a row-major target, and into a transposed one.
    std::vector<std::int64_t> target_strides;
    std::int64_t next = 1;
    for (const auto size : part->shape) {
      target_strides.push_back(next);
      next *= std::max<std::int64_t>(1, size);
    }
    for (const bool transposed : {false, true}) {
      std::vector<std::byte> target(std::max<std::size_t>(1, part->elements()), std::byte{0xEE});
      const Region region = region_of(source.size());
      const auto runs =
          runs_of(region, static_cast<std::uint64_t>(offset), *part, target.data(),
                  transposed ? std::span<const std::int64_t>(target_strides) : std::span<const std::int64_t>());
      ASSERT_TRUE(transport::check_bounds(runs)) << "seed " << seed;
      ASSERT_EQ(transport::bytes_of(runs), part->bytes()) << "seed " << seed;
      for (const transport::Run& run : runs) {
        for (std::uint64_t k = 0; k < run.count; ++k) {
          std::memcpy(run.local + k * run.local_stride, source.data() + run.offset + k * run.stride, run.length);
        }
      }
      const auto part_strides = part->strides_or_dense();
      const TensorSpec row_major{kByte, part->shape, {}};
      const auto to = transposed ? target_strides : row_major.strides_or_dense();
      std::vector<std::int64_t> index(part->shape.size());
      for (std::uint64_t element = 0; element < part->elements(); ++element) {
        std::int64_t from_at = offset;
        std::int64_t to_at = 0;
        for (std::size_t i = 0; i < index.size(); ++i) {
          from_at += index[i] * part_strides[i];
          to_at += index[i] * to[i];
        }
        ASSERT_EQ(target[static_cast<std::size_t>(to_at)], source[static_cast<std::size_t>(from_at)])
            << "seed " << seed << ", round " << round;
        for (std::size_t i = index.size(); i-- > 0;) {
          if (++index[i] < part->shape[i]) break;
          index[i] = 0;
        }
      }
    }
  }
}

}  // namespace
}  // namespace beeline::transfer
