#include "beeline/memory/preload/next_allocator.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace beeline::preload {
namespace {

// dlsym() may allocate while we look the allocator up. Such memory is small, rare, and never given back.
alignas(16) char boot_memory[16384];
std::size_t boot_used = 0;
bool resolving = false;

bool is_boot_memory(const void* data) {
  return static_cast<const char*>(data) >= boot_memory &&
         static_cast<const char*>(data) < boot_memory + sizeof boot_memory;
}

void* boot_allocate(std::size_t size) {
  size = (size + 15) / 16 * 16;
  if (size > sizeof boot_memory - boot_used) return nullptr;
  void* data = boot_memory + boot_used;
  boot_used += size;
  return data;
}

// Frees and reallocations of boot memory may come at any later time, so these two stay in front for good
// when boot memory was ever used.
void (*true_free)(void*) = nullptr;
void* (*true_realloc)(void*, std::size_t) = nullptr;

void careful_free(void* data) {
  if (!is_boot_memory(data)) true_free(data);
}

void* careful_realloc(void* data, std::size_t size) {
  if (!is_boot_memory(data)) return true_realloc(data, size);
  void* moved = next.malloc(size);
  const std::size_t available = static_cast<std::size_t>(boot_memory + sizeof boot_memory - static_cast<char*>(data));
  if (moved != nullptr) std::memcpy(moved, data, size < available ? size : available);
  return moved;
}

void* first_malloc(std::size_t size) {
  if (resolving) return boot_allocate(size);
  resolve_next_allocator();
  return next.malloc(size);
}
void* first_calloc(std::size_t count, std::size_t size) {
  if (resolving) return size != 0 && count > SIZE_MAX / size ? nullptr : boot_allocate(count * size);
  resolve_next_allocator();
  return next.calloc(count, size);
}
void* first_realloc(void* data, std::size_t size) {
  if (resolving) return data == nullptr ? boot_allocate(size) : nullptr;
  resolve_next_allocator();
  return next.realloc(data, size);
}
void first_free(void* data) {
  if (resolving || data == nullptr) return;
  resolve_next_allocator();
  next.free(data);
}
void* first_memalign(std::size_t alignment, std::size_t size) {
  resolve_next_allocator();
  return next.memalign(alignment, size);
}
void* first_aligned_alloc(std::size_t alignment, std::size_t size) {
  resolve_next_allocator();
  return next.aligned_alloc(alignment, size);
}
int first_posix_memalign(void** out, std::size_t alignment, std::size_t size) {
  resolve_next_allocator();
  return next.posix_memalign(out, alignment, size);
}
void* first_valloc(std::size_t size) {
  resolve_next_allocator();
  return next.valloc(size);
}
void* first_pvalloc(std::size_t size) {
  resolve_next_allocator();
  return next.pvalloc(size);
}
std::size_t first_malloc_usable_size(void* data) {
  resolve_next_allocator();
  return next.malloc_usable_size(data);
}

template <typename Function>
void look_up(Function& function, const char* name) {
  void* found = ::dlsym(RTLD_NEXT, name);
  if (found == nullptr) {
    constexpr char kMessage[] = "beeline: the C library lacks an allocation function\n";
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, kMessage, sizeof kMessage - 1);
    ::_exit(127);
  }
  function = reinterpret_cast<Function>(found);
}

}  // namespace

constinit NextAllocator next = {
    first_malloc,        first_calloc,         first_realloc, first_free,    first_memalign,
    first_aligned_alloc, first_posix_memalign, first_valloc,  first_pvalloc, first_malloc_usable_size,
};

void resolve_next_allocator() {
  if (resolving || next.malloc != first_malloc) return;
  resolving = true;
  NextAllocator found{};
  look_up(found.malloc, "malloc");
  look_up(found.calloc, "calloc");
  look_up(found.realloc, "realloc");
  look_up(found.free, "free");
  look_up(found.memalign, "memalign");
  look_up(found.aligned_alloc, "aligned_alloc");
  look_up(found.posix_memalign, "posix_memalign");
  look_up(found.valloc, "valloc");
  look_up(found.pvalloc, "pvalloc");
  look_up(found.malloc_usable_size, "malloc_usable_size");
  if (boot_used > 0) {
    true_free = found.free;
    true_realloc = found.realloc;
    found.free = careful_free;
    found.realloc = careful_realloc;
  }
  next = found;
  resolving = false;
}

}  // namespace beeline::preload
