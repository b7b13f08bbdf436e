#include "beeline/transfer/quantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <string>

#include "beeline/transfer/convert.h"
#include "beeline/transfer/float_formats.h"

namespace beeline::transfer {

struct QuantizerKernel {
  DType from;
  // The largest of so many elements' magnitudes, as bits; elements lie without gaps.
  using Largest = std::uint32_t (*)(const std::byte* from, std::size_t count);
  using Scale = void (*)(std::byte* to, const std::byte* from, std::size_t count, float scale);
  Largest largest_portable;
  Scale scale_portable;
  Largest largest_vectors = nullptr;
  Scale scale_vectors = nullptr;
};

namespace {

using namespace formats;  // NOLINT(google-build-using-namespace): the table below is made of nothing else

constexpr float kFloat8Max = 448;

// Without their sign, bits of floats are in order: numbers, infinity, what is no number.
template <typename From>
std::uint32_t largest_portable(const std::byte* from, std::size_t count) {
  std::uint32_t largest = 0;
  for (; count > 0; --count, from += From::kBytes) {
    largest = std::max(largest, std::bit_cast<std::uint32_t>(From::load(from)) & ~kSign);
  }
  return largest;
}

template <typename From>
void scale_portable(std::byte* to, const std::byte* from, std::size_t count, float scale) {
  for (; count > 0; --count, from += From::kBytes, ++to) Float8E4M3::store(to, From::load(from) / scale);
}

#if defined(__x86_64__)
constexpr std::size_t kLanes = 16;

template <typename From>
BEELINE_AVX2 std::uint32_t largest_vectors(const std::byte* from, std::size_t count) {
  const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
  __m256i low = _mm256_setzero_si256();
  __m256i high = low;
  const std::size_t width = count * From::kBytes;
  for (; count >= kLanes; count -= kLanes, from += kLanes * From::kBytes) {
    // Of the next block, whose rows are this one's rows continued: too short for the processor to see that by itself.
    _mm_prefetch(reinterpret_cast<const char*>(from + width), _MM_HINT_T1);
    const Lanes values = From::load16(from);
    low = _mm256_max_epi32(low, _mm256_and_si256(_mm256_castps_si256(values.low), magnitude));
    high = _mm256_max_epi32(high, _mm256_and_si256(_mm256_castps_si256(values.high), magnitude));
  }
  alignas(32) std::array<std::uint32_t, 8> lanes;
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes.data()), _mm256_max_epi32(low, high));
  return std::max(*std::max_element(lanes.begin(), lanes.end()), largest_portable<From>(from, count));
}

template <typename From>
BEELINE_AVX2 void scale_vectors(std::byte* to, const std::byte* from, std::size_t count, float scale) {
  const __m256 by = _mm256_set1_ps(scale);
  for (; count >= kLanes; count -= kLanes, from += kLanes * From::kBytes, to += kLanes) {
    const Lanes values = From::load16(from);
    Float8E4M3::store16<false>(to, {_mm256_div_ps(values.low, by), _mm256_div_ps(values.high, by)});
  }
  scale_portable<From>(to, from, count, scale);
}
#endif

template <typename From>
constexpr QuantizerKernel kernel(DType from) {
#if defined(__x86_64__)
  return {from, largest_portable<From>, scale_portable<From>, largest_vectors<From>, scale_vectors<From>};
#else
  return {from, largest_portable<From>, scale_portable<From>};
#endif
}

constexpr std::array kKernels{kernel<Float32>(kFloat32), kernel<BFloat16>(kBFloat16), kernel<Float16>(kFloat16)};

// As torch's amax() and division give it.
float scale_of(std::uint32_t largest) {
  if (largest > kInfinity) return std::numeric_limits<float>::quiet_NaN();
  const float scale = std::bit_cast<float>(largest) / kFloat8Max;
  return scale == 0 ? 1.0F : scale;
}

// Elements of a row that lie apart, brought together.
class Gathered {
 public:
  static constexpr std::int64_t kAtOnce = 256;

