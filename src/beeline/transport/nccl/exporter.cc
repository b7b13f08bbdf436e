#include "beeline/transport/nccl/exporter.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "beeline/os/random.h"
#include "beeline/transport/nccl/opening.h"

namespace beeline::transport::nccl {
namespace {

constexpr auto kOpeningPatience = std::chrono::seconds(10);
// NCCL looks at the machine's whole topology when two ranks meet.
constexpr auto kJoinPatience = std::chrono::seconds(60);
constexpr auto kTellPatience = std::chrono::seconds(10);
// What a registration's end gives the transfer that it would cut off.
constexpr auto kWithdrawalPatience = std::chrono::seconds(1);

Status tell(os::FrameSocket& socket, const Status& status, BytesView more, os::Wait wait) {
  Bytes bytes;
  Writer writer(bytes);
  writer.write(Reply{static_cast<std::uint32_t>(status.code()), 0});
  writer.append(status.is_ok() ? more : as_bytes(status.message()));
  BEELINE_RETURN_IF_ERROR(socket.send(bytes));
  wait.deadline = Deadline::after(kTellPatience);
  return socket.flush_all(wait);
}

}  // namespace

Status one_gpu() {
  return {Code::kUnsupported,
          "both sides' memory is on one GPU, where NCCL has no two ranks: use cuda_ipc, which copies there"};
}

// How waits for a reader's sake go on: as long as the server runs, the reader has not left or said anything new (which
// it does only when it has given up), nothing that is held was withdrawn, and the deadline has not passed.
class NcclExporter::Watch {
 public:
  Watch(os::FrameSocket& socket, const os::Wait& wait, const ServedExtents::Hold* held = nullptr)
      : socket_(socket), wait_(wait), held_(held) {}

  // From now on; a withdrawal is then borne for a moment.
  void begin_moving(Nanos patience) {
    wait_.deadline = Deadline::after(patience);
    is_moving_ = true;
  }
  void bound(Nanos patience) { wait_.deadline = Deadline::after(patience); }

  Status operator()() {
    // Neither is the reader's own doing.
    if (const Status own = wait_.check(); own.code() == Code::kCancelled) {
      return {Code::kPeerLost, "the owner's agent was closed"};
    } else if (!own) {
      return {Code::kSystem, "the owner has given up: nothing moved for too long"};
    }
    if (held_ != nullptr && held_->is_withdrawn()) {
      if (!until_) until_ = Deadline::after(kWithdrawalPatience);
      if (!is_moving_ || until_->passed()) return {Code::kStale, "the registration was undone while it was read"};
    }
    os::Frame ignored;
    BEELINE_ASSIGN(const auto heard, socket_.receive(ignored));
    if (heard == os::FrameSocket::Receive::kNothing) return Status::ok();
    is_left_ = true;
    return {Code::kCancelled, "the reader has given up"};
  }
  [[nodiscard]] bool is_left() const { return is_left_; }

