// Stream sockets of the unix domain that carry frames (a u32 length, then bytes) and file descriptors.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "beeline/base/bytes.h"
#include "beeline/base/function_ref.h"
#include "beeline/base/status.h"
#include "beeline/os/byte_stream.h"
#include "beeline/os/fd.h"
#include "beeline/os/wait.h"

namespace beeline::os {

struct PeerCredentials {
  pid_t pid = 0;
  uid_t uid = 0;
};

// A path is a file's, of at most 107 bytes, or begins with "@": then it is a name in the abstract namespace of the
// network namespace, which leaves no file behind and shuts nobody out; see accept_unix().

// Binds and listens at `path`, non-blocking; a file gets mode 0600.
Result<Fd> listen_unix(const std::string& path);
// Connects to `path`, within the bounds of `wait` where its listener has more callers than it accepts; the socket is
// blocking.
Result<Fd> connect_unix(const std::string& path, const Wait& wait);
// Whether `path` is the socket of a listener that has ended: a file that it left behind. Does not wait.
bool is_left_behind(const std::string& path);
// Accepts one connection; no value inside the Fd when none is pending. Refuses peers of other users.
Result<Fd> accept_unix(int listener);
Result<std::pair<Fd, Fd>> make_socket_pair();
Result<PeerCredentials> peer_credentials(int socket);

struct Frame {
  Bytes bytes;
  std::vector<Fd> fds;
};

// Both directions of one connection, of the unix domain or (then without descriptors) a byte stream. Not thread-safe:
// one owner, or a lock around it. Frames are at most kMaxFrame bytes; descriptors arrive with the frame they were sent
// with (at most kMaxFds).
class FrameSocket {
 public:
  static constexpr std::uint32_t kMaxFrame = 1u << 30;
  static constexpr std::size_t kMaxFds = 16;

  FrameSocket() = default;
  explicit FrameSocket(Fd socket) : socket_(std::move(socket)) {}
  explicit FrameSocket(std::unique_ptr<ByteStream> stream) : stream_(std::move(stream)) {}

  // Longer ones than these bytes, which are fewer than kMaxFrame, are refused as well: no more than that and a header
  // is kept of what a peer sends.
  void limit_frames(std::uint32_t bytes) { max_frame_ = bytes; }
  [[nodiscard]] int fd() const { return stream_ != nullptr ? stream_->fd() : socket_.get(); }
  [[nodiscard]] bool is_open() const { return fd() >= 0; }
  void close() {
    socket_.reset();
    stream_.reset();
  }

  // Queues the frame and writes what the socket takes without blocking; `fds` are borrowed and duplicated.
  Status send(BytesView frame, const std::vector<int>& fds = {});
  // Queues it alone, for the next flush().
  Status queue(BytesView frame, const std::vector<int>& fds = {});
  // Writes more of the queue; kOk also when some is left (see wants_write).
  Status flush();
  [[nodiscard]] bool wants_write() const { return !out_.empty(); }
  // Writes all of the queue.
  Status flush_all(const Wait& wait);

  enum class Receive { kFrame, kNothing, kClosed };
  // The next whole frame without blocking.
  Result<Receive> receive(Frame& frame);
  // Hands on whole frames that are there, until `take` fails, which is then the failure; not more than some at a time:
  // whoever sends without pause does not keep the caller for itself.
  enum class Taken { kAll, kSome, kClosed };
  Result<Taken> take_frames(FunctionRef<Status(const Frame& frame)> take);
  // The next whole frame; kPeerLost when the peer closed.
  Status receive_within(Frame& frame, const Wait& wait);

 private:
  struct Outgoing {
    Bytes bytes;
    std::size_t at = 0;
    std::vector<Fd> fds;
  };
  // Bytes that the connection took.
  Result<std::size_t> write(Outgoing& head);
  Result<std::size_t> write_with_fds(Outgoing& head);
  // Reads what is there, or some of it; false at the end of the connection.
  Result<bool> fill();
  Result<bool> fill_with_fds();
  [[nodiscard]] BytesView unread() const { return BytesView(in_).subspan(in_at_); }

  Fd socket_;
  std::unique_ptr<ByteStream> stream_;   // instead of the socket
  std::uint32_t max_frame_ = kMaxFrame;  // of those that arrive
  std::deque<Outgoing> out_;
  Bytes in_;
  std::size_t in_at_ = 0;  // what lies before was taken as frames
  std::deque<Fd> in_fds_;
};

}  // namespace beeline::os
