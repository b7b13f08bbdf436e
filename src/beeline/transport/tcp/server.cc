#include "beeline/transport/tcp/server.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "beeline/base/bytes.h"
#include "beeline/transport/tcp/stream.h"

namespace beeline::transport::tcp {
namespace {

constexpr auto kOpeningPatience = std::chrono::seconds(10);
// A reader that takes nothing for so long is given up: what it reads from must not stay held for its sake.
constexpr auto kStallPatience = std::chrono::seconds(30);
// Shorter runs are gathered by copying: an element of a kernel's vector costs as much as copying these.
constexpr std::uint64_t kGatherBelow = 2048;
// With which openings begin, of whatever release ("Bleetcp"); a handshake of TLS begins otherwise (with 22).
constexpr char kFirstOfPlain = 'B';
constexpr auto kHearOutPatience = std::chrono::seconds(1);

// What lies unread when a connection is closed undoes what was said last. So who is turned away is read from until it
// closes, or for a moment.
void hear_out(int fd, os::Wait wait) {
  ::shutdown(fd, SHUT_WR);
  wait.deadline = Deadline::after(kHearOutPatience);
  std::array<std::byte, 4096> ignored;
  while (os::wait_ready(fd, POLLIN, wait, "the end of a connection")) {
    const ssize_t got = ::recv(fd, ignored.data(), ignored.size(), MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) return;
  }
}

}  // namespace

// One request, with what it refers to.
struct TcpServer::Serving {
  Caller caller;
  RequestHeader header;
  std::vector<RunRecord> runs;
  std::vector<RegionSource::Held> held;  // by run
  Bytes staging;
  os::Wait wait;

