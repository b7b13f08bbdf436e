// Where tensors that are fetched go, and what they become on the way.
#pragma once

#include <cstdint>
#include <optional>

#include "beeline/api/tensor.h"

namespace beeline::api {

// One scale for each block of a matrix.
struct Scales {
  // float32, of the shape of the values but for the last two dimensions R and C: ceil(R / rows), ceil(C / columns).
  Tensor tensor;
  // Of a block; those at the lower and right edge may be smaller. At most 2^20 elements.
  std::int64_t rows = 128;
  std::int64_t columns = 128;
};

// A tensor that is filled.
struct Target {
  Tensor tensor;
  // Whether elements become the tensor's dtype, bit for bit as torch's Tensor.to() makes them: float32 to bfloat16,
  // float16, float8 and float64; bfloat16 and float16 to each other, to float32 and to float8; float64 to float32.
  // Other pairs, and other dtypes without it, are refused with kInvalidArgument.
  bool convert = false;
  // With `convert`, into float8_e4m3fn: quantises in blocks of the last two dimensions, from float32, bfloat16 or
  // float16. scale = amax(abs(block)) / 448 and value = block / scale, as DeepSeek-V3's act_quant; 1 for a scale of 0.
  std::optional<Scales> scales = {};
};

}  // namespace beeline::api
