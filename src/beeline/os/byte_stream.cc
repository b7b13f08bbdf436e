#include "beeline/os/byte_stream.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "beeline/os/remote_memory.h"

namespace beeline::os {
namespace {

class PlainStream final : public ByteStream {
 public:
  explicit PlainStream(Fd connection) : ByteStream(std::move(connection)) {}

  Status begin(const Wait& /*wait*/) override { return Status::ok(); }
  Result<Moved> send(std::span<const iovec> pieces) override {
    return move(pieces, POLLOUT, "send on a connection",
                [](int fd, const msghdr* message) { return ::sendmsg(fd, message, MSG_NOSIGNAL | MSG_DONTWAIT); });
  }
  Result<Moved> receive(std::span<const iovec> pieces) override {
    return move(pieces, POLLIN, "receive on a connection",
                [](int fd, msghdr* message) { return ::recvmsg(fd, message, MSG_DONTWAIT); });
  }
  [[nodiscard]] Result<Bytes> binding() const override { return Bytes(); }

 private:
  template <typename Call>
  Result<Moved> move(std::span<const iovec> pieces, short event, const char* what, Call&& call) {
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(pieces.data());  // it is not written to
    message.msg_iovlen = pieces.size();
    for (;;) {
      const ssize_t moved = call(fd(), &message);
      if (moved > 0) return Moved{static_cast<std::size_t>(moved), 0};
      if (moved < 0 && errno == EINTR) continue;
      if (moved < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return Moved{0, event};
      return failure_of_call(moved, what);
    }
  }
};

// Takes the first `moved` bytes off pieces[at...]; returns where what is left begins.
std::size_t advance(std::vector<iovec>& pieces, std::size_t at, std::size_t moved) {
  while (at < pieces.size() && moved >= pieces[at].iov_len) moved -= pieces[at++].iov_len;
  if (at < pieces.size()) {
    pieces[at].iov_base = static_cast<std::byte*>(pieces[at].iov_base) + moved;
    pieces[at].iov_len -= moved;
  }
  return at;
}

using Move = Result<ByteStream::Moved> (ByteStream::*)(std::span<const iovec>);

Status move_all(ByteStream& stream, Move move, std::vector<iovec>& pieces, const char* what, const Wait& wait) {
  std::size_t at = advance(pieces, 0, 0);  // over empty ones
  while (at < pieces.size()) {
    const std::size_t count = std::min(pieces.size() - at, kMaxIovecs);
    BEELINE_ASSIGN(const auto moved, (stream.*move)(std::span(pieces).subspan(at, count)));
    if (moved.bytes > 0) {
      at = advance(pieces, at, moved.bytes);
    } else {
      BEELINE_RETURN_IF_ERROR(wait_ready(stream.fd(), moved.wait_for, wait, what));
    }
  }
  return Status::ok();
}

}  // namespace

Status ByteStream::failure_of_call(ssize_t moved, const char* what) {
  if (moved == 0) return {Code::kPeerLost, "the connection was closed"};
  if (errno == ECONNRESET || errno == EPIPE || errno == ETIMEDOUT) return {Code::kPeerLost, "the connection broke"};
  return Status::from_errno(what, errno);
}

std::unique_ptr<ByteStream> plain_stream(Fd connection) {
  return std::make_unique<PlainStream>(std::move(connection));
}

Status send_all(ByteStream& stream, std::vector<iovec>& pieces, const Wait& wait) {
  return move_all(stream, &ByteStream::send, pieces, "room in a stream", wait);
}

Status receive_all(ByteStream& stream, std::vector<iovec>& pieces, const Wait& wait) {
  return move_all(stream, &ByteStream::receive, pieces, "bytes of a stream", wait);
}

Status receive_exactly(ByteStream& stream, void* data, std::size_t size, const Wait& wait) {
  std::vector<iovec> pieces{{data, size}};
  return receive_all(stream, pieces, wait);
}

}  // namespace beeline::os
