#include "beeline/transfer/convert.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>

#include "beeline/memory/copy.h"
#include "beeline/transfer/float_formats.h"

namespace beeline::transfer {

using Apply = void (*)(std::byte* to, const std::byte* from, std::size_t count);

struct ConversionKernel {
  DType from;
  DType to;
  Apply portable;
  Apply vectors = nullptr;  // null: `portable` is as good
  Apply past_caches = nullptr;
  Apply across_pages = nullptr;  // the same for processors that read so
};

namespace {

using namespace formats;  // NOLINT(google-build-using-namespace): the table below is made of nothing else

template <typename From, typename To>
void one_by_one(std::byte* to, const std::byte* from, std::size_t count) {
  for (; count > 0; --count, from += From::kBytes, to += To::kBytes) To::store(to, From::load(from));
}

// Between formats that the language has.
template <typename From, typename To>
void cast(std::byte* to, const std::byte* from, std::size_t count) {
  for (; count > 0; --count, from += sizeof(From), to += sizeof(To)) {
    store_as(to, static_cast<To>(load_as<From>(from)));
  }
}

#if defined(__x86_64__)
constexpr std::size_t kLanes = 16;

template <typename From, typename To, bool kStream>
BEELINE_AVX2 void by_sixteen(std::byte* to, const std::byte* from, std::size_t count) {
  for (; count >= kLanes; count -= kLanes, from += kLanes * From::kBytes, to += kLanes * To::kBytes) {
    To::template store16<kStream>(to, From::load16(from));
  }
  if (count == 0) return;
  std::array<std::byte, kLanes * From::kBytes> source{};
  std::array<std::byte, kLanes * To::kBytes> target;
  std::memcpy(source.data(), from, count * From::kBytes);
  To::template store16<false>(target.data(), From::load16(source.data()));
  std::memcpy(to, target.data(), count * To::kBytes);
}

// As memory::copy_bytes() has it: a few lines of each of several pages in turn. Stores past the caches.
template <typename From, typename To>
BEELINE_AVX2 void across_pages(std::byte* to, const std::byte* from, std::size_t count) {
  using memory::kLine;
  constexpr std::size_t kInPage = memory::kPage / From::kBytes;
  constexpr std::size_t kGroup = memory::kPagesAcross * kInPage;
  // Whole lines of either side.
  constexpr std::size_t kStep = std::max(2 * kLine / From::kBytes, kLine / To::kBytes);
  for (; count >= kGroup; count -= kGroup, from += kGroup * From::kBytes, to += kGroup * To::kBytes) {
    for (std::size_t in_page = 0; in_page < kInPage; in_page += kStep) {
      for (std::size_t at = in_page; at < kGroup; at += kInPage) {
        const std::byte* const ahead = from + (at + kGroup) * From::kBytes;  // past the end it is no access
        for (std::size_t line = 0; line < kStep * From::kBytes; line += kLine) {
          _mm_prefetch(reinterpret_cast<const char*>(ahead + line), _MM_HINT_T1);
        }
        for (std::size_t i = at; i < at + kStep; i += kLanes) {
          To::template store16<true>(to + i * To::kBytes, From::load16(from + i * From::kBytes));
        }
      }
    }
  }
  by_sixteen<From, To, true>(to, from, count);
}
#endif

template <typename From, typename To>
constexpr ConversionKernel kernel(DType from, DType to) {
#if defined(__x86_64__)
  return {
      from, to, one_by_one<From, To>, by_sixteen<From, To, false>, by_sixteen<From, To, true>, across_pages<From, To>};
#else
  return {from, to, one_by_one<From, To>};
#endif
}

constexpr std::array kKernels{
    kernel<Float32, BFloat16OfFloat32>(kFloat32, kBFloat16),
    kernel<Float32, Float16>(kFloat32, kFloat16),
    kernel<Float32, Float8E4M3>(kFloat32, kFloat8E4M3),
    kernel<Float32, Float8E5M2>(kFloat32, kFloat8E5M2),
    ConversionKernel{kFloat32, kFloat64, cast<float, double>},
    ConversionKernel{kFloat64, kFloat32, cast<double, float>},
    kernel<BFloat16, Float32>(kBFloat16, kFloat32),
    kernel<BFloat16, Float16>(kBFloat16, kFloat16),
    kernel<BFloat16, Float8E4M3>(kBFloat16, kFloat8E4M3),
    kernel<BFloat16, Float8E5M2>(kBFloat16, kFloat8E5M2),
    kernel<Float16, Float32>(kFloat16, kFloat32),
    kernel<Float16, BFloat16>(kFloat16, kBFloat16),
    kernel<Float16, Float8E4M3>(kFloat16, kFloat8E4M3),
    kernel<Float16, Float8E5M2>(kFloat16, kFloat8E5M2),
};

// "float32 to bfloat16, float16; bfloat16 to ..."
std::string list_of_all() {
  std::string text;
  const DType* last = nullptr;
  for (const auto& each : kKernels) {
    const bool goes_on = last != nullptr && *last == each.from;
    if (!goes_on) text += (last == nullptr ? "" : "; ") + name_of(each.from) + " to ";
    text += (goes_on ? ", " : "") + name_of(each.to);
    last = &each.from;
  }
  return text;
}

}  // namespace

Result<Conversion> Conversion::of(DType from, DType to) {
  BEELINE_ASSIGN(Conversion found, portable(from, to));
  found.vectors_ = found.kernel_->vectors != nullptr && has_vectors();
  return found;
}

Result<Conversion> Conversion::portable(DType from, DType to) {
  for (const ConversionKernel& each : kKernels) {
    if (each.from == from && each.to == to) return Conversion(&each, false);
  }
  return Status(Code::kInvalidArgument,
                name_of(from) + " is not converted to " + name_of(to) + "; there are " + list_of_all());
}

DType Conversion::from() const {
  return kernel_->from;
}

DType Conversion::to() const {
  return kernel_->to;
}

void Conversion::apply(std::byte* to, const std::byte* from, std::size_t count, Stores stores) const {
  if (!vectors_) return kernel_->portable(to, from, count);
#if defined(__x86_64__)
  constexpr std::size_t kAlign = memory::kLine;
  const std::size_t size = kernel_->to.bytes();
  const std::size_t head = (kAlign - reinterpret_cast<std::uintptr_t>(to) % kAlign) % kAlign;
  if (stores == Stores::kPastCaches && head % size == 0) {
    const std::size_t first = std::min(count, head / size);
    kernel_->vectors(to, from, first);
    const auto rest = memory::reads_in_order() ? kernel_->past_caches : kernel_->across_pages;
    rest(to + first * size, from + first * kernel_->from.bytes(), count - first);
    // These stores are ordered with nothing: who publishes the bytes does so after this.
    _mm_sfence();
    return;
  }
#endif
  kernel_->vectors(to, from, count);
}

void Conversion::apply_strided(std::byte* to, std::ptrdiff_t to_stride, const std::byte* from,
                               std::ptrdiff_t from_stride, std::size_t count) const {
  constexpr std::size_t kAtOnce = 256;
  const std::size_t from_size = kernel_->from.bytes();
  const std::size_t to_size = kernel_->to.bytes();
  std::array<std::byte, kAtOnce * 8> gathered;
  std::array<std::byte, kAtOnce * 8> converted;
  while (count > 0) {
    const std::size_t size = std::min(count, kAtOnce);
    for (std::size_t i = 0; i < size; ++i, from += from_stride) {
      std::memcpy(gathered.data() + i * from_size, from, from_size);
    }
    apply(converted.data(), gathered.data(), size);
    for (std::size_t i = 0; i < size; ++i, to += to_stride) {
      std::memcpy(to, converted.data() + i * to_size, to_size);
    }
    count -= size;
  }
}

}  // namespace beeline::transfer
