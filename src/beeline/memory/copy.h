// Copying into arena memory.
#pragma once

#include <cstddef>

namespace beeline::memory {

// As memcpy. Large copies go past the caches: the target is not read before it is written, and neither side displaces
// what the program works with. At 1 GiB it has 1.6 times memcpy's speed on an AMD EPYC 9004, and 1.2 times on an Intel
// Xeon of the 5th generation.
void copy_bytes(std::byte* to, const std::byte* from, std::size_t size);

// How one core reads memory that no cache holds quickest: one line after the other (AMD's), or a few lines each of
// kPagesAcross pages in turn, the same lines of the next pages fetched ahead (all others).
bool reads_in_order();
inline constexpr std::size_t kPagesAcross = 8;
inline constexpr std::size_t kPage = 4096;
inline constexpr std::size_t kLine = 64;

}  // namespace beeline::memory
