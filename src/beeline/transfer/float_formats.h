// The floating-point formats that conversions know: one element as a float, and sixteen at a time by AVX2 and F16C.
//
// Roundings are to nearest, ties to even. What is special is what torch 2.13 makes of it on x86: see convert.h.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#define BEELINE_AVX2 __attribute__((target("avx2,f16c")))
// Of what a loop is made of: kept constants and registers, not calls.
#define BEELINE_AVX2_INLINE __attribute__((target("avx2,f16c"), always_inline))
#endif

namespace beeline::transfer::formats {

inline constexpr std::uint32_t kSign = 0x80000000;
inline constexpr std::uint32_t kInfinity = 0x7F800000;  // larger without its sign: not a number

// What a processor that has them runs; else the code of one element at a time.
inline bool has_vectors() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("f16c") != 0;
  return has;
#else
  return false;
#endif
}

template <typename T>
T load_as(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
template <typename T>
void store_as(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof value);
}

#if defined(__x86_64__)
// Sixteen floats.
struct Lanes {
  __m256 low, high;
};

// Past the caches where kStream: the address is then a multiple of the size.
template <bool kStream>
BEELINE_AVX2_INLINE inline void store(std::byte* at, __m256i bits) {
  auto* const to = reinterpret_cast<__m256i*>(at);
  if constexpr (kStream) {
    _mm256_stream_si256(to, bits);
  } else {
    _mm256_storeu_si256(to, bits);
  }
}
template <bool kStream>
BEELINE_AVX2_INLINE inline void store(std::byte* at, __m128i bits) {
  auto* const to = reinterpret_cast<__m128i*>(at);
  if constexpr (kStream) {
    _mm_stream_si128(to, bits);
  } else {
    _mm_storeu_si128(to, bits);
  }
}

BEELINE_AVX2_INLINE inline __m256i broadcast(std::uint32_t bits) {
  return _mm256_set1_epi32(static_cast<int>(bits));
}

// The low 16 bits of sixteen 32-bit numbers that are smaller than 2^16, in order.
BEELINE_AVX2_INLINE inline __m256i pack16(__m256i low, __m256i high) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xD8);
}
#endif

struct Float64 {
  static constexpr std::size_t kBytes = 8;
};

struct Float32 {
  static constexpr std::size_t kBytes = 4;
  static float load(const std::byte* at) { return load_as<float>(at); }
  static void store(std::byte* at, float value) { store_as(at, value); }
#if defined(__x86_64__)
  BEELINE_AVX2_INLINE static inline Lanes load16(const std::byte* at) {
    const auto* const from = reinterpret_cast<const float*>(at);
    return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
  }
  template <bool kStream>
  BEELINE_AVX2_INLINE static inline void store16(std::byte* at, Lanes values) {
    formats::store<kStream>(at, _mm256_castps_si256(values.low));
    formats::store<kStream>(at + 32, _mm256_castps_si256(values.high));
  }
#endif
};

template <std::uint16_t kNotANumber>
struct BFloat16As {
  static constexpr std::size_t kBytes = 2;
  static float load(const std::byte* at) {
    return std::bit_cast<float>(std::uint32_t{load_as<std::uint16_t>(at)} << 16);
  }
  static void store(std::byte* at, float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const bool is_number = (bits & ~kSign) <= kInfinity;
    store_as(at, is_number ? static_cast<std::uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) : kNotANumber);
  }
#if defined(__x86_64__)
  BEELINE_AVX2_INLINE static inline __m256 widened(__m128i bits) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  BEELINE_AVX2_INLINE static inline Lanes load16(const std::byte* at) {
    const auto* const from = reinterpret_cast<const __m128i*>(at);
    return {widened(_mm_loadu_si128(from)), widened(_mm_loadu_si128(from + 1))};
  }
  BEELINE_AVX2_INLINE static inline __m256i rounded(__m256 values) {
    const __m256i bits = _mm256_castps_si256(values);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), broadcast(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, broadcast(0x7FFF)), odd);
    const __m256i is_none = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), broadcast(kNotANumber), is_none);
  }
  template <bool kStream>
  BEELINE_AVX2_INLINE static inline void store16(std::byte* at, Lanes values) {
    formats::store<kStream>(at, pack16(rounded(values.low), rounded(values.high)));
  }
#endif
};

using BFloat16 = BFloat16As<0x7FC0>;
// What torch makes of a float32 tensor without gaps.
using BFloat16OfFloat32 = BFloat16As<0xFFFF>;

struct Float16 {
  static constexpr std::size_t kBytes = 2;
  static float load(const std::byte* at) {
    const std::uint32_t bits = load_as<std::uint16_t>(at);
    const std::uint32_t sign = (bits & 0x8000) << 16;
    const std::uint32_t mantissa = bits & 0x3FF;
    const std::uint32_t exponent = (bits >> 10) & 0x1F;
    if (exponent == 0x1F) {
      const std::uint32_t quiet = mantissa != 0 ? 0x00400000 : 0;
      return std::bit_cast<float>(sign | kInfinity | quiet | (mantissa << 13));
    }
    const float magnitude = exponent == 0 ? static_cast<float>(mantissa) * 0x1p-24F
                                          : std::bit_cast<float>(((bits & 0x7FFF) << 13) + (112U << 23));
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
  }
  static void store(std::byte* at, float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    store_as(at, static_cast<std::uint16_t>(((bits & kSign) >> 16) | magnitude_of(bits & ~kSign)));
  }

