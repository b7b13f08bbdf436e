// The complete allocation family. Fresh requests of 1 MiB and more come from the arena once it is active, so
// that tensors are born shareable; everything else goes on to the next allocator at the price of one
// comparison. Memory that the next allocator gave stays with it on realloc, because libc moves large blocks
// without copying (mremap); calloc is left to it as well, because it alone knows which pages are zero.
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "beeline/memory/preload/library.h"
#include "beeline/memory/preload/next_allocator.h"

namespace beeline::preload {

constinit memory::Heap heap;

namespace {

// Null when the request is not for the arena, or when the arena cannot serve it: the caller goes on.
void* from_arena(std::size_t size, std::size_t alignment) {
  if (size < kThreshold || !heap.is_active()) [[likely]]
    return nullptr;
  return heap.allocate(size, alignment);
}

constexpr bool is_power_of_two(std::size_t value) {
  return value != 0 && (value & (value - 1)) == 0;
}

// Realloc of a block of the arena.
void* resize(void* data, std::size_t size) {
  if (size == 0) {
    heap.release(data);
    return nullptr;
  }
  const std::size_t held = heap.usable_size(data);
  if (size <= held && size > held / 2) return data;
  if (size > held && heap.grow(data, size)) return data;
  // What grows once will grow again: it moves to memory that can grow without copying.
  void* moved = next.malloc(size);
  if (moved == nullptr) return size <= held ? data : nullptr;
  std::memcpy(moved, data, size < held ? size : held);
  heap.release(data);
  return moved;
}

}  // namespace
}  // namespace beeline::preload

using beeline::os::kPageSize;
using beeline::preload::from_arena;
using beeline::preload::heap;
using beeline::preload::is_power_of_two;
using beeline::preload::kThreshold;
using beeline::preload::next;

BEELINE_EXPORT void* malloc(std::size_t size) noexcept {
  if (size < kThreshold) [[likely]]
    return next.malloc(size);
  if (void* data = from_arena(size, kPageSize)) return data;
  return next.malloc(size);
}

BEELINE_EXPORT void* calloc(std::size_t count, std::size_t size) noexcept {
  return next.calloc(count, size);
}

BEELINE_EXPORT void free(void* data) noexcept {
  if (heap.contains(data)) [[unlikely]] {
    const int error = errno;  // free() leaves errno alone
    heap.release(data);
    errno = error;
    return;
  }
  next.free(data);
}

BEELINE_EXPORT void* realloc(void* data, std::size_t size) noexcept {
  if (data == nullptr) return malloc(size);
  if (heap.contains(data)) [[unlikely]]
    return beeline::preload::resize(data, size);
  return next.realloc(data, size);
}

BEELINE_EXPORT void* reallocarray(void* data, std::size_t count, std::size_t size) noexcept {
  if (size != 0 && count > SIZE_MAX / size) {
    errno = ENOMEM;
    return nullptr;
  }
  return realloc(data, count * size);
}

BEELINE_EXPORT void* memalign(std::size_t alignment, std::size_t size) noexcept {
  if (is_power_of_two(alignment)) {
    if (void* data = from_arena(size, alignment)) return data;
  }
  return next.memalign(alignment, size);
}

BEELINE_EXPORT void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  if (is_power_of_two(alignment)) {
    if (void* data = from_arena(size, alignment)) return data;
  }
  return next.aligned_alloc(alignment, size);
}

BEELINE_EXPORT int posix_memalign(void** out, std::size_t alignment, std::size_t size) noexcept {
  if (is_power_of_two(alignment) && alignment % sizeof(void*) == 0) {
    if (void* data = from_arena(size, alignment)) {
      *out = data;
      return 0;
    }
  }
  return next.posix_memalign(out, alignment, size);
}

BEELINE_EXPORT void* valloc(std::size_t size) noexcept {
  if (void* data = from_arena(size, kPageSize)) return data;
  return next.valloc(size);
}

BEELINE_EXPORT void* pvalloc(std::size_t size) noexcept {
  if (void* data = from_arena(size, kPageSize)) return data;
  return next.pvalloc(size);
}

BEELINE_EXPORT std::size_t malloc_usable_size(void* data) noexcept {
  if (heap.contains(data)) [[unlikely]]
    return heap.usable_size(data);
  return next.malloc_usable_size(data);
}
