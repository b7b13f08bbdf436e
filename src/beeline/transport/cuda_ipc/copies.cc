#include "beeline/transport/cuda_ipc/copies.h"

#include <algorithm>
#include <utility>

namespace beeline::transport::cuda_ipc {
namespace {

// Between two looks at the deadline: some milliseconds over PCIe, and not so many calls that the stream is full.
constexpr std::uint64_t kSlice = std::uint64_t{64} << 20;
constexpr std::uint64_t kMaxCalls = 512;
// Of one copy with rows.
constexpr std::uint64_t kMaxRows = std::uint64_t{1} << 16;

}  // namespace

Status Copies::copy(cuda::Address remote, std::byte* local, std::uint64_t bytes) {
  const auto& functions = lane_.driver().functions();
  const bool reads = access_ == Access::kRead;
  const cuda::Address from = reads ? remote : cuda::address_of(local);
  const cuda::Address to = reads ? cuda::address_of(local) : remote;
  if (!is_between_gpus()) return lane_.driver().call(functions.copy, to, from, bytes, lane_.stream());
  const cuda::Context from_context = (reads ? remote_ : local_)->context();
  const cuda::Context to_context = (reads ? local_ : remote_)->context();
  return lane_.driver().call(functions.copy_peer, to, to_context, from, from_context, bytes, lane_.stream());
}

Status Copies::copy_rows(cuda::Address remote, std::byte* local, const Run& run, std::uint64_t rows) {
  struct Side {
    const Gpu* gpu;
    cuda::Address address;
    std::uint64_t pitch;
  };
  Side from{remote_, remote, run.stride};
  Side to{local_, cuda::address_of(local), run.local_stride};
  if (access_ == Access::kWrite) std::swap(from, to);
  const std::uint32_t device = is_between_gpus() ? cuda::kMemoryUnified : cuda::kMemoryDevice;
  cuda::Copy2d copy;
  copy.width = run.length;
  copy.height = rows;
  copy.source_pitch = from.pitch;
  copy.target_pitch = to.pitch;
  copy.source_type = from.gpu != nullptr ? device : cuda::kMemoryHost;
  copy.target_type = to.gpu != nullptr ? device : cuda::kMemoryHost;
  copy.source_device = from.address;  // or, of the same address,
  copy.source_host = reinterpret_cast<const void*>(static_cast<std::uintptr_t>(from.address));  // NOLINT
  copy.target_device = to.address;
  copy.target_host = reinterpret_cast<void*>(static_cast<std::uintptr_t>(to.address));  // NOLINT
  return lane_.driver().call(lane_.driver().functions().copy_2d, &copy, lane_.stream());
}

Status Copies::added(std::uint64_t bytes, const os::Wait& wait) {
  ++count_;
  bytes_ += bytes;
  if (++calls_ < kMaxCalls && bytes_ < kSlice) return Status::ok();
  BEELINE_RETURN_IF_ERROR(finish());
  return wait.check();
}

Status Copies::add(const Run& run, cuda::Address remote, const os::Wait& wait) {
  if (run.bytes() == 0) return Status::ok();
  const cuda::Address from = remote + run.offset;
  const bool has_rows = is_direct_ && run.count > 1 && run.stride >= run.length && run.local_stride >= run.length &&
                        std::max(run.stride, run.local_stride) <= gpu_.max_pitch() && run.length <= kSlice;
  if (has_rows) {
    const std::uint64_t at_once = std::clamp<std::uint64_t>(kSlice / run.length, 1, kMaxRows);
    for (std::uint64_t row = 0; row < run.count; row += at_once) {
      const std::uint64_t rows = std::min(at_once, run.count - row);
      BEELINE_RETURN_IF_ERROR(copy_rows(from + row * run.stride, run.local + row * run.local_stride, run, rows));
      BEELINE_RETURN_IF_ERROR(added(rows * run.length, wait));
    }
    return Status::ok();
  }
  for (std::uint64_t i = 0; i < run.count; ++i) {
    for (std::uint64_t at = 0; at < run.length; at += kSlice) {
      const std::uint64_t bytes = std::min(kSlice, run.length - at);
      BEELINE_RETURN_IF_ERROR(copy(from + i * run.stride + at, run.local + i * run.local_stride + at, bytes));
      BEELINE_RETURN_IF_ERROR(added(bytes, wait));
    }
  }
  return Status::ok();
}

Status Copies::finish() {
  calls_ = bytes_ = 0;
  return lane_.finish();
}

}  // namespace beeline::transport::cuda_ipc