  void reserve_staging() {
    if (staging.size() < header.bytes) staging.resize(header.bytes);
  }
};

TcpServer::TcpServer(const Options& options, RegionSource& regions, OnControl on_control)
    : regions_(regions),
      on_control_(std::move(on_control)),
      on_refused_(options.on_refused),
      agent_id_(options.agent_id),
      token_(options.token),
      tls_(options.tls),
      connections_({.thread_name = "bee-tcp-serve",
                    .serve = [this](ConnectionServer::Caller connected) { run(std::move(connected)); },
                    .turn_away = [this](const os::Fd& /*connection*/, const Status& /*why*/) { refuse(); }}) {}

Result<std::unique_ptr<Server>> TcpServer::start(const Options& options, RegionSource& regions, OnControl on_control) {
  if (options.token.empty()) {
    return Status(Code::kInvalidArgument,
                  "an agent that listens on TCP needs a token: whoever has it may read what "
                  "is published");
  }
  std::unique_ptr<TcpServer> server(new TcpServer(options, regions, std::move(on_control)));
  BEELINE_ASSIGN(server->address_, server->connections_.listen(options.listen));
  return std::unique_ptr<Server>(std::move(server));
}

TcpServer::Stats TcpServer::stats() const {
  Stats stats;
  stats.connections = connections_.connections();
  stats.refused = refused_;
  stats.requests = requests_;
  stats.bytes_read = bytes_read_;
  stats.bytes_written = bytes_written_;
  stats.failed = failed_;
  return stats;
}

void TcpServer::refuse() {
  ++refused_;
  if (on_refused_) on_refused_();
}

Result<Caller> TcpServer::admit(os::ByteStream& stream, const os::Wait& wait) {
  if (tls_ != nullptr) {
    BEELINE_RETURN_IF_ERROR(os::wait_ready(stream.fd(), POLLIN, wait, "a handshake of TLS"));
    char first = 0;
    if (::recv(stream.fd(), &first, 1, MSG_PEEK | MSG_DONTWAIT) == 1 && first == kFirstOfPlain) {
      turn_away_plain(stream.fd());
      return Status(Code::kUnsupported, "a caller that speaks no TLS");
    }
  }
  BEELINE_RETURN_IF_ERROR(stream.begin(wait));
  return admit_connection(stream, agent_id_, token_, wait);
}

void TcpServer::run(ConnectionServer::Caller connected) {
  auto fd = std::move(connected.connection);
  auto stream = tls_ != nullptr ? tls_->listening_stream(std::move(fd)) : os::plain_stream(std::move(fd));
  os::Wait wait = connected.wait;
  wait.deadline = Deadline::after(kOpeningPatience);
  const auto caller = admit(*stream, wait);
  if (!caller) {
    refuse();
    return hear_out(stream->fd(), wait);
  }
  connected.admit();
  if (caller->purpose == Purpose::kControl) {
    if (!wait.cancellation->is_cancelled()) on_control_(std::move(stream), caller->agent_id);
    return;
  }
  const auto status = serve(*stream, *caller, connected.wait);
  if (!status && status.code() != Code::kPeerLost) ++failed_;
}

Status TcpServer::serve(os::ByteStream& stream, const Caller& caller, const os::Wait& wait) {
  Serving serving;
  serving.caller = caller;
  serving.wait = wait;
  for (;;) {
    serving.wait.deadline = Deadline::never();  // between requests a connection may idle
    BEELINE_RETURN_IF_ERROR(receive_exactly(stream, &serving.header, sizeof serving.header, serving.wait));
    const RequestHeader& header = serving.header;
    if (header.magic != RequestHeader::kMagic || header.runs > kMaxRequestRuns || header.bytes > kMaxRequestBytes ||
        (header.op != Op::kRead && header.op != Op::kWrite)) {
      return {Code::kCorrupt, "a request that is none"};
    }
    serving.wait.deadline = Deadline::after(kStallPatience);
    serving.runs.resize(header.runs);
    BEELINE_RETURN_IF_ERROR(
        receive_exactly(stream, serving.runs.data(), header.runs * sizeof(RunRecord), serving.wait));
    ++requests_;
    BEELINE_RETURN_IF_ERROR(header.op == Op::kRead ? answer_read(stream, serving) : answer_write(stream, serving));
  }
}

namespace {

// Finds the memory of each run and checks that it lies inside.
Status resolve(RegionSource& regions, const std::vector<RunRecord>& runs, std::uint64_t bytes, Access access,
               const std::string& agent_id, std::vector<RegionSource::Held>& held) {
  held.clear();
  std::uint64_t total = 0;
  for (const RunRecord& record : runs) {
    const memory::PublicationId id{record.slot, record.generation};
    const bool again = !held.empty() && runs[held.size() - 1].slot == record.slot &&
                       runs[held.size() - 1].generation == record.generation;
    if (again) {
      held.push_back(held.back());
    } else {
      BEELINE_ASSIGN(auto found, regions.hold(id, access, agent_id));
      if (!found.device.is_host()) return {Code::kUnsupported, "tcp serves the host's memory only"};
      held.push_back(std::move(found));
    }
    Region region;
    region.length = held.back().length;
    const Run run{&region, record.offset, nullptr, record.length, record.count, record.stride, 0};
    BEELINE_RETURN_IF_ERROR(check_bounds({&run, 1}));
    if (record.length == 0 || run.bytes() > kMaxRequestBytes) {
      return {Code::kInvalidArgument, "a run of " + std::to_string(run.bytes()) + " bytes in one request"};
    }
    if (__builtin_add_overflow(total, run.bytes(), &total)) total = ~std::uint64_t{0};
    if (total > bytes) break;  // before pieces are looked at, of which there may be many
    BEELINE_RETURN_IF_ERROR(check_extents(run, held.back().extents));
  }
  if (total == bytes) return Status::ok();
  return {Code::kInvalidArgument, "the runs of a request have " + std::to_string(total) + " bytes" +
                                      (total > bytes ? " or more" : "") + ", its header says " + std::to_string(bytes)};
}

// They only grow: the sum tells as much as each.
std::uint64_t writes_of(const std::vector<RegionSource::Held>& held) {
  std::uint64_t sum = 0;
  const std::atomic<std::uint64_t>* last = nullptr;
  for (const auto& each : held) {
    if (each.writes == last) continue;
    last = each.writes;
    const std::uint64_t writes = last->load(std::memory_order_acquire);
    if (memory::PublicationSlot::is_being_written(writes)) return ReadTrailer::kTorn;
    sum += writes;
  }
  return sum;
}

template <typename Visit>
void for_each_run(const std::vector<RunRecord>& runs, const std::vector<RegionSource::Held>& held, Visit&& visit) {
  for (std::size_t i = 0; i < runs.size(); ++i) {
    std::byte* at = held[i].data + runs[i].offset;
    for (std::uint64_t k = 0; k < runs[i].count; ++k, at += runs[i].stride) visit(at, runs[i].length);
  }
}

Status send_refusal(os::ByteStream& stream, std::uint32_t id, const Status& status, const os::Wait& wait) {
  ReplyHeader reply;
  reply.id = id;
  reply.code = static_cast<std::uint16_t>(status.code());
  std::string message = status.message();
  if (message.size() > kMaxMessageBytes) message.resize(kMaxMessageBytes);
  reply.message_bytes = static_cast<std::uint32_t>(message.size());
  std::vector<iovec> pieces{{&reply, sizeof reply}, {message.data(), message.size()}};
  return send_all(stream, pieces, wait);
}

}  // namespace

Status TcpServer::answer_read(os::ByteStream& stream, Serving& serving) {
  const Status found =
      resolve(regions_, serving.runs, serving.header.bytes, Access::kRead, serving.caller.agent_id, serving.held);
  if (!found) {
    ++failed_;
    serving.held.clear();
    return send_refusal(stream, serving.header.id, found, serving.wait);
  }
  ReplyHeader reply;
  reply.id = serving.header.id;
  reply.bytes = serving.header.bytes;
  std::vector<iovec> pieces{{&reply, sizeof reply}};
  serving.reserve_staging();  // before pointers into it are taken
  std::byte* room = serving.staging.data();
  ReadTrailer trailer{writes_of(serving.held)};
  bool is_gathered = true;
  for_each_run(serving.runs, serving.held, [&](std::byte* data, std::uint64_t length) {
    if (length >= kGatherBelow) {
      is_gathered = false;
      pieces.push_back({data, length});
      return;
    }
    std::memcpy(room, data, length);
    if (static_cast<std::byte*>(pieces.back().iov_base) + pieces.back().iov_len == room) {
      pieces.back().iov_len += length;
    } else {
      pieces.push_back({room, length});
    }
    room += length;
  });
  // What was gathered is read already; of the rest the kernel has taken every byte once it is sent.
  Status sent;
  if (!is_gathered) sent = send_all(stream, pieces, serving.wait);
  if (!is_gathered) pieces.clear();
  // Pairs with the fence of Arena::begin_write().
  std::atomic_thread_fence(std::memory_order_acquire);
  if (writes_of(serving.held) != trailer.writes) trailer.writes = ReadTrailer::kTorn;
  pieces.push_back({&trailer, sizeof trailer});
  if (sent) sent = send_all(stream, pieces, serving.wait);
  serving.held.clear();
  if (sent) bytes_read_ += serving.header.bytes;
  return sent;
}

Status TcpServer::answer_write(os::ByteStream& stream, Serving& serving) {
  const Status found =
      resolve(regions_, serving.runs, serving.header.bytes, Access::kWrite, serving.caller.agent_id, serving.held);
  if (!found) ++failed_;
  // Whole, before it touches memory: a writer that gives up leaves no half of a request behind. What was refused is
  // read as well, and goes nowhere.
  serving.reserve_staging();
  const Status received = receive_exactly(stream, serving.staging.data(), serving.header.bytes, serving.wait);
  if (received && found) {
    const std::byte* from = serving.staging.data();
    for_each_run(serving.runs, serving.held, [&](std::byte* data, std::uint64_t length) {
      std::memcpy(data, from, length);
      from += length;
    });
  }
  serving.held.clear();
  BEELINE_RETURN_IF_ERROR(received);
  if (!found) return send_refusal(stream, serving.header.id, found, serving.wait);
  bytes_written_ += serving.header.bytes;
  ReplyHeader reply;
  reply.id = serving.header.id;
  std::vector<iovec> answer{{&reply, sizeof reply}};
  return send_all(stream, answer, serving.wait);
}

}  // namespace beeline::transport::tcp
