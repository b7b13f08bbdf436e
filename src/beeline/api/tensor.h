// Tensors of this process, as a program hands them over: memory, and what lies in it.
#pragma once

#include <complex>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "beeline/base/export.h"

namespace beeline::api {

// DLPack's data types: code 0 int, 1 uint, 2 float, 4 bfloat, 5 complex, 6 bool, 7 and more float8.
struct DType {
  std::uint8_t code = 0;
  std::uint8_t bits = 0;
  std::uint16_t lanes = 1;
  friend bool operator==(const DType&, const DType&) = default;
};

inline constexpr DType kInt8{0, 8}, kInt16{0, 16}, kInt32{0, 32}, kInt64{0, 64};
inline constexpr DType kUInt8{1, 8}, kUInt16{1, 16}, kUInt32{1, 32}, kUInt64{1, 64};
inline constexpr DType kFloat16{2, 16}, kFloat32{2, 32}, kFloat64{2, 64}, kBFloat16{4, 16};
inline constexpr DType kComplex64{5, 64}, kComplex128{5, 128};
inline constexpr DType kBool{6, 8};
inline constexpr DType kFloat8E4M3FN{10, 8}, kFloat8E5M2{12, 8};

// Of a number of C++; float16 and the like have none there.
template <typename T>
constexpr DType dtype_of() {
  constexpr auto kBits = static_cast<std::uint8_t>(sizeof(T) * 8);
  if constexpr (std::is_same_v<T, bool>) {
    return kBool;
  } else if constexpr (std::is_same_v<T, std::complex<float>> || std::is_same_v<T, std::complex<double>>) {
    return {5, kBits};
  } else if constexpr (std::is_same_v<T, std::byte>) {
    return kUInt8;
  } else {
    static_assert(std::is_integral_v<T> || std::is_same_v<T, float> || std::is_same_v<T, double>);
    return {static_cast<std::uint8_t>(std::is_floating_point_v<T> ? 2 : std::is_unsigned_v<T> ? 1 : 0), kBits};
  }
}

// Copies share the memory.
struct BEELINE_API Tensor {
  std::byte* data = nullptr;  // the element whose indices are all 0
  DType dtype;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;  // in elements, of either sign; empty: row-major without gaps
  std::shared_ptr<void> memory;       // keeps `data`; empty: borrowed, and the caller keeps it

  // Row-major, over memory of the caller's that holds as many values as the shape says.
  template <typename T>
  static Tensor borrow(T* values, std::vector<std::int64_t> shape) {
    using Value = std::remove_const_t<T>;
    return {reinterpret_cast<std::byte*>(const_cast<Value*>(values)), dtype_of<Value>(), std::move(shape), {}, nullptr};
  }

  // The elements, where they are row-major without gaps: as many as there are.
  template <typename T>
  [[nodiscard]] std::span<T> values() const {
    return {reinterpret_cast<T*>(data), elements()};
  }
  [[nodiscard]] std::size_t elements() const;
  // Of all elements, without gaps.
  [[nodiscard]] std::size_t bytes() const;
};

}  // namespace beeline::api
