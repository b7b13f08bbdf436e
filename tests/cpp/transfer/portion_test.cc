// What a fetch converts on the way, by a path that maps and by one that reads in slices: against one element at a time.
#include "beeline/transfer/portion.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "beeline/transfer/fetch.h"
#include "poison.h"
#include "seed.h"

namespace beeline::transfer {
namespace {

using transport::Region;
using transport::Run;

// Memory of this process as a path sees it.
class FakeEndpoint final : public transport::Endpoint {
 public:
  FakeEndpoint(const std::vector<std::byte>& memory, bool maps) : memory_(memory), maps_(maps) {}

  Status read(std::span<const Run> runs, const os::Wait& /*wait*/) override {
    largest = std::max(largest, transport::bytes_of(runs));
    ++reads;
    if (reads == failing_read) return {Code::kSystem, "the path has failed"};
    for (const Run& run : runs) {
      pieces += run.count;
      for (std::uint64_t i = 0; i < run.count; ++i) {
        std::memcpy(run.local + i * run.local_stride, memory_.data() + run.offset + i * run.stride, run.length);
      }
    }
    if (reads == cancelling_read) cancellation->cancel();
    return Status::ok();
  }
  Status write(std::span<const Run> /*runs*/, const os::Wait& /*wait*/) override { return {Code::kUnsupported, "no"}; }
  [[nodiscard]] const std::byte* view(const Region& /*region*/) const override {
    return maps_ ? memory_.data() : nullptr;
  }

  [[nodiscard]] bool maps() const { return maps_; }

  int reads = 0;
  std::uint64_t pieces = 0;
  std::uint64_t largest = 0;
  int failing_read = 0;  // from 1
  int cancelling_read = 0;
  std::shared_ptr<os::Cancellation> cancellation = *os::Cancellation::make();

