#include "beeline/transport/object_store/transport.h"

#include <unistd.h>

#include <cstring>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

#include "beeline/os/unix_socket.h"
#include "beeline/transport/abandoned.h"
#include "beeline/transport/cutter.h"
#include "beeline/transport/exposures.h"
#include "beeline/transport/object_store/messages.h"
#include "beeline/transport/object_store/server.h"

namespace beeline::transport::object_store {
namespace {

constexpr std::size_t kIdleConnections = 2;

using Asked = std::vector<Part>;

// What of a chunk belongs where in local memory.
template <typename Visit>
void for_each_piece(const Asked& asked, std::byte* chunk, Visit&& visit) {
  for (const Part& part : asked) {
    for (std::uint64_t i = 0; i < part.count; ++i, chunk += part.length) {
      visit(part.local + i * part.local_stride, chunk, part.length);
    }
  }
}

// A connection to the owner, with the memory through which bytes pass. One thread at a time.
class Connection {
 public:
  static Result<std::unique_ptr<Connection>> open(const std::string& name, const os::Wait& wait) {
    BEELINE_ASSIGN(auto fd, os::connect_unix(name, wait));
    os::keep_from_children(fd.get());
    BEELINE_ASSIGN(const auto owner, os::peer_credentials(fd.get()));
    if (owner.uid != ::geteuid()) {
      return Status(Code::kInvalidArgument, "the object store is of another user (" + std::to_string(owner.uid) + ")");
    }
    BEELINE_ASSIGN(auto memory, os::make_memfd("beeline-staging", kStagingBytes));
    auto connection = std::make_unique<Connection>();
    BEELINE_ASSIGN(connection->staging_,
                   os::Mapping::map(memory.get(), 0, kStagingBytes, os::Access::kReadWrite, os::Sharing::kShared));
    connection->socket_ = os::FrameSocket(std::move(fd));
    const Status greeted = connection->socket_.send(view_of(Hello{}), {memory.get()});
    if (!greeted) return connection->told(greeted);
    return connection;
  }

  Status transfer(Op op, std::span<const KeyedRun> runs, const os::Wait& wait) {
    Cutter<KeyedRun> cutter(runs, {kMaxRequestRuns, kChunkBytes});
    std::deque<Asked> under_way;
    std::uint32_t asked_chunk = 0;  // of the next request
    for (bool is_all_asked = false;;) {
      while (!is_all_asked && under_way.size() < kChunks) {
        Asked asked;
        is_all_asked = !cutter.next(asked);
        if (is_all_asked) break;
        BEELINE_RETURN_IF_ERROR(ask(op, asked_chunk, runs, asked, wait));
        asked_chunk = (asked_chunk + 1) % kChunks;
        under_way.push_back(std::move(asked));
      }
      if (under_way.empty()) return Status::ok();
      const auto oldest = static_cast<std::uint32_t>((asked_chunk + kChunks - under_way.size()) % kChunks);
      BEELINE_RETURN_IF_ERROR(take(op, oldest, under_way.front(), wait));
      under_way.pop_front();
    }
  }

  [[nodiscard]] int fd() const { return socket_.fd(); }

 private:
  Status ask(Op op, std::uint32_t chunk, std::span<const KeyedRun> runs, const Asked& asked, const os::Wait& wait) {
    if (op == Op::kWrite) {
      for_each_piece(
          asked, staging_.data() + chunk * kChunkBytes,
          [](std::byte* local, std::byte* shared, std::uint64_t length) { std::memcpy(shared, local, length); });
    }
    Bytes frame;
    Writer writer(frame);
    writer.write(Request{op, chunk, static_cast<std::uint32_t>(asked.size()), 0});
    for (const Part& part : asked) {
      writer.write(RunRecord{extent_id(*runs[part.of].key), part.offset, part.length, part.count, part.stride});
    }
    Status sent = socket_.send(frame);
    if (sent) sent = socket_.flush_all(wait);
    return sent ? sent : told(sent);
  }

  // An owner that has no room for a connection says so before it ends it; who writes later sees the end first.
  Status told(const Status& lost) {
    os::Frame frame;
    const auto heard = socket_.receive(frame);
    if (!heard || *heard != os::FrameSocket::Receive::kFrame) return lost;
    Reader reader(frame.bytes);
    const auto reply = reader.read<Reply>();
    return reader.ok() && reply.code != 0 ? failure(reply, reader) : lost;
  }

