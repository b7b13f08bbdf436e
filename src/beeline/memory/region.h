// Names of pieces of an arena that travel between processes.
#pragma once

#include <cstdint>
#include <type_traits>

namespace beeline::memory {

// Bytes [offset, offset + length) of an arena.
struct Range {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  friend bool operator==(const Range&, const Range&) = default;
};
static_assert(sizeof(Range) == 16 && std::is_trivially_copyable_v<Range>);

// One publication of an arena: ranges that are leased together. A slot is reused with another generation.
struct PublicationId {
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;
  friend bool operator==(const PublicationId&, const PublicationId&) = default;
};
static_assert(sizeof(PublicationId) == 8 && std::is_trivially_copyable_v<PublicationId>);

}  // namespace beeline::memory