 private:
  const std::vector<std::byte>& memory_;
  bool maps_;
};

RemoteTensor remote_of(std::size_t bytes, const TensorSpec& spec, std::int64_t offset) {
  auto descriptor = std::make_shared<Descriptor>();
  descriptor->regions.emplace_back().length = bytes;
  return {descriptor, 0, static_cast<std::uint64_t>(offset), spec};
}

std::vector<std::byte> random_bytes(std::size_t size, std::mt19937_64& random) {
  std::vector<std::byte> bytes(size);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

Status read(Portion& portion, FakeEndpoint& endpoint, std::uint64_t slice_bytes) {
  transport::Capabilities capabilities;
  capabilities.slice_bytes = slice_bytes;
  os::Wait wait(Deadline::after(std::chrono::seconds(60)));
  wait.cancellation = endpoint.cancellation.get();
  return portion.read_by()(endpoint, capabilities, wait);
}

// Visits every index of a shape in row-major order.
template <typename Visit>
void for_each_index(const std::vector<std::int64_t>& shape, Visit&& visit) {
  std::vector<std::int64_t> index(shape.size());
  for (;;) {
    visit(index);
    std::size_t i = shape.size();
    for (; i > 0; --i) {
      if (++index[i - 1] < shape[i - 1]) break;
      index[i - 1] = 0;
    }
    if (i == 0) return;
  }
}

std::int64_t distance(const std::vector<std::int64_t>& index, const std::vector<std::int64_t>& strides) {
  return std::inner_product(index.begin(), index.end(), strides.begin(), std::int64_t{0});
}

// A random view of memory, as of a tensor that was permuted and sliced, also backwards.
TensorSpec random_view(DType dtype, std::vector<std::int64_t> shape, std::mt19937_64& random, std::int64_t& offset) {
  const auto draw = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  const TensorSpec whole{dtype, shape, {}};
  const auto strides = whole.strides_or_dense();
  std::vector<std::size_t> order(shape.size());
  std::iota(order.begin(), order.end(), 0u);
  if (draw(0, 1) == 0) std::shuffle(order.begin(), order.end(), random);
  TensorSpec view{dtype, {}, {}};
  std::vector<Slice> slices;
  for (const std::size_t i : order) {
    view.shape.push_back(shape[i]);
    view.strides.push_back(strides[i]);
    const std::int64_t step = draw(1, 3) == 1 ? 2 : 1;
    const std::int64_t count = std::max<std::int64_t>(1, draw(shape[i] / 2, shape[i]) / step);
    const std::int64_t start = draw(0, shape[i] - 1 - (count - 1) * step);
    slices.push_back(draw(0, 3) == 0 ? Slice{start + (count - 1) * step, -step, count} : Slice{start, step, count});
  }
  auto part = slice(view, slices, offset);
  EXPECT_TRUE(part.is_ok()) << part.status().message();
  return *part;
}

std::vector<std::int64_t> random_strides(const std::vector<std::int64_t>& shape, std::mt19937_64& random) {
  if (random() % 2 == 0) return {};
  // Of a transposed tensor, with gaps.
  std::vector<std::int64_t> strides;
  std::int64_t next = 1 + static_cast<std::int64_t>(random() % 2);
  for (const std::int64_t size : shape) {
    strides.push_back(next);
    next *= size;
  }
  return strides;
}

TEST(PortionTest, AnyViewIsConvertedAsItsElementsAre) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  const std::vector<std::pair<DType, DType>> pairs{{kFloat32, kBFloat16},
                                                   {kFloat64, kFloat32},
                                                   {kFloat16, kFloat32},
                                                   {kBFloat16, kFloat16},
                                                   {kFloat32, kFloat8E4M3}};
  for (int round = 0; round < 400; ++round) {
    const auto [from, to] = pairs[static_cast<std::size_t>(round) % pairs.size()];
    std::vector<std::int64_t> shape(random() % 4);
    for (auto& size : shape) size = 1 + static_cast<std::int64_t>(random() % (round % 20 == 0 ? 60 : 9));
    const auto source = random_bytes(TensorSpec{from, shape, {}}.bytes(), random);
    std::int64_t offset = 0;
    const auto remote = remote_of(source.size(), random_view(from, shape, random, offset), 0);
    RemoteTensor part = remote;
    part.offset = static_cast<std::uint64_t>(offset);
    const TensorSpec target_spec{to, part.spec.shape, random_strides(part.spec.shape, random)};
    const auto extent = extent_of(target_spec);
    const auto conversion = Conversion::of(from, to);
    std::vector<std::byte> expected(static_cast<std::size_t>(extent.end) + 8, kPoison);
    for_each_index(part.spec.shape, [&](const std::vector<std::int64_t>& index) {
      const auto at = static_cast<std::size_t>(distance(index, target_spec.strides_or_dense())) * to.bytes();
      const auto from_at = offset + distance(index, part.spec.strides_or_dense()) * std::int64_t{from.bits / 8};
      Conversion::portable(from, to)->apply(expected.data() + at, source.data() + from_at, 1);
    });
    for (const std::uint64_t slice_bytes : {0, 8, 40, 4096}) {
      std::vector<std::byte> target(expected.size(), kPoison);
      FakeEndpoint endpoint(source, slice_bytes == 0);
      const Copy copy{&part, {target.data(), target_spec.strides}, *conversion};
      auto portions = portions_of({&copy, 1}, Use::kFilled);
      ASSERT_EQ(portions.size(), 1u);
      ASSERT_TRUE(transport::check_bounds(portions[0].runs));
      ASSERT_EQ(transport::bytes_of(portions[0].runs), part.spec.bytes());
      ASSERT_TRUE(read(portions[0], endpoint, slice_bytes));
      ASSERT_EQ(target, expected) << "seed " << seed << ", round " << round << ", slices of " << slice_bytes;
      ASSERT_EQ(endpoint.reads > 0, slice_bytes > 0);
      ASSERT_LE(endpoint.largest, slice_bytes);
    }
  }
}

TEST(PortionTest, AnyViewIsPutInItsPlaces) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  const DType dtypes[] = {{1, 8, 1}, kBFloat16, kFloat32, kFloat64, {5, 128, 1}, {1, 8, 3}};
  int strided = 0;
  for (int round = 0; round < 600; ++round) {
    const DType dtype = dtypes[static_cast<std::size_t>(round) % std::size(dtypes)];
    const auto size = static_cast<std::int64_t>(dtype.bytes());
    std::vector<std::int64_t> shape(random() % 5);
    for (auto& each : shape) each = 1 + static_cast<std::int64_t>(random() % (shape.size() > 3 ? 8 : 40));
    const auto source = random_bytes(TensorSpec{dtype, shape, {}}.bytes(), random);
    std::int64_t offset = 0;
    auto remote = remote_of(source.size(), random_view(dtype, shape, random, offset), 0);
    remote.offset = static_cast<std::uint64_t>(offset);
    const TensorSpec target_spec{dtype, remote.spec.shape, random_strides(remote.spec.shape, random)};
    std::vector<std::byte> expected(static_cast<std::size_t>(extent_of(target_spec).end) + 8, kPoison);
    for_each_index(remote.spec.shape, [&](const std::vector<std::int64_t>& index) {
      const auto to = static_cast<std::size_t>(distance(index, target_spec.strides_or_dense()) * size);
      const auto from = static_cast<std::size_t>(offset + distance(index, remote.spec.strides_or_dense()) * size);
      std::memcpy(expected.data() + to, source.data() + from, dtype.bytes());
    });
    for (const std::uint64_t slice_bytes : {0, 1, 40, 1000, 1 << 20}) {
      std::vector<std::byte> target(expected.size(), kPoison);
      FakeEndpoint endpoint(source, slice_bytes == 0);
      const Copy copy{&remote, {target.data(), target_spec.strides}};
      auto portions = portions_of({&copy, 1}, Use::kFilled);
      ASSERT_EQ(portions.size(), 1u);
      ASSERT_TRUE(transport::check_bounds(portions[0].runs));
      ASSERT_EQ(transport::bytes_of(portions[0].runs), remote.spec.bytes());
      if (portions[0].strided.empty()) {
        ASSERT_TRUE(endpoint.read(portions[0].runs, os::Wait(Deadline::never())));
      } else {
        ++strided;
        ASSERT_TRUE(read(portions[0], endpoint, slice_bytes));
        ASSERT_LE(endpoint.largest, std::max<std::uint64_t>(slice_bytes, 4096));
      }
      ASSERT_EQ(target, expected) << "seed " << seed << ", round " << round << ", slices of " << slice_bytes;
    }
  }
  EXPECT_GT(strided, 20);
}

TEST(PortionTest, WhatLiesSideBySideIsReadTogether) {
  std::mt19937_64 random(test_seed());
  const auto source = random_bytes(std::size_t{4} * 300 * 400, random);
  std::vector<std::byte> target(2 * source.size());
  const auto pieces_of = [&](const TensorSpec& spec, std::vector<std::int64_t> strides) {
    const RemoteTensor remote = remote_of(source.size(), spec, 0);
    const Copy copy{&remote, {target.data(), std::move(strides)}};
    auto portions = portions_of({&copy, 1}, Use::kFilled);
    FakeEndpoint endpoint(source, false);
    EXPECT_EQ(portions[0].strided.size(), 1u);
    EXPECT_TRUE(read(portions[0], endpoint, 1 << 16));
    return endpoint.pieces;
  };
  // Transposed on one side, on the other, channels last, and into every other element.
  EXPECT_LE(pieces_of({kFloat32, {300, 400}, {1, 300}}, {}), 8u);
  EXPECT_LE(pieces_of({kFloat32, {300, 400}, {}}, {1, 300}), 8u);
  EXPECT_LE(pieces_of({kFloat32, {4, 3, 100, 100}, {30000, 1, 300, 3}}, {}), 8u);
  EXPECT_LE(pieces_of({kFloat32, {300, 400}, {}}, {800, 2}), 8u);
  // Some columns of a transposed one: as many stretches.
  EXPECT_EQ(pieces_of({kFloat32, {200, 400}, {1, 300}}, {}), 400u);
}

TEST(PortionTest, OtherRunsAreAsTheyWere) {
  std::vector<std::byte> target(1 << 20);
  const auto portion_of = [&](const TensorSpec& spec, std::vector<std::int64_t> strides, Use use = Use::kFilled) {
    const RemoteTensor remote = remote_of(1 << 20, spec, 0);
    const Copy copy{&remote, {target.data(), std::move(strides)}};
    return std::move(portions_of({&copy, 1}, use)[0]);
  };
  EXPECT_EQ(portion_of({kFloat32, {512, 512}, {}}, {}).runs.size(), 1u);
  EXPECT_EQ(portion_of({kFloat32, {512, 512}, {1, 512}}, {1, 512}).runs.size(), 1u);  // transposed on both sides
  const auto with_gaps = portion_of({kFloat32, {256, 256}, {600, 2}}, {});
  EXPECT_TRUE(with_gaps.strided.empty());
  EXPECT_EQ(with_gaps.runs.size(), 256u);
  EXPECT_TRUE(portion_of({kFloat32, {64, 2048}, {}}, {2100, 1}).strided.empty());  // rows of 8 KiB
  EXPECT_TRUE(portion_of({kFloat32, {5, 7}, {1, 5}}, {}).strided.empty());         // few
  EXPECT_TRUE(portion_of({kFloat32, {64, 64}, {0, 1}}, {}).strided.empty());       // expanded
  // Of a push, and of channels last few runs of many, whatever their order here.
  EXPECT_TRUE(portion_of({kFloat32, {512, 512}, {1, 512}}, {}, Use::kRead).strided.empty());
  EXPECT_EQ(portion_of({kFloat32, {4, 3, 100, 100}, {30000, 1, 300, 3}}, {}, Use::kRead).runs.size(), 12u);
}

TEST(PortionTest, ATransposedTensorDoesNotTakeOthersWithIt) {
  const RemoteTensor transposed = remote_of(1 << 20, {kFloat32, {256, 256}, {1, 256}}, 0);
  RemoteTensor dense = transposed;
  dense.spec.strides.clear();
  std::vector<std::byte> target(1 << 20);
  const std::vector<Copy> copies{
      {&dense, {target.data(), {}}}, {&transposed, {target.data(), {}}}, {&dense, {target.data(), {}}}};
  auto portions = portions_of(copies, Use::kFilled);
  ASSERT_EQ(portions.size(), 2u);
  EXPECT_EQ(portions[0].runs.size(), 2u);
  EXPECT_FALSE(portions[0].read_by());
  EXPECT_EQ(portions[1].strided.size(), 1u);
}

TEST(PortionTest, AnyViewIsQuantisedAsItsBlocksAre) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  for (int round = 0; round < 300; ++round) {
    const DType from = round % 2 == 0 ? kFloat32 : kBFloat16;
    std::vector<std::int64_t> shape(2 + random() % 2);
    for (auto& size : shape) size = 1 + static_cast<std::int64_t>(random() % 40);
    const auto source = random_bytes(TensorSpec{from, shape, {}}.bytes(), random);
    std::int64_t offset = 0;
    const TensorSpec view = random_view(from, shape, random, offset);
    const RemoteTensor part = remote_of(source.size(), view, offset);
    const BlockShape blocks{1 + static_cast<std::int64_t>(random() % 9), 1 + static_cast<std::int64_t>(random() % 9)};
    const TensorSpec values_spec{kFloat8E4M3, view.shape, random_strides(view.shape, random)};
    TensorSpec scales_spec = scales_of(blocks, view);
    scales_spec.strides = random_strides(scales_spec.shape, random);
    // The scale of each block, and by it each element, in the words of the definition.
    const auto size = static_cast<std::int64_t>(from.bytes());
    const auto element = [&](const std::vector<std::int64_t>& index) {
      float value = 0;
      const auto* const at = source.data() + offset + distance(index, view.strides) * size;
      if (from == kFloat32) {
        std::memcpy(&value, at, sizeof value);
      } else {
        Conversion::portable(from, kFloat32)->apply(reinterpret_cast<std::byte*>(&value), at, 1);
      }
      return value;
    };
    std::vector<float> scales(static_cast<std::size_t>(extent_of(scales_spec).end) / sizeof(float), -7.0F);
    const auto scale_at = [&](std::vector<std::int64_t> index) -> float& {
      index[index.size() - 2] /= blocks.rows;
      index.back() /= blocks.columns;
      return scales[static_cast<std::size_t>(distance(index, scales_spec.strides_or_dense()))];
    };
    const std::vector<float> poisoned = scales;
    for_each_index(scales_spec.shape, [&](const std::vector<std::int64_t>& index) {
      scales[static_cast<std::size_t>(distance(index, scales_spec.strides_or_dense()))] = 0;
    });
    for_each_index(view.shape, [&](const std::vector<std::int64_t>& index) {
      const float magnitude = std::abs(element(index));
      float& largest = scale_at(index);
      if (std::isnan(magnitude) || std::isnan(largest)) {
        largest = std::numeric_limits<float>::quiet_NaN();
      } else {
        largest = std::max(largest, magnitude);
      }
    });
    for_each_index(scales_spec.shape, [&](const std::vector<std::int64_t>& index) {
      float& scale = scales[static_cast<std::size_t>(distance(index, scales_spec.strides_or_dense()))];
      scale = scale / 448 == 0 ? 1 : scale / 448;
    });
    std::vector<std::byte> expected(static_cast<std::size_t>(extent_of(values_spec).end) + 8, kPoison);
    for_each_index(view.shape, [&](const std::vector<std::int64_t>& index) {
      const float value = element(index) / scale_at(index);
      const auto at = static_cast<std::size_t>(distance(index, values_spec.strides_or_dense()));
      Conversion::portable(kFloat32, kFloat8E4M3)
          ->apply(expected.data() + at, reinterpret_cast<const std::byte*>(&value), 1);
    });
    for (const std::uint64_t slice_bytes : {0, 100, 1000, 1 << 20}) {
      std::vector<std::byte> values(expected.size(), kPoison);
      std::vector<float> got = poisoned;
      FakeEndpoint endpoint(source, slice_bytes == 0);
      const Copy copy{
          &part,
          {values.data(), values_spec.strides},
          std::nullopt,
          Quantization{*Quantizer::of(from), blocks, {reinterpret_cast<std::byte*>(got.data()), scales_spec.strides}}};
      auto portions = portions_of({&copy, 1}, Use::kFilled);
      ASSERT_EQ(portions.size(), 1u);
      ASSERT_EQ(transport::bytes_of(portions[0].runs), view.bytes());
      ASSERT_TRUE(read(portions[0], endpoint, slice_bytes));
      ASSERT_EQ(values, expected) << "seed " << seed << ", round " << round << ", slices of " << slice_bytes;
      ASSERT_EQ(std::memcmp(got.data(), scales.data(), got.size() * sizeof(float)), 0)
          << "seed " << seed << ", round " << round << ", slices of " << slice_bytes;
    }
  }
}