  Status take(Op op, std::uint32_t chunk, const Asked& asked, const os::Wait& wait) {
    os::Frame frame;
    BEELINE_RETURN_IF_ERROR(socket_.receive_within(frame, wait));
    Reader reader(frame.bytes);
    const auto reply = reader.read<Reply>();
    if (!reader.ok() || reply.chunk != chunk) return {Code::kCorrupt, "a reply that fits no request"};
    if (reply.code != 0) return failure(reply, reader);
    if (op == Op::kWrite) return Status::ok();
    for_each_piece(
        asked, staging_.data() + chunk * kChunkBytes,
        [](std::byte* local, std::byte* shared, std::uint64_t length) { std::memcpy(local, shared, length); });
    return Status::ok();
  }

  static Status failure(const Reply& reply, Reader& reader) {
    return {static_cast<Code>(reply.code), std::string(as_text(reader.read_bytes(reader.left())))};
  }

  os::FrameSocket socket_;
  os::Mapping staging_;
};

class ObjectStoreEndpoint final : public Endpoint {
 public:
  ObjectStoreEndpoint(const PeerFacts& peer, std::string name, std::unique_ptr<Connection> first)
      : peer_name_(peer.name), name_(std::move(name)), keys_(*peer.owner, "object_store") {
    idle_.push_back(std::move(first));
  }

  Status read(std::span<const Run> runs, const os::Wait& wait) override { return transfer(Op::kRead, runs, wait); }
  Status write(std::span<const Run> runs, const os::Wait& wait) override { return transfer(Op::kWrite, runs, wait); }
  Status quiet(const os::Wait& wait) override { return abandoned_.hear_out(wait); }

 private:
  Status transfer(Op op, std::span<const Run> runs, const os::Wait& wait) {
    std::vector<KeyedRun> pieces;
    std::vector<std::shared_ptr<const Keys::Extents>> kept;
    const auto check = [](const ExtentKey& extent) -> Result<std::shared_ptr<void>> {
      BEELINE_RETURN_IF_ERROR(check_extent_key(extent));
      return std::shared_ptr<void>();
    };
    const Access access = op == Op::kRead ? Access::kRead : Access::kWrite;
    BEELINE_RETURN_IF_ERROR(keys_.append_pieces(runs, access, check, wait, pieces, kept));
    BEELINE_ASSIGN(auto connection, take(wait));
    const Status status = connection->transfer(op, pieces, wait);
    // After a failure replies may be under way: such a connection is of no use any more.
    if (status) {
      give(std::move(connection));
    } else if (op == Op::kWrite) {
      const int fd = connection->fd();
      abandoned_.add(std::move(connection), fd);
    }
    return Status(status).with_context("through the object store of " + peer_name_);
  }

  Result<std::unique_ptr<Connection>> take(const os::Wait& wait) {
    {
      const std::lock_guard guard(mutex_);
      if (!idle_.empty()) {
        auto connection = std::move(idle_.back());
        idle_.pop_back();
        return connection;
      }
    }
    return Connection::open(name_, wait);
  }

  void give(std::unique_ptr<Connection> connection) {
    const std::lock_guard guard(mutex_);
    if (idle_.size() < kIdleConnections) idle_.push_back(std::move(connection));
  }

  const std::string peer_name_, name_;
  Keys keys_;
  Abandoned abandoned_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Connection>> idle_;  // needs mutex_
};

class ObjectStoreTransport final : public Transport {
 public:
  [[nodiscard]] std::string_view name() const override { return "object_store"; }
  [[nodiscard]] const Capabilities& capabilities() const override {
    static constexpr Capabilities kCapabilities{.same_host_only = true,
                                                .arena_only = false,
                                                .maps = false,
                                                .writes = true,
                                                .expected_gbps = 5,
                                                .slice_bytes = kStagingBytes};
    return kCapabilities;
  }

  [[nodiscard]] Status reaches(const PeerFacts& peer, const Region& region) const override {
    if (!peer.same_host()) return {Code::kUnsupported, "the peer is not on this host"};
    if (!region.device.is_host()) return {Code::kUnsupported, "the memory is not the host's"};
    return Status::ok();
  }

  Result<std::unique_ptr<Endpoint>> connect(const PeerFacts& peer, const os::Wait& wait) const override {
    BEELINE_ASSIGN(const Bytes contact, peer.owner->contact(name(), wait));
    const std::string store(as_text(contact));
    // Nothing but a name of the abstract namespace: not to be led to a file.
    if (!store.starts_with('@')) return Status(Code::kCorrupt, "a contact that is no object store's");
    BEELINE_ASSIGN(auto connection, Connection::open(store, wait));
    return std::unique_ptr<Endpoint>(std::make_unique<ObjectStoreEndpoint>(peer, store, std::move(connection)));
  }

  [[nodiscard]] Exporter* exporter() const override { return &server_; }

 private:
  mutable Server server_;
};

}  // namespace

std::unique_ptr<Transport> make() {
  return std::make_unique<ObjectStoreTransport>();
}

}  // namespace beeline::transport::object_store
