// The owner's side: it answers readers' requests by sends and receives of its own, on a thread for each connection.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "beeline/os/byte_stream.h"
#include "beeline/os/nccl_library.h"
#include "beeline/os/unix_socket.h"
#include "beeline/os/wait.h"
#include "beeline/transport/announcer.h"
#include "beeline/transport/connection_server.h"
#include "beeline/transport/gpu.h"
#include "beeline/transport/nccl/communicator.h"
#include "beeline/transport/nccl/messages.h"
#include "beeline/transport/nccl_options.h"
#include "beeline/transport/served_extents.h"

namespace beeline::transport::nccl {

// Two ranks of a communicator cannot be on one GPU.
Status one_gpu();

// Thread-safe. Nothing runs before the first reader asks for its contact.
class NcclExporter final : public Exporter {
 public:
  // A reader that moves nothing for so long is given up: what it reads from must not stay held for its sake.
  static constexpr Nanos kStallPatience = std::chrono::seconds(30);

  NcclExporter(std::shared_ptr<Gpus> gpus, NcclOptions options, Nanos stall_patience = kStallPatience);

  Result<Bytes> contact() override;
  Result<Bytes> key(memory::PublicationId id, const RegionSource::Held& held, Access access) override;
  // What moves just now is waited for, for a moment; then it is given up.
  void withdraw(memory::PublicationId id) override { extents_.withdraw(id); }
  Status check(const std::byte* data, std::uint64_t length, const Device& device) override;
  Status announce(const Device& device, std::uintptr_t stream) override { return announcers_.announce(device, stream); }
  void count_refusals_in(SharedCount refused) override { connections_.count_refusals_in(std::move(refused)); }

 private:
  // One reader.
  struct Session {
    os::FrameSocket socket;
    std::shared_ptr<Gpu> gpu;
    std::unique_ptr<Communicator> communicator;
    std::vector<RunRecord> runs;  // of the request that is being answered
  };
  class Watch;

  Status serve(std::unique_ptr<os::ByteStream> stream, os::Wait wait, FunctionRef<void()> admit);
  Status join(Session& session, const Join& join, const os::Wait& wait);
  Status answer(Session& session, Op op, const os::Wait& wait);
  // What the runs are on the session's GPU.
  Result<std::vector<Piece>> resolve(const Session& session, const ServedExtents::Hold& held) const;

  const std::shared_ptr<Gpus> gpus_;
  const NcclOptions options_;
  const Nanos stall_patience_;
  Bytes secret_;
  Announcers announcers_;
  ServedExtents extents_;
  ConnectionServer connections_;  // the last: its threads use the above
};

}  // namespace beeline::transport::nccl