 private:
  static std::uint32_t magnitude_of(std::uint32_t bits) {
    if (bits > kInfinity) return 0x7E00 | ((bits >> 13) & 0x3FF);
    if (bits >= 0x477FF000) return 0x7C00;  // from 65,520 on
    if (bits < 0x38800000) {
      // Below 2^-14: a unit of the sum is one of the subnormal numbers.
      return std::bit_cast<std::uint32_t>(std::bit_cast<float>(bits) + 0.5F) - std::bit_cast<std::uint32_t>(0.5F);
    }
    return (bits - (112U << 23) + 0xFFF + ((bits >> 13) & 1)) >> 13;
  }

 public:
#if defined(__x86_64__)
  BEELINE_AVX2_INLINE static inline Lanes load16(const std::byte* at) {
    const auto* const from = reinterpret_cast<const __m128i*>(at);
    return {_mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from + 1))};
  }
  template <bool kStream>
  BEELINE_AVX2_INLINE static inline void store16(std::byte* at, Lanes values) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    formats::store<kStream>(
        at, _mm256_set_m128i(_mm256_cvtps_ph(values.high, kNearest), _mm256_cvtps_ph(values.low, kNearest)));
  }
#endif
};

// A sign, an exponent and `kMantissa` bits in one byte. What is too large becomes kLargest, what is no number
// kNotANumber; both keep their sign.
template <int kExponentBias, int kMantissa, std::uint32_t kLargest>
struct Float8 {
  static constexpr std::size_t kBytes = 1;
  static constexpr std::uint32_t kNotANumber = 0x7F;
  static constexpr int kDropped = 23 - kMantissa;
  static constexpr std::uint32_t kRebias = static_cast<std::uint32_t>(127 - kExponentBias) << 23;
  static constexpr std::uint32_t kHalf = (1U << (kDropped - 1)) - 1;
  // The smallest normal number, and the power of two whose unit is that of the subnormal ones.
  static constexpr std::uint32_t kSmallest = static_cast<std::uint32_t>(127 - kExponentBias + 1) << 23;
  static constexpr std::uint32_t kMagic = static_cast<std::uint32_t>(127 - kExponentBias + kDropped + 1) << 23;

  static void store(std::byte* at, float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    store_as(at, static_cast<std::uint8_t>(((bits & kSign) >> 24) | magnitude_of(bits & ~kSign)));
  }

 private:
  static std::uint32_t magnitude_of(std::uint32_t bits) {
    if (bits > kInfinity) return kNotANumber;
    if (bits < kSmallest) {
      return std::bit_cast<std::uint32_t>(std::bit_cast<float>(bits) + std::bit_cast<float>(kMagic)) - kMagic;
    }
    const std::uint32_t rounded = (bits - kRebias + kHalf + ((bits >> kDropped) & 1)) >> kDropped;
    return rounded < kLargest ? rounded : kLargest;
  }

 public:
#if defined(__x86_64__)
  BEELINE_AVX2_INLINE static inline __m256i rounded(__m256 values) {
    const __m256i bits = _mm256_castps_si256(values);
    const __m256i magnitude = _mm256_andnot_si256(broadcast(kSign), bits);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(magnitude, kDropped), broadcast(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(magnitude, broadcast(kHalf - kRebias)), odd);
    __m256i result = _mm256_min_epi32(_mm256_srli_epi32(sum, kDropped), broadcast(kLargest));
    const __m256 small = _mm256_add_ps(_mm256_castsi256_ps(magnitude), _mm256_castsi256_ps(broadcast(kMagic)));
    const __m256i is_small = _mm256_cmpgt_epi32(broadcast(kSmallest), magnitude);
    result = _mm256_blendv_epi8(result, _mm256_sub_epi32(_mm256_castps_si256(small), broadcast(kMagic)), is_small);
    const __m256i is_none = _mm256_cmpgt_epi32(magnitude, broadcast(kInfinity));
    result = _mm256_blendv_epi8(result, broadcast(kNotANumber), is_none);
    return _mm256_or_si256(result, _mm256_srli_epi32(_mm256_and_si256(bits, broadcast(kSign)), 24));
  }
  template <bool kStream>
  BEELINE_AVX2_INLINE static inline void store16(std::byte* at, Lanes values) {
    const __m256i words = pack16(rounded(values.low), rounded(values.high));
    formats::store<kStream>(at, _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  }
#endif
};
using Float8E4M3 = Float8<7, 3, 0x7E>;   // 448: it has no infinity
using Float8E5M2 = Float8<15, 2, 0x7C>;  // infinity

}  // namespace beeline::transfer::formats
