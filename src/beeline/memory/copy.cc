#include "beeline/memory/copy.h"

#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace beeline::memory {
namespace {

constexpr std::size_t kLine = 64;
// From here on it is quicker; below, the reader finds more of it in a cache.
[[maybe_unused]] constexpr std::size_t kPastCaches = std::size_t{16} << 20;
[[maybe_unused]] constexpr std::size_t kAhead = 16 * kLine;

}  // namespace

#if defined(__x86_64__)

void copy_bytes(std::byte* to, const std::byte* from, std::size_t size) {
  if (size < kPastCaches) {
    std::memcpy(to, from, size);
    return;
  }
  const std::size_t head = (kLine - reinterpret_cast<std::size_t>(to) % kLine) % kLine;
  std::memcpy(to, from, head);
  to += head;
  from += head;
  size -= head;
  const std::byte* const end = from + size / kLine * kLine;
  for (; from != end; from += kLine, to += kLine) {
    // A prefetch past the end of the source is no access.
    _mm_prefetch(reinterpret_cast<const char*>(from + kAhead), _MM_HINT_NTA);
    const auto* source = reinterpret_cast<const __m128i*>(from);
    auto* target = reinterpret_cast<__m128i*>(to);
    const __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
    const __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
    _mm_stream_si128(target, a);
    _mm_stream_si128(target + 1, b);
    _mm_stream_si128(target + 2, c);
    _mm_stream_si128(target + 3, d);
  }
  // These stores are ordered with nothing: who publishes the bytes does so after this.
  _mm_sfence();
  std::memcpy(to, from, size % kLine);
}

#else

void copy_bytes(std::byte* to, const std::byte* from, std::size_t size) {
  std::memcpy(to, from, size);
}

#endif

}  // namespace beeline::memory
