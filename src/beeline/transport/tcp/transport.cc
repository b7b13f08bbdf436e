#include "beeline/transport/tcp/transport.h"

#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <deque>
#include <mutex>
#include <thread>

#include "beeline/os/thread.h"
#include "beeline/transport/abandoned.h"
#include "beeline/transport/tcp/opening.h"
#include "beeline/transport/tcp/requests.h"
#include "beeline/transport/tcp/stream.h"

namespace beeline::transport::tcp {
namespace {

constexpr std::size_t kStreams = 2;
// Requests that a stream has under way: the owner reads one while the other's bytes are on their way.
constexpr std::size_t kDepth = 2;
// A transfer takes up again after so many broken connections, and then fails.
constexpr int kMaxReconnects = 3;
constexpr std::size_t kIdleStreams = 8;

// One transfer over some streams. The first failure ends all of them.
class Transfer {
 public:
  Transfer(Op op, std::span<const Run> runs, const os::Wait& wait) : op_(op), requests_(runs), wait_(wait) {}

  // Moves requests over the stream until none is left. kPeerLost: the connection broke, what it had under way is back.
  Status run(os::ByteStream& stream, const os::Wait& wait);

  // Whether to try again on another connection.
  bool may_reconnect() { return !failed_ && reconnects_.fetch_add(1) < kMaxReconnects; }
  void fail(const Status& status);
  [[nodiscard]] bool has_failed() const { return failed_; }
  [[nodiscard]] Status outcome() const { return failure_; }
  [[nodiscard]] const os::Wait& wait() const { return wait_; }
  [[nodiscard]] Op op() const { return op_; }

  // Streams at work, so that a failure elsewhere ends their waits.
  void enter(int fd);
  void leave(int fd);

 private:
  Status send(os::ByteStream& stream, Request& request, const os::Wait& wait);
  Status receive(os::ByteStream& stream, Request& request, const os::Wait& wait);

