// The two ranks of one connection, this process's and its peer's, as NCCL has them; and what moves between them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "beeline/base/function_ref.h"
#include "beeline/os/nccl_library.h"
#include "beeline/transport/gpu.h"
#include "beeline/transport/nccl/messages.h"

namespace beeline::transport::nccl {

// Memory of this process's GPU.
struct Piece {
  std::byte* data = nullptr;
  std::uint64_t bytes = 0;
};
enum class Way : std::uint8_t { kSend, kReceive };

// One thread at a time. Where a call fails it has been given up on both sides: it moves nothing any more.
class Communicator {
 public:
  // Together with the peer. `go_on` is asked now and then, here and below: its failure ends the wait, and is the
  // call's.
  static Result<std::unique_ptr<Communicator>> make(const os::nccl::Library& library, std::shared_ptr<Gpu> gpu,
                                                    const os::nccl::UniqueId& id, int rank,
                                                    FunctionRef<Status()> go_on);
  ~Communicator() { abort(); }
  Communicator(const Communicator&) = delete;

  // All pieces, as many and as long as the peer has them, in the lane's stream, whose GPU is the communicator's; until
  // they have moved. When it returns, with whatever outcome, the stream holds nothing more of it.
  Status move(std::span<const Piece> pieces, Way way, Lane& lane, FunctionRef<Status()> go_on);

 private:
  Communicator(const os::nccl::Library& library, std::shared_ptr<Gpu> gpu, int rank)
      : library_(library), gpu_(std::move(gpu)), rank_(rank) {}
  Status init(const os::nccl::UniqueId& id, FunctionRef<Status()> go_on);
  Status put(std::span<const Piece> pieces, Way way, cuda::Stream stream);
  // Until what NCCL does in threads of its own is done: then, and not before, all of a group is in its stream.
  Status wait_until_ready(const char* what, FunctionRef<Status()> go_on);
  Status check();
  void abort();

  const os::nccl::Library& library_;
  const std::shared_ptr<Gpu> gpu_;
  const int rank_;
  os::nccl::Comm comm_ = nullptr;
};

}  // namespace beeline::transport::nccl
