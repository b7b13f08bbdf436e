// Runs as copies in a stream: so many bytes at a time, with a look at the deadline between them.
#pragma once

#include <cstdint>

#include "beeline/transport/gpu.h"
#include "beeline/transport/transport.h"

namespace beeline::transport::cuda_ipc {

// Between memory of a peer and local memory, each of a GPU, or one of them the host's. One thread.
class Copies {
 public:
  // The lane is of `gpu`; `remote` and `local` are the GPUs that the memory lies on, null for the host's. Two of them
  // copy to each other directly, or by way of the host.
  Copies(Lane& lane, const Gpu& gpu, const Gpu* remote, const Gpu* local, bool is_direct, Access access)
      : lane_(lane), gpu_(gpu), remote_(remote), local_(local), is_direct_(is_direct), access_(access) {}

  // A run whose offset counts from `remote`. Once it fails, finish() and nothing else.
  Status add(const Run& run, cuda::Address remote, const os::Wait& wait);
  // Until no copy goes on: not given up, for none can be taken back.
  Status finish();
  [[nodiscard]] std::uint64_t count() const { return count_; }

 private:
  [[nodiscard]] bool is_between_gpus() const { return remote_ != nullptr && local_ != nullptr && remote_ != local_; }
  Status copy(cuda::Address remote, std::byte* local, std::uint64_t bytes);
  Status copy_rows(cuda::Address remote, std::byte* local, const Run& run, std::uint64_t rows);
  Status added(std::uint64_t bytes, const os::Wait& wait);

  Lane& lane_;
  const Gpu& gpu_;
  const Gpu* const remote_;
  const Gpu* const local_;
  const bool is_direct_;
  const Access access_;
  std::uint64_t count_ = 0;
  std::uint64_t calls_ = 0;  // since the last look at the deadline
  std::uint64_t bytes_ = 0;  // likewise
};

}  // namespace beeline::transport::cuda_ipc