  Op op_;
  Requests requests_;
  const os::Wait& wait_;
  static constexpr std::uint64_t kUnknown = ReadTrailer::kTorn;
  std::atomic<std::uint64_t> writes_{kUnknown};
  std::atomic<std::uint32_t> next_id_{0};
  std::atomic<int> reconnects_{0};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  Status failure_;         // needs mutex_ while streams are at work
  std::vector<int> busy_;  // needs mutex_
};

void Transfer::fail(const Status& status) {
  const std::lock_guard guard(mutex_);
  if (failed_.exchange(true)) return;
  failure_ = status;
  // What was sent of a write goes on until the peer has ended the connection: Abandoned waits for that.
  if (op_ == Op::kWrite) return;
  for (const int fd : busy_) ::shutdown(fd, SHUT_RDWR);
}

void Transfer::enter(int fd) {
  const std::lock_guard guard(mutex_);
  busy_.push_back(fd);
  if (failed_ && op_ == Op::kRead) ::shutdown(fd, SHUT_RDWR);
}

void Transfer::leave(int fd) {
  const std::lock_guard guard(mutex_);
  std::erase(busy_, fd);
}

Status Transfer::send(os::ByteStream& stream, Request& request, const os::Wait& wait) {
  RequestHeader header;
  header.op = op_;
  header.runs = static_cast<std::uint32_t>(request.runs.size());
  header.bytes = request.bytes;
  header.id = request.id = next_id_.fetch_add(1);
  std::vector<iovec> pieces{{&header, sizeof header}, {request.runs.data(), request.runs.size() * sizeof(RunRecord)}};
  if (op_ == Op::kWrite) pieces.insert(pieces.end(), request.local.begin(), request.local.end());
  return send_all(stream, pieces, wait);
}

Status Transfer::receive(os::ByteStream& stream, Request& request, const os::Wait& wait) {
  ReplyHeader reply;
  BEELINE_RETURN_IF_ERROR(receive_exactly(stream, &reply, sizeof reply, wait));
  const std::uint64_t expected = op_ == Op::kRead && reply.code == 0 ? request.bytes : 0;
  if (reply.magic != ReplyHeader::kMagic || reply.id != request.id || reply.message_bytes > kMaxMessageBytes ||
      reply.bytes != expected) {
    return {Code::kCorrupt, "a reply that fits no request"};
  }
  if (reply.code != 0) {
    std::string message(reply.message_bytes, '\0');
    BEELINE_RETURN_IF_ERROR(receive_exactly(stream, message.data(), message.size(), wait));
    return {static_cast<Code>(reply.code), message};
  }
  if (op_ == Op::kWrite) return Status::ok();
  std::vector<iovec> pieces = request.local;
  ReadTrailer trailer;
  pieces.push_back({&trailer, sizeof trailer});
  BEELINE_RETURN_IF_ERROR(receive_all(stream, pieces, wait));
  // All of a transfer's requests have seen the same.
  std::uint64_t first = kUnknown;
  const bool is_first = writes_.compare_exchange_strong(first, trailer.writes);
  return trailer.writes != ReadTrailer::kTorn && (is_first || first == trailer.writes) ? Status::ok() : torn();
}

Status Transfer::run(os::ByteStream& stream, const os::Wait& wait) {
  std::deque<Request> under_way;
  Status status;
  while (status && !failed_) {
    while (status && under_way.size() < kDepth) {
      auto request = requests_.next();
      if (!request) break;
      under_way.push_back(std::move(*request));
      status = send(stream, under_way.back(), wait);
    }
    if (!status || under_way.empty()) break;
    status = receive(stream, under_way.front(), wait);
    if (status) under_way.pop_front();
  }
  for (Request& request : under_way) requests_.give_back(std::move(request));
  return status;
}

class TcpEndpoint final : public Endpoint {
 public:
  explicit TcpEndpoint(const PeerFacts& peer) : peer_(peer) { peer_.arena.reset(); }

  Status read(std::span<const Run> runs, const os::Wait& wait) override { return move(Op::kRead, runs, wait); }
  Status write(std::span<const Run> runs, const os::Wait& wait) override { return move(Op::kWrite, runs, wait); }

  Status quiet(const os::Wait& wait) override { return abandoned_.hear_out(wait); }

  // A stream that works, kept for the first transfer.
  Status open_first(const os::Wait& wait) {
    BEELINE_ASSIGN(auto stream, open(wait));
    give(std::move(stream));
    return Status::ok();
  }

 private:
  Status move(Op op, std::span<const Run> runs, const os::Wait& wait) {
    Transfer transfer(op, runs, wait);
    const std::uint64_t requests = (bytes_of(runs) + kMaxRequestBytes - 1) / kMaxRequestBytes;
    std::vector<std::thread> helpers;
    // Signals are the calling thread's. A failure elsewhere ends a wait for the answer to a write, too.
    const auto has_failed = [&] { return transfer.has_failed(); };
    const auto has_failed_or_is_interrupted = [&] { return transfer.has_failed() || wait.is_interrupted(); };
    os::Wait unsignalled = wait, own = wait;
    unsignalled.interrupted = nullptr;
    if (op == Op::kWrite && requests > 1) {
      unsignalled.interrupted = has_failed;
      own.interrupted = has_failed_or_is_interrupted;
    }
    for (std::size_t i = 1; i < std::min<std::uint64_t>(kStreams, requests); ++i) {
      auto helper = os::try_start_thread([this, &transfer, unsignalled] { work(transfer, unsignalled); });
      if (!helper) {
        transfer.fail(std::move(helper.status()).with_context("for a stream to " + peer_.name));
        break;
      }
      helpers.push_back(std::move(*helper));
    }
    work(transfer, own);
    for (std::thread& helper : helpers) helper.join();
    return transfer.outcome();
  }

