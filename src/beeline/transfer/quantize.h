// Matrices as float8_e4m3fn with one float32 scale for each block, as DeepSeek-V3's checkpoints and kernels have them
// (inference/kernel.py of that repository): a value times its block's scale gives the number back.
//
// scale = the block's largest magnitude / 448, value = number / scale rounded to nearest, both in float32. A block
// whose scale would be 0 (all zero, or at most 448 * 2^-150) gets scale 1. One that holds what is not a number has that
// as its scale, one that holds infinity has infinity.
#pragma once

#include <cstddef>
#include <cstdint>

#include "beeline/base/status.h"
#include "beeline/transfer/tensor.h"

namespace beeline::transfer {

// Of a block, at the least 1 each; those at a matrix's lower and right edge may be smaller.
struct BlockShape {
  std::int64_t rows = 128;
  std::int64_t columns = 128;
};
// A block is read whole before its scale is known.
inline constexpr std::int64_t kMaxBlockElements = std::int64_t{1} << 20;

// kInvalidArgument unless such blocks can be cut from the tensor's last two dimensions.
Status check(const BlockShape& shape, const TensorSpec& spec);
// What the scales of a tensor are, which was checked: float32, the last two dimensions counted in blocks.
TensorSpec scales_of(const BlockShape& shape, const TensorSpec& spec);

// Elements of a matrix: where the first one lies, and how many bytes the next row and the next column are away.
template <typename Byte>
struct Grid {
  Byte* data = nullptr;
  std::ptrdiff_t row = 0;
  std::ptrdiff_t column = 0;

  [[nodiscard]] Grid at(std::int64_t i, std::int64_t j) const { return {data + i * row + j * column, row, column}; }
};

struct QuantizerKernel;

// How blocks of one dtype become float8_e4m3fn. A value. Allocates nothing.
class Quantizer {
 public:
  // kInvalidArgument for a dtype that is not quantised, with a list of those that are.
  static Result<Quantizer> of(DType from);
  // Likewise, by one element at a time on any machine: what others are compared with.
  static Result<Quantizer> portable(DType from);

  [[nodiscard]] DType from() const;
  // Fills `to`; returns the scale. The two sides do not overlap.
  [[nodiscard]] float apply(const Grid<std::byte>& to, const Grid<const std::byte>& from, std::int64_t rows,
                            std::int64_t columns) const;

  friend bool operator==(const Quantizer&, const Quantizer&) = default;

 private:
  Quantizer(const QuantizerKernel* kernel, bool vectors) : kernel_(kernel), vectors_(vectors) {}

  const QuantizerKernel* kernel_;
  bool vectors_;
};

}  // namespace beeline::transfer
