#include "beeline/os/byte_stream.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

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

}  // namespace

Status ByteStream::failure_of_call(ssize_t moved, const char* what) {
  if (moved == 0) return {Code::kPeerLost, "the connection was closed"};
  if (errno == ECONNRESET || errno == EPIPE || errno == ETIMEDOUT) return {Code::kPeerLost, "the connection broke"};
  return Status::from_errno(what, errno);
}

std::unique_ptr<ByteStream> plain_stream(Fd connection) {
  return std::make_unique<PlainStream>(std::move(connection));
}

}  // namespace beeline::os
