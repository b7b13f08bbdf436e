// Floating-point numbers of one format as numbers of another, bit for bit as torch 2.13's Tensor.to() gives them on
// x86.
//
// Roundings are to nearest, ties to even. To float8_e4m3fn, what is too large and infinity become the largest number,
// 448; to float8_e5m2 and the wider ones, infinity. bfloat16 and float16 become each other through float32.
//
// What is not a number stays none, with its sign: quiet and with as much of its payload as there is room for; 0x7F in
// float8. bfloat16 as a target has one of no sign, 0xFFFF from float32 and 0x7FC0 from float16. Here torch is not of
// one mind: from float32 it gives 0x7FC0 where the source has gaps, and from float16 to float32 it gives 0x7FFFFFFF in
// the last elements of what a thread converts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "beeline/base/status.h"
#include "beeline/transfer/tensor.h"

namespace beeline::transfer {

inline constexpr DType kFloat64{2, 64, 1};
inline constexpr DType kFloat32{2, 32, 1};
inline constexpr DType kFloat16{2, 16, 1};
inline constexpr DType kBFloat16{4, 16, 1};
inline constexpr DType kFloat8E4M3{10, 8, 1};  // torch's float8_e4m3fn
inline constexpr DType kFloat8E5M2{12, 8, 1};

// Whether what is written goes past the caches: quicker where it is more than they hold.
enum class Stores : std::uint8_t { kCached, kPastCaches };

struct ConversionKernel;

// How elements of one dtype become elements of another. A value. Allocates nothing.
class Conversion {
 public:
  // kInvalidArgument for a pair that is not converted, with a list of those that are.
  static Result<Conversion> of(DType from, DType to);
  // Likewise, by one element at a time on any machine: what others are compared with.
  static Result<Conversion> portable(DType from, DType to);

  [[nodiscard]] DType from() const;
  [[nodiscard]] DType to() const;

  // `count` elements without gaps. The two sides do not overlap.
  void apply(std::byte* to, const std::byte* from, std::size_t count, Stores stores = Stores::kCached) const;
  // Likewise, elements that lie so many bytes apart, in either direction.
  void apply_strided(std::byte* to, std::ptrdiff_t to_stride, const std::byte* from, std::ptrdiff_t from_stride,
                     std::size_t count) const;

  friend bool operator==(const Conversion&, const Conversion&) = default;

 private:
  Conversion(const ConversionKernel* kernel, bool vectors) : kernel_(kernel), vectors_(vectors) {}

  const ConversionKernel* kernel_;
  bool vectors_;
};

}  // namespace beeline::transfer
