#include "beeline/transport/nccl/channel.h"

#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "beeline/os/byte_stream.h"
#include "beeline/os/tcp_socket.h"
#include "beeline/transport/cutter.h"
#include "beeline/transport/nccl/opening.h"

namespace beeline::transport::nccl {
namespace {

Result<os::Fd> connect_here(const std::string& name, const os::Wait& wait) {
  // Nothing but a name of the abstract namespace: not to be led to a file.
  if (!name.starts_with('@')) return Status(Code::kCorrupt, "a contact that is none of this path's");
  BEELINE_ASSIGN(auto fd, os::connect_unix(name, wait));
  BEELINE_ASSIGN(const auto owner, os::peer_credentials(fd.get()));
  if (owner.uid == ::geteuid()) return fd;
  return Status(Code::kInvalidArgument, "the owner's side is of another user (" + std::to_string(owner.uid) + ")");
}

Result<os::Fd> connect_there(const Owner& owner, const os::Wait& wait) {
  Status last(Code::kUnsupported, "the owner's side listens on no TCP address: open its agent with tcp=");
  if (owner.contact.port == 0) return last;
  for (const os::TcpAddress& address : owner.tcp) {
    auto fd = os::connect_tcp({address.host, owner.contact.port}, wait);
    if (fd) return fd;
    last = fd.status();
  }
  return last;
}

}  // namespace

Result<std::unique_ptr<Channel>> Channel::open(const Owner& owner, const os::nccl::Library& library,
                                               std::shared_ptr<Gpu> gpu, const Bytes& uuid, std::int32_t theirs,
                                               const os::Wait& wait) {
  std::unique_ptr<Channel> channel(new Channel(owner, std::move(gpu)));
  BEELINE_RETURN_IF_ERROR(channel->connect(wait));
  BEELINE_RETURN_IF_ERROR(channel->join(library, uuid, theirs, wait));
  return channel;
}

Status Channel::connect(const os::Wait& wait) {
  auto fd = owner_.is_on_this_host ? connect_here(owner_.contact.unix_name, wait) : connect_there(owner_, wait);
  BEELINE_RETURN_IF_ERROR(fd.status());
  os::keep_from_children(fd->get());
  auto stream = os::plain_stream(std::move(*fd));
  BEELINE_RETURN_IF_ERROR(open_connection(*stream, owner_.contact.secret, wait));
  socket_ = os::FrameSocket(std::move(stream));
  return Status::ok();
}

Status Channel::join(const os::nccl::Library& library, const Bytes& uuid, std::int32_t theirs, const os::Wait& wait) {
  Join wanted;
  wanted.ordinal = theirs;
  std::ranges::copy_n(uuid.begin(), static_cast<std::ptrdiff_t>(std::min(uuid.size(), wanted.uuid.size())),
                      wanted.uuid.begin());
  BEELINE_RETURN_IF_ERROR(ask(view_of(wanted), wait));
  BEELINE_RETURN_IF_ERROR(hear(wait).status());
  os::nccl::UniqueId id{};
  {
    const cuda::Current current(gpu_->driver(), gpu_->context());
    BEELINE_RETURN_IF_ERROR(current.status());
    const os::nccl::Return code = library.functions().get_unique_id(&id);
    if (code != os::nccl::kSuccess) return library.failed("ncclGetUniqueId", code, nullptr);
  }
  BEELINE_RETURN_IF_ERROR(ask(view_of(id), wait));
  Patience patience(wait, owner_.pidfd, owner_.name);
  bool is_done = false;
  const auto still = [&] { return go_on(patience, is_done); };
  auto made = Communicator::make(library, gpu_, id, kReaderRank, still);
  BEELINE_RETURN_IF_ERROR(made.status());
  communicator_ = std::move(*made);
  return is_done ? Status::ok() : hear(wait).status();
}

Status Channel::ask(BytesView frame, const os::Wait& wait) {
  BEELINE_RETURN_IF_ERROR(socket_.send(frame));
  return socket_.flush_all(wait);
}

Status Channel::left() const {
  return {Code::kPeerLost, owner_.name + " has dropped the connection: it has ended, or gave up a reader that stalled"};
}

Result<Bytes> Channel::hear(const os::Wait& wait) {
  os::Frame frame;
  const Status heard = socket_.receive_within(frame, wait);
  if (heard.code() == Code::kPeerLost) return left();
  if (!heard) return std::move(Status(heard)).with_context("while " + owner_.name + " makes ready to send or receive");
  return decode_reply(frame.bytes);
}

Status Channel::go_on(Patience& patience, bool& is_done) {
  BEELINE_RETURN_IF_ERROR(patience());
  if (is_done) return Status::ok();
  os::Frame frame;
  BEELINE_ASSIGN(const auto heard, socket_.receive(frame));
  if (heard == os::FrameSocket::Receive::kNothing) return Status::ok();
  if (heard == os::FrameSocket::Receive::kClosed) return left();
  BEELINE_RETURN_IF_ERROR(decode_reply(frame.bytes).status());
  is_done = true;
  return Status::ok();
}

Status Channel::move(Access access, std::span<const Piece> pieces, const os::Wait& wait) {
  // Until here nothing was begun, and what the owner refuses leaves the connection as it is.
  is_in_order_ = false;
  Patience patience(wait, owner_.pidfd, owner_.name);
  bool is_done = false;
  const auto still = [&] { return go_on(patience, is_done); };
  Lane lane(gpu_);
  BEELINE_RETURN_IF_ERROR(lane.status());
  BEELINE_RETURN_IF_ERROR(
      communicator_->move(pieces, access == Access::kRead ? Way::kReceive : Way::kSend, lane, still));
  if (!is_done) BEELINE_RETURN_IF_ERROR(hear(wait).status());
  is_in_order_ = true;
  return Status::ok();
}

Status Channel::transfer(Access access, std::span<const KeyedRun> runs, const os::Wait& wait) {
  Cutter<KeyedRun> cutter(runs, {kMaxRequestRuns, kMaxRequestBytes, kMaxRequestPieces});
  std::vector<Piece> pieces;
  for (std::vector<Part> parts; cutter.next(parts);) {
    Bytes frame;
    Writer writer(frame);
    writer.write(Request{access == Access::kRead ? Op::kRead : Op::kWrite, static_cast<std::uint32_t>(parts.size())});
    pieces.clear();
    for (const Part& part : parts) {
      writer.write(RunRecord{extent_id(*runs[part.of].key), part.offset, part.length, part.count, part.stride});
      for (std::uint64_t i = 0; i < part.count; ++i) {
        pieces.push_back({part.local + i * part.local_stride, part.length});
      }
    }
    is_in_order_ = false;
    BEELINE_RETURN_IF_ERROR(ask(frame, wait));
    os::Frame heard;
    const Status status = socket_.receive_within(heard, wait);
    if (status.code() == Code::kPeerLost) return left();
    BEELINE_RETURN_IF_ERROR(
        std::move(Status(status)).with_context("while waiting for what " + owner_.name + "'s GPU does before"));
    is_in_order_ = true;
    BEELINE_RETURN_IF_ERROR(decode_reply(heard.bytes).status());
    BEELINE_RETURN_IF_ERROR(move(access, pieces, wait));
  }
  return Status::ok();
}

}  // namespace beeline::transport::nccl
