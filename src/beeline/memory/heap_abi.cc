#include "beeline/memory/heap_abi.h"

namespace beeline::memory {
namespace {

Heap& as_heap(void* heap) {
  return *static_cast<Heap*>(heap);
}
const Heap& as_heap(const void* heap) {
  return *static_cast<const Heap*>(heap);
}

}  // namespace

beeline_heap_abi make_heap_abi(Heap& heap) {
  return {
      .version = kHeapAbiVersion,
      .table_bytes = sizeof(beeline_heap_abi),
      .stands_aside = []() -> const char* { return nullptr; },
      .activate = [](void* h, std::uint64_t capacity, std::uint64_t quota) { return as_heap(h).open(capacity, quota); },
      .heap = &heap,
      .is_active = [](const void* h) { return as_heap(h).is_active(); },
      .fd = [](const void* h) { return as_heap(h).fd(); },
      .base = [](const void* h) -> void* { return as_heap(h).base(); },
      .allocate = [](void* h, std::uint64_t size) -> void* { return as_heap(h).allocate(size); },
      .release = [](void* h, void* data) { return as_heap(h).release(data); },
      .offset_of = [](const void* h, const void* data, std::uint64_t size) { return as_heap(h).offset_of(data, size); },
      .pin = [](void* h, std::uint64_t offset, std::uint64_t size) { return as_heap(h).pin(offset, size); },
      .unpin = [](void* h, std::uint64_t offset) { as_heap(h).unpin(offset); },
      .is_private = [](const void* h, std::uint64_t offset) { return as_heap(h).is_private(offset); },
      .trim = [](void* h, std::uint64_t keep) { return as_heap(h).trim(keep); },
      .set_quota = [](void* h, std::uint64_t quota) { as_heap(h).set_quota(quota); },
      .stats = [](const void* h, HeapStats* stats) { *stats = as_heap(h).stats(); },
  };
}

}  // namespace beeline::memory