class PortionFailureTest : public ::testing::Test {
 protected:
  static constexpr std::size_t kElements = 1000;
  static constexpr std::uint64_t kSlice = 400;  // 100 elements

  PortionFailureTest() {
    for (std::size_t i = 0; i < kElements; ++i) {
      const auto value = static_cast<float>(i + 1);
      std::memcpy(source_.data() + 4 * i, &value, sizeof value);
    }
  }
  // Targets that were written.
  std::size_t read_all(FakeEndpoint& endpoint, Code expected) {
    const RemoteTensor remote = remote_of(source_.size(), {kFloat32, {kElements}, {}}, 0);
    std::vector<std::byte> target(2 * kElements, kPoison);
    const Copy copy{&remote, {target.data(), {}}, *Conversion::of(kFloat32, kBFloat16)};
    auto portions = portions_of({&copy, 1}, Use::kFilled);
    EXPECT_EQ(read(portions[0], endpoint, kSlice).code(), expected);
    std::size_t written = 0;
    while (written < kElements && target[2 * written + 1] != kPoison) ++written;
    for (std::size_t i = 2 * written; i < target.size(); ++i) EXPECT_EQ(target[i], kPoison);
    return written;
  }

  std::vector<std::byte> source_ = std::vector<std::byte>(4 * kElements);
};

