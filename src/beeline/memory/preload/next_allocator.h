// The allocator that would have served this program without us: libc's, or another preloaded one. Small
// requests go there, and every request until the arena is activated.
#pragma once

#include <cstddef>

namespace beeline::preload {

// Until resolve() has run, the entries resolve first and then forward, so that a call at any moment of the
// program's start is served.
struct NextAllocator {
  void* (*malloc)(std::size_t);
  void* (*calloc)(std::size_t, std::size_t);
  void* (*realloc)(void*, std::size_t);
  void (*free)(void*);
  void* (*memalign)(std::size_t, std::size_t);
  void* (*aligned_alloc)(std::size_t, std::size_t);
  int (*posix_memalign)(void**, std::size_t, std::size_t);
  void* (*valloc)(std::size_t);
  void* (*pvalloc)(std::size_t);
  std::size_t (*malloc_usable_size)(void*);
};

extern NextAllocator next;

// Looks the functions up behind us in the search order. Runs in the first call or in the constructor,
// whichever is earlier; the program has one thread then.
void resolve_next_allocator();

}  // namespace beeline::preload