  // One stream's part of a transfer.
  void work(Transfer& transfer, const os::Wait& wait) {
    for (;;) {
      bool was_idle = false;
      auto stream = take(wait, was_idle);
      if (!stream) return transfer.fail(stream.status());
      const int fd = (*stream)->fd();
      transfer.enter(fd);
      const Status status = transfer.run(**stream, wait);
      transfer.leave(fd);
      // After a failure bytes of it may be under way: such a stream is of no use any more.
      if (status && !transfer.has_failed()) return give(std::move(*stream));
      if (transfer.op() == Op::kWrite) abandoned_.add(std::move(*stream), fd);
      if (status) return;
      // One that lay idle may have ended long ago: that says nothing of the peer.
      if (status.code() == Code::kPeerLost && was_idle && !transfer.has_failed()) continue;
      if (status.code() != Code::kPeerLost || !transfer.may_reconnect()) {
        return transfer.fail(Status(status).with_context("on a stream to " + peer_.name));
      }
    }
  }

  Result<std::unique_ptr<os::ByteStream>> take(const os::Wait& wait, bool& was_idle) {
    {
      const std::lock_guard guard(mutex_);
      if (!idle_.empty()) {
        auto stream = std::move(idle_.back());
        idle_.pop_back();
        was_idle = true;
        return stream;
      }
    }
    return open(wait);
  }

  void give(std::unique_ptr<os::ByteStream> stream) {
    const std::lock_guard guard(mutex_);
    if (idle_.size() < kIdleStreams) idle_.push_back(std::move(stream));
  }

  Result<std::unique_ptr<os::ByteStream>> open(const os::Wait& wait) {
    Status last(Code::kUnsupported, peer_.name + " listens on no TCP address");
    for (const os::TcpAddress& address : peer_.tcp) {
      auto stream = tcp::connect(address, Purpose::kStream, peer_, wait);
      if (stream) {
        was_reached_.store(true, std::memory_order_relaxed);
        return stream;
      }
      last = stream.status();
    }
    // It listens as long as it lives.
    if (last.system_error() == ECONNREFUSED && was_reached_.load(std::memory_order_relaxed)) {
      last = Status(Code::kPeerLost, last.message());
    }
    return std::move(last).with_context("while opening a stream to " + peer_.name);
  }

  PeerFacts peer_;  // but its arena, which it must not keep
  Abandoned abandoned_;
  std::atomic<bool> was_reached_{false};
  std::mutex mutex_;
  std::vector<std::unique_ptr<os::ByteStream>> idle_;  // needs mutex_
};

class TcpTransport final : public Transport {
 public:
  [[nodiscard]] std::string_view name() const override { return "tcp"; }
  [[nodiscard]] const Capabilities& capabilities() const override {
    static constexpr Capabilities kCapabilities{.same_host_only = false,
                                                .arena_only = false,
                                                .maps = false,
                                                .writes = true,
                                                .expected_gbps = 3,
                                                .slice_bytes = kMaxRequestBytes};
    return kCapabilities;
  }

  [[nodiscard]] Status reaches(const PeerFacts& peer, const Region& region) const override {
    if (!region.device.is_host()) return {Code::kUnsupported, "the memory is not the host's"};
    if (peer.tcp.empty()) return {Code::kUnsupported, "the peer listens on no TCP address: open its agent with tcp="};
    return check_spoken(peer);
  }

  Result<std::unique_ptr<Endpoint>> connect(const PeerFacts& peer, const os::Wait& wait) const override {
    auto endpoint = std::make_unique<TcpEndpoint>(peer);
    BEELINE_RETURN_IF_ERROR(endpoint->open_first(wait));
    return std::unique_ptr<Endpoint>(std::move(endpoint));
  }
};

}  // namespace

std::unique_ptr<Transport> make() {
  return std::make_unique<TcpTransport>();
}

}  // namespace beeline::transport::tcp
