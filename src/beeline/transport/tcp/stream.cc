#include "beeline/transport/tcp/stream.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "beeline/os/remote_memory.h"

namespace beeline::transport::tcp {
namespace {

// Takes the first `moved` bytes off pieces[at...]; returns where what is left begins.
std::size_t advance(std::vector<iovec>& pieces, std::size_t at, std::size_t moved) {
  while (at < pieces.size() && moved >= pieces[at].iov_len) moved -= pieces[at++].iov_len;
  if (at < pieces.size()) {
    pieces[at].iov_base = static_cast<std::byte*>(pieces[at].iov_base) + moved;
    pieces[at].iov_len -= moved;
  }
  return at;
}

template <typename Call>
Status move_all(int fd, std::vector<iovec>& pieces, short events, const char* what, const os::Wait& wait, Call&& call) {
  std::size_t at = 0;
  while (at < pieces.size() && pieces[at].iov_len == 0) ++at;
  while (at < pieces.size()) {
    msghdr message{};
    message.msg_iov = &pieces[at];
    message.msg_iovlen = std::min(pieces.size() - at, os::kMaxIovecs);
    const ssize_t moved = call(fd, &message);
    if (moved > 0) {
      at = advance(pieces, at, static_cast<std::size_t>(moved));
    } else if (moved == 0) {
      return {Code::kPeerLost, "the connection was closed"};
    } else if (errno == EAGAIN || errno == EINTR) {
      BEELINE_RETURN_IF_ERROR(os::wait_ready(fd, events, wait, what));
    } else if (errno == ECONNRESET || errno == EPIPE || errno == ETIMEDOUT) {
      return {Code::kPeerLost, "the connection broke"};
    } else {
      return Status::from_errno(what, errno);
    }
  }
  return Status::ok();
}

}  // namespace

Status send_all(int fd, std::vector<iovec>& pieces, const os::Wait& wait) {
  return move_all(fd, pieces, POLLOUT, "room in a stream", wait,
                  [](int socket, const msghdr* message) { return ::sendmsg(socket, message, MSG_NOSIGNAL); });
}

Status receive_all(int fd, std::vector<iovec>& pieces, const os::Wait& wait) {
  return move_all(fd, pieces, POLLIN, "bytes of a stream", wait,
                  [](int socket, msghdr* message) { return ::recvmsg(socket, message, 0); });
}

Status receive_exactly(int fd, void* data, std::size_t size, const os::Wait& wait) {
  std::vector<iovec> pieces{{data, size}};
  return receive_all(fd, pieces, wait);
}

}  // namespace beeline::transport::tcp