TEST_F(PortionFailureTest, AFailedSliceIsTheLast) {
  FakeEndpoint endpoint(source_, false);
  endpoint.failing_read = 4;
  EXPECT_EQ(read_all(endpoint, Code::kSystem), 300u);
  EXPECT_EQ(endpoint.reads, 4);
}

TEST_F(PortionFailureTest, ACancelledReadEndsAfterTheSlice) {
  FakeEndpoint endpoint(source_, false);
  endpoint.cancelling_read = 3;
  EXPECT_EQ(read_all(endpoint, Code::kCancelled), 300u);
  EXPECT_EQ(endpoint.reads, 3);
}

TEST_F(PortionFailureTest, WithoutAFailureAllArrives) {
  FakeEndpoint endpoint(source_, false);
  EXPECT_EQ(read_all(endpoint, Code::kOk), kElements);
  EXPECT_EQ(endpoint.reads, 10);
}

TEST(PortionTest, CopiesAreGroupedByWhatIsDoneToThem) {
  const RemoteTensor floats = remote_of(4096, {kFloat32, {8, 8}, {}}, 0);
  RemoteTensor others = floats;
  others.spec.dtype = kFloat64;
  std::vector<std::byte> memory(4096);
  const auto local = LocalTensor{memory.data(), {}};
  const std::vector<Copy> copies{{&floats, local},
                                 {&floats, local, *Conversion::of(kFloat32, kBFloat16)},
                                 {&others, local, *Conversion::of(kFloat64, kFloat32)},
                                 {&floats, local, *Conversion::of(kFloat32, kBFloat16)},
                                 {&floats, local, std::nullopt, Quantization{*Quantizer::of(kFloat32), {}, local}},
                                 {&floats, local}};
  auto portions = portions_of(copies, Use::kFilled);
  ASSERT_EQ(portions.size(), 4u);
  EXPECT_EQ(portions[0].runs.size(), 2u);
  EXPECT_FALSE(portions[0].read_by());
  EXPECT_EQ(portions[1].runs.size(), 2u);
  EXPECT_TRUE(portions[1].read_by());
  EXPECT_EQ(portions[3].matrices.size(), 1u);
}

}  // namespace
}  // namespace beeline::transfer
