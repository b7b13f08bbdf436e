#include "beeline/transport/tcp/stream.h"

#include <algorithm>

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

using Move = Result<os::ByteStream::Moved> (os::ByteStream::*)(std::span<const iovec>);

Status move_all(os::ByteStream& stream, Move move, std::vector<iovec>& pieces, const char* what, const os::Wait& wait) {
  std::size_t at = advance(pieces, 0, 0);  // over empty ones
  while (at < pieces.size()) {
    const std::size_t count = std::min(pieces.size() - at, os::kMaxIovecs);
    BEELINE_ASSIGN(const auto moved, (stream.*move)(std::span(pieces).subspan(at, count)));
    if (moved.bytes > 0) {
      at = advance(pieces, at, moved.bytes);
    } else {
      BEELINE_RETURN_IF_ERROR(os::wait_ready(stream.fd(), moved.wait_for, wait, what));
    }
  }
  return Status::ok();
}

}  // namespace

Status send_all(os::ByteStream& stream, std::vector<iovec>& pieces, const os::Wait& wait) {
  return move_all(stream, &os::ByteStream::send, pieces, "room in a stream", wait);
}

Status receive_all(os::ByteStream& stream, std::vector<iovec>& pieces, const os::Wait& wait) {
  return move_all(stream, &os::ByteStream::receive, pieces, "bytes of a stream", wait);
}

Status receive_exactly(os::ByteStream& stream, void* data, std::size_t size, const os::Wait& wait) {
  std::vector<iovec> pieces{{data, size}};
  return receive_all(stream, pieces, wait);
}

}  // namespace beeline::transport::tcp
