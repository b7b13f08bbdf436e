// A TCP connection as bytes that go both ways: plain, or within TLS.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "beeline/base/bytes.h"
#include "beeline/base/status.h"
#include "beeline/os/fd.h"
#include "beeline/os/wait.h"

namespace beeline::os {

// Has one user at a time; meanwhile others may shut down its descriptor.
class ByteStream {
 public:
  // None moved: ask again, with the same bytes, once the descriptor is ready for `wait_for` (POLLIN, POLLOUT).
  struct Moved {
    std::size_t bytes = 0;
    short wait_for = 0;
  };

  virtual ~ByteStream() = default;
  [[nodiscard]] int fd() const { return fd_.get(); }

  // What precedes the first byte, if anything does.
  virtual Status begin(const Wait& wait) = 0;
  // Some of the pieces' bytes, from the first on, as many as go without a wait. The first piece is not empty, and there
  // are at most kMaxIovecs. kPeerLost when the connection has ended.
  virtual Result<Moved> send(std::span<const iovec> pieces) = 0;
  virtual Result<Moved> receive(std::span<const iovec> pieces) = 0;
  // What the two ends of this very connection have in common, and nobody between them; empty where it is plain.
  [[nodiscard]] virtual Result<Bytes> binding() const = 0;

 protected:
  explicit ByteStream(Fd connection) : fd_(std::move(connection)) {}
  // What a call that moved nothing, and need not be made again, says of the connection: by what it returned, and errno.
  static Status failure_of_call(ssize_t moved, const char* what);

 private:
  Fd fd_;
};

std::unique_ptr<ByteStream> plain_stream(Fd connection);

// All of the pieces, in order; kPeerLost when the connection ends. `pieces` is used up.
Status send_all(ByteStream& stream, std::vector<iovec>& pieces, const Wait& wait);
Status receive_all(ByteStream& stream, std::vector<iovec>& pieces, const Wait& wait);
Status receive_exactly(ByteStream& stream, void* data, std::size_t size, const Wait& wait);

}  // namespace beeline::os
