// A reader's connection to an owner's side, between one GPU of each.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "beeline/os/fd.h"
#include "beeline/os/nccl_library.h"
#include "beeline/os/unix_socket.h"
#include "beeline/os/wait.h"
#include "beeline/transport/exposures.h"
#include "beeline/transport/gpu.h"
#include "beeline/transport/nccl/communicator.h"
#include "beeline/transport/nccl/messages.h"
#include "beeline/transport/transport.h"

namespace beeline::transport::nccl {

// One owner, as a reader knows it. Outlives its channels.
struct Owner {
  std::string name;
  bool is_on_this_host = false;
  os::Fd pidfd;                     // where it is
  std::vector<os::TcpAddress> tcp;  // where it is not; only their hosts
  Contact contact;
};

// One thread at a time.
class Channel {
 public:
  // Connects, and makes a communicator of the two. `uuid` is that of this process's `gpu`.
  static Result<std::unique_ptr<Channel>> open(const Owner& owner, const os::nccl::Library& library,
                                               std::shared_ptr<Gpu> gpu, const Bytes& uuid, std::int32_t theirs,
                                               const os::Wait& wait);

  // The runs' keys are of the owner's side, their local memory of the channel's GPU.
  Status transfer(Access access, std::span<const KeyedRun> runs, const os::Wait& wait);
  // Else it is of no use any more.
  [[nodiscard]] bool is_in_order() const { return is_in_order_; }

 private:
  Channel(const Owner& owner, std::shared_ptr<Gpu> gpu) : owner_(owner), gpu_(std::move(gpu)) {}
  Status connect(const os::Wait& wait);
  Status join(const os::nccl::Library& library, const Bytes& uuid, std::int32_t theirs, const os::Wait& wait);
  Status ask(BytesView frame, const os::Wait& wait);
  // A reply that is awaited; its content where it is kOk.
  Result<Bytes> hear(const os::Wait& wait);
  Status move(Access access, std::span<const Piece> pieces, const os::Wait& wait);
  // How a wait for NCCL goes on: within the caller's bounds, while the owner lives and does not say that it has failed.
  // `is_done` once it says that it has not.
  Status go_on(Patience& patience, bool& is_done);
  [[nodiscard]] Status left() const;

  const Owner& owner_;
  const std::shared_ptr<Gpu> gpu_;
  os::FrameSocket socket_;
  std::unique_ptr<Communicator> communicator_;
  bool is_in_order_ = true;
};

}  // namespace beeline::transport::nccl
