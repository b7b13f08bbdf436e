#include "beeline/transport/transport.h"

#include <algorithm>

namespace beeline::transport {
namespace {

// offset + (count - 1) * stride + length, or nothing where that does not fit.
bool extent_of(const Run& run, std::uint64_t& end) {
  std::uint64_t last = 0;
  return run.count > 0 && !__builtin_mul_overflow(run.count - 1, run.stride, &last) &&
         !__builtin_add_overflow(last, run.length, &end) && !__builtin_add_overflow(end, run.offset, &end);
}

}  // namespace

Status check_bounds(std::span<const Run> runs) {
  for (const Run& run : runs) {
    std::uint64_t end = 0;
    std::uint64_t bytes = 0;
    if (extent_of(run, end) && end <= run.region->length && !__builtin_mul_overflow(run.length, run.count, &bytes)) {
      continue;
    }
    return {Code::kInvalidArgument, std::to_string(run.count) + " runs of " + std::to_string(run.length) +
                                        " bytes from byte " + std::to_string(run.offset) + " on, " +
                                        std::to_string(run.stride) + " apart, leave the region of " +
                                        std::to_string(run.region->length) + " bytes"};
  }
  return Status::ok();
}

Status check_extents(const Run& run, std::span<const memory::Range> extents) {
  const auto is_inside = [&](std::uint64_t start, std::uint64_t end) {
    const auto after = std::upper_bound(extents.begin(), extents.end(), start,
                                        [](std::uint64_t value, const memory::Range& e) { return value < e.offset; });
    return after != extents.begin() && end <= std::prev(after)->offset + std::prev(after)->length;
  };
  std::uint64_t end = 0;
  if (extent_of(run, end) && is_inside(run.offset, end)) return Status::ok();
  for (std::uint64_t i = 0; i < run.count; ++i) {
    const std::uint64_t start = run.offset + i * run.stride;
    if (is_inside(start, start + run.length)) continue;
    return {Code::kInvalidArgument, std::to_string(run.length) + " bytes at " + std::to_string(start) +
                                        " are not among what was registered of the region"};
  }
  return Status::ok();
}

Status check_in_arena(const PeerFacts& peer, const Region& region) {
  if (!region.in_arena()) {
    return {
        Code::kUnsupported,
        "the memory does not lie in the peer's arena: make it with Agent.empty(), or publish() it (in a process "
        "that runs under `beeline run`, tensors of 1 MiB and more lie there if they are made once it has an agent)"};
  }
  if (peer.arena->is_detached(region.id)) {
    return {Code::kUnsupported,
            "the peer has forked since it registered the memory: what it has written afterwards does not show in its "
            "arena. What it registers or publishes in memory of a later day does"};
  }
  const std::uint64_t capacity = peer.arena->capacity_bytes();
  if (region.arena_offset > capacity || region.length > capacity - region.arena_offset) {
    return {Code::kInvalidArgument,
            "the region lies outside the peer's arena of " + std::to_string(capacity) + " bytes"};
  }
  return Status::ok();
}

Status torn() {
  return {Code::kTorn,
          "the owner wrote to the tensors while they were read: read them again, or have it publish() versions"};
}

std::uint64_t bytes_of(std::span<const Run> runs) {
  std::uint64_t total = 0;
  for (const Run& run : runs) total += run.bytes();
  return total;
}

}  // namespace beeline::transport