  const std::byte* of(const Grid<const std::byte>& from, std::int64_t count, std::size_t size) {
    for (std::int64_t j = 0; j < count; ++j) {
      std::memcpy(bytes_.data() + static_cast<std::size_t>(j) * size, from.at(0, j).data, size);
    }
    return bytes_.data();
  }

 private:
  std::array<std::byte, static_cast<std::size_t>(kAtOnce) * 8> bytes_;
};

}  // namespace

Status check(const BlockShape& shape, const TensorSpec& spec) {
  const auto text = [&] { return "blocks of " + std::to_string(shape.rows) + " x " + std::to_string(shape.columns); };
  std::int64_t elements = 0;
  if (shape.rows < 1 || shape.columns < 1 || __builtin_mul_overflow(shape.rows, shape.columns, &elements) ||
      elements > kMaxBlockElements) {
    return {Code::kInvalidArgument, text() + " elements: a block has at least one of each, and at most " +
                                        std::to_string(kMaxBlockElements) + " elements"};
  }
  if (spec.shape.size() < 2) {
    return {Code::kInvalidArgument, text() + " are cut from matrices, not from a tensor of " +
                                        std::to_string(spec.shape.size()) + " dimensions"};
  }
  return Status::ok();
}

TensorSpec scales_of(const BlockShape& shape, const TensorSpec& spec) {
  TensorSpec scales{kFloat32, spec.shape, {}};
  std::int64_t& rows = scales.shape[scales.shape.size() - 2];
  std::int64_t& columns = scales.shape.back();
  rows = rows / shape.rows + (rows % shape.rows != 0 ? 1 : 0);
  columns = columns / shape.columns + (columns % shape.columns != 0 ? 1 : 0);
  return scales;
}

Result<Quantizer> Quantizer::of(DType from) {
  BEELINE_ASSIGN(Quantizer found, portable(from));
  found.vectors_ = found.kernel_->largest_vectors != nullptr && has_vectors();
  return found;
}

Result<Quantizer> Quantizer::portable(DType from) {
  std::string known;
  for (const QuantizerKernel& each : kKernels) {
    if (each.from == from) return Quantizer(&each, false);
    known += (known.empty() ? "" : ", ") + name_of(each.from);
  }
  return Status(Code::kInvalidArgument, name_of(from) + " is not quantised in blocks; these are: " + known);
}

DType Quantizer::from() const {
  return kernel_->from;
}

float Quantizer::apply(const Grid<std::byte>& to, const Grid<const std::byte>& from, std::int64_t rows,
                       std::int64_t columns) const {
  const auto size = kernel_->from.bytes();
  const auto largest = vectors_ ? kernel_->largest_vectors : kernel_->largest_portable;
  const auto scale_all = vectors_ ? kernel_->scale_vectors : kernel_->scale_portable;
  const bool is_dense_from = from.column == static_cast<std::ptrdiff_t>(size);
  const bool is_dense_to = to.column == 1;
  const std::int64_t step = is_dense_from && is_dense_to ? columns : std::min(columns, Gathered::kAtOnce);
  Gathered gathered;
  const auto at = [&](std::int64_t i, std::int64_t j, std::int64_t count) {
    const auto first = from.at(i, j);
    return is_dense_from ? first.data : gathered.of(first, count, size);
  };

  std::uint32_t bits = 0;
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; j += step) {
      const std::int64_t count = std::min(step, columns - j);
      bits = std::max(bits, largest(at(i, j, count), static_cast<std::size_t>(count)));
    }
  }
  const float scale = scale_of(bits);
  std::array<std::byte, static_cast<std::size_t>(Gathered::kAtOnce)> row;
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; j += step) {
      const std::int64_t count = std::min(step, columns - j);
      std::byte* const out = is_dense_to ? to.at(i, j).data : row.data();
      scale_all(out, at(i, j, count), static_cast<std::size_t>(count), scale);
      for (std::int64_t k = 0; !is_dense_to && k < count; ++k) *to.at(i, j + k).data = row[static_cast<std::size_t>(k)];
    }
  }
  return scale;
}

}  // namespace beeline::transfer
