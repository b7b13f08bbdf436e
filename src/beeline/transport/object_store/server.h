// The owner's side: it copies what readers ask for into memory that both have mapped, and out of it.
#pragma once

#include <utility>

#include "beeline/os/unix_socket.h"
#include "beeline/os/wait.h"
#include "beeline/transport/connection_server.h"
#include "beeline/transport/object_store/messages.h"
#include "beeline/transport/served_extents.h"

namespace beeline::transport::object_store {

// Thread-safe. Nothing runs before the first reader asks for its contact.
class Server final : public Exporter {
 public:
  static constexpr std::size_t kMaxConnections = ConnectionServer::kMaxConnections;

  Server();

  Result<Bytes> contact() override;
  Result<Bytes> key(memory::PublicationId id, const RegionSource::Held& held, Access access) override;
  // What is being copied is waited for: of a chunk at most, and by threads of this process alone.
  void withdraw(memory::PublicationId id) override { extents_.withdraw(id); }
  void count_refusals_in(SharedCount refused) override { connections_.count_refusals_in(std::move(refused)); }

 private:
  Status serve(os::FrameSocket& socket, os::Wait wait);
  Status copy(const Request& request, std::span<const RunRecord> runs, std::byte* chunk);

  ServedExtents extents_;
  ConnectionServer connections_;  // the last: its threads use the above
};

}  // namespace beeline::transport::object_store
