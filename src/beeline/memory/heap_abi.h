// The C interface between an Arena and the heap it publishes from. The preload library exports one as
// `beeline_arena_abi`; an arena of its own uses the same table over a heap in its own library, so that
// Arena has a single path.
#pragma once

#include <cstdint>

#include "beeline/memory/heap.h"

extern "C" {

struct beeline_heap_abi {
  std::uint32_t version;      // kHeapAbiVersion
  std::uint32_t table_bytes;  // sizeof(beeline_heap_abi)
  // Why the library does not serve memory (another allocator, a sanitizer, switched off), or null.
  const char* (*stands_aside)();
  // Starts serving. Zero, or errno; EALREADY when it does so already.
  int (*activate)(void* heap, std::uint64_t capacity_bytes, std::uint64_t quota_bytes);
  void* heap;  // the first argument of every function here
  bool (*is_active)(const void* heap);
  int (*fd)(const void* heap);
  void* (*base)(const void* heap);
  void* (*allocate)(void* heap, std::uint64_t size);
  bool (*release)(void* heap, void* data);
  std::int64_t (*offset_of)(const void* heap, const void* data, std::uint64_t size);
  std::int64_t (*pin)(void* heap, std::uint64_t offset, std::uint64_t size);
  void (*unpin)(void* heap, std::uint64_t block_offset);
  bool (*is_private)(const void* heap, std::uint64_t block_offset);
  std::uint64_t (*trim)(void* heap, std::uint64_t keep_bytes);
  void (*set_quota)(void* heap, std::uint64_t quota_bytes);
  void (*stats)(const void* heap, beeline::memory::HeapStats* stats);
};

}  // extern "C"

namespace beeline::memory {

inline constexpr std::uint32_t kHeapAbiVersion = 3;
inline constexpr const char* kHeapAbiSymbol = "beeline_arena_abi";

// The table over a heap compiled into the caller's library. `heap` outlives it.
beeline_heap_abi make_heap_abi(Heap& heap);

}  // namespace beeline::memory