 private:
  os::FrameSocket& socket_;
  os::Wait wait_;
  const ServedExtents::Hold* const held_;
  bool is_moving_ = false;
  bool is_left_ = false;
  std::optional<Deadline> until_;  // a withdrawal is borne
};

NcclExporter::NcclExporter(std::shared_ptr<Gpus> gpus, NcclOptions options, Nanos stall_patience)
    : gpus_(std::move(gpus)),
      options_(std::move(options)),
      stall_patience_(stall_patience),
      secret_(kSecretBytes),
      announcers_(gpus_, Announcer::Seen::kByUs),
      connections_({.thread_name = "bee-nccl-serve",
                    // Whatever ends it, the reader sees the connection end, and says so.
                    .serve = [this](ConnectionServer::Caller caller) {
                      (void)serve(os::plain_stream(std::move(caller.connection)), caller.wait, caller.admit);
                    }}) {
  os::fill_with_random(secret_);
}

Result<Bytes> NcclExporter::contact() {
  BEELINE_ASSIGN(const cuda::Driver* const driver, cuda::Driver::open());
  BEELINE_RETURN_IF_ERROR(os::nccl::Library::open(options_.library).status());
  Contact contact;
  BEELINE_ASSIGN(contact.unix_name, connections_.unix_name());
  if (!options_.host.empty()) {
    BEELINE_ASSIGN(const os::TcpAddress address, connections_.tcp_address(options_.host));
    contact.port = address.port;
  }
  contact.secret = secret_;
  BEELINE_ASSIGN(contact.uuids, visible_uuids(*driver));
  return pack(contact);
}

Result<Bytes> NcclExporter::key(memory::PublicationId id, const RegionSource::Held& held, Access access) {
  BEELINE_RETURN_IF_ERROR(check(held.data, held.length, held.device));
  return extents_.key(id, held, access);
}

Status NcclExporter::check(const std::byte* data, std::uint64_t length, const Device& device) {
  if (device.type != Device::kCuda) {
    return {Code::kUnsupported, "it does not reach memory of device type " + std::to_string(device.type)};
  }
  BEELINE_RETURN_IF_ERROR(os::nccl::Library::open(options_.library).status());
  if (length == 0) return Status::ok();
  BEELINE_ASSIGN(const auto gpu, gpus_->at(device.id));
  const cuda::Current current(gpu->driver(), gpu->context());
  BEELINE_RETURN_IF_ERROR(current.status());
  return check_memory(*gpu, data);
}

Status NcclExporter::serve(std::unique_ptr<os::ByteStream> stream, os::Wait wait, FunctionRef<void()> admit) {
  wait.deadline = Deadline::after(kOpeningPatience);
  if (Status admitted = admit_connection(*stream, secret_, wait); !admitted) {
    const bool is_refused = admitted.code() == Code::kInvalidArgument || admitted.code() == Code::kCorrupt;
    if (is_refused) connections_.count_refusal();
    return admitted;
  }
  admit();
  Session session;
  session.socket = os::FrameSocket(std::move(stream));
  session.socket.limit_frames(kMaxAskedBytes);
  os::Frame frame;
  BEELINE_RETURN_IF_ERROR(session.socket.receive_within(frame, wait));
  Reader reader(frame.bytes);
  const auto wanted = reader.read<Join>();
  if (!reader.ok() || reader.left() != 0) return {Code::kCorrupt, "a join that is none"};
  if (const Status joined = join(session, wanted, wait); !joined) {
    return tell(session.socket, std::move(Status(joined)).with_context("at the owner"), {}, wait);
  }
  for (;;) {
    wait.deadline = Deadline::never();  // between requests a connection may idle
    BEELINE_RETURN_IF_ERROR(session.socket.receive_within(frame, wait));
    BEELINE_ASSIGN(const Op op, decode_request(frame.bytes, session.runs));
    BEELINE_RETURN_IF_ERROR(answer(session, op, wait));
  }
}

Status NcclExporter::join(Session& session, const Join& join, const os::Wait& wait) {
  BEELINE_ASSIGN(const os::nccl::Library* const library, os::nccl::Library::open(options_.library));
  BEELINE_ASSIGN(session.gpu, gpus_->at(join.ordinal));
  BEELINE_ASSIGN(const Bytes own, uuid_of(session.gpu->driver(), join.ordinal));
  if (std::ranges::equal(own, join.uuid)) return one_gpu();
  BEELINE_RETURN_IF_ERROR(tell(session.socket, Status::ok(), {}, wait));
  os::Frame frame;
  BEELINE_RETURN_IF_ERROR(session.socket.receive_within(frame, wait));
  Reader reader(frame.bytes);
  const auto id = reader.read<os::nccl::UniqueId>();
  if (!reader.ok() || reader.left() != 0) return {Code::kCorrupt, "an id that is none"};
  Watch watch(session.socket, wait);
  watch.bound(kJoinPatience);
  BEELINE_ASSIGN(session.communicator, Communicator::make(*library, session.gpu, id, kOwnerRank, watch));
  return tell(session.socket, Status::ok(), {}, wait);
}

Result<std::vector<Piece>> NcclExporter::resolve(const Session& session, const ServedExtents::Hold& held) const {
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < session.runs.size(); ++i) {
    const RunRecord& run = session.runs[i];
    if (held.device(i) != Device{Device::kCuda, session.gpu->ordinal()}) {
      return Status(Code::kInvalidArgument, "memory of a GPU that this connection is not for");
    }
    if (run.length == 0 || run.count > kMaxRequestPieces - pieces.size()) {
      return Status(Code::kInvalidArgument,
                    "a request of more than " + std::to_string(kMaxRequestPieces) + " pieces, or of one without bytes");
    }
    for (std::uint64_t k = 0; k < run.count; ++k) {
      pieces.push_back({held.data(i) + run.offset + k * run.stride, run.length});
    }
  }
  return pieces;
}

// A request that is refused leaves the connection as it is; one that fails under way ends it.
Status NcclExporter::answer(Session& session, Op op, const os::Wait& wait) {
  const Access access = op == Op::kRead ? Access::kRead : Access::kWrite;
  auto held = extents_.hold(session.runs, access, kMaxRequestBytes);
  if (!held) return tell(session.socket, held.status(), {}, wait);
  const auto pieces = resolve(session, *held);
  if (!pieces) return tell(session.socket, pieces.status(), {}, wait);
  Watch watch(session.socket, wait, &*held);
  Lane lane(session.gpu);
  Status status = lane.status();
  // What the owner's streams hold by now comes first, and nothing is put into the lane before.
  if (status) {
    const auto announcer = announcers_.at(session.gpu->ordinal());
    status = announcer.status();
    if (status) status = (*announcer)->announce(stream_of(0));
    if (status) status = lane.wait_for((*announcer)->event(), watch);
  }
  if (watch.is_left()) return status;
  if (!status) return tell(session.socket, status, {}, wait);
  BEELINE_RETURN_IF_ERROR(tell(session.socket, Status::ok(), {}, wait));
  watch.begin_moving(stall_patience_);
  status = session.communicator->move(*pieces, op == Op::kRead ? Way::kSend : Way::kReceive, lane, watch);
  *held = {};
  BEELINE_RETURN_IF_ERROR(tell(session.socket, status, {}, wait));
  return status;
}

}  // namespace beeline::transport::nccl
