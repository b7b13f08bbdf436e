#include "beeline/os/unix_socket.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace beeline::os {
namespace {

// Frame header: the length of the payload and how many descriptors came with it.
struct FrameHeader {
  std::uint32_t size;
  std::uint32_t fd_count;
};
static_assert(sizeof(FrameHeader) == 8);

// By take_frames().
constexpr int kFramesAtOnce = 64;
// Of what a peer sends without pause so much is read at a time: its reader may hold a lock.
constexpr std::size_t kBytesAtOnce = std::size_t{1} << 20;

bool holds_whole_frame(BytesView bytes) {
  FrameHeader header{};
  if (bytes.size() < sizeof header) return false;
  std::memcpy(&header, bytes.data(), sizeof header);
  return bytes.size() - sizeof header >= header.size;
}

bool is_abstract(const std::string& path) {
  return path.starts_with('@');
}

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return Status(Code::kInvalidArgument,
                  "socket path of " + std::to_string(path.size()) + " bytes is longer than 107: " + path);
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  if (is_abstract(path)) address.sun_path[0] = 0;
  return address;
}

// Waits of connect() and send() on the socket.
Status limit_sends(const Fd& socket, Deadline until) {
  timeval limit{};  // none
  if (!until.is_never()) {
    constexpr std::int64_t kLongest = 1'000'000'000;
    const auto left = std::chrono::ceil<std::chrono::microseconds>(until.left()).count();
    const auto us = std::clamp<std::int64_t>(left, 1, kLongest);
    limit = {us / 1'000'000, us % 1'000'000};
  }
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0) return Status::ok();
  return Status::from_errno("limit the waits of a unix socket", errno);
}

}  // namespace

Result<Fd> listen_unix(const std::string& path) {
  BEELINE_ASSIGN(const auto address, address_of(path));
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.is_open()) return Status::from_errno("create a unix socket", errno);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return Status::from_errno("bind " + path, errno);
  }
  if (!is_abstract(path)) ::chmod(path.c_str(), 0600);
  if (::listen(fd.get(), 1024) != 0) return Status::from_errno("listen at " + path, errno);
  return fd;
}

Result<Fd> connect_unix(const std::string& path, const Wait& wait) {
  BEELINE_ASSIGN(const auto address, address_of(path));
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.is_open()) return Status::from_errno("create a unix socket", errno);
  for (;;) {
    // What a full backlog waits for: there is nothing to poll for.
    BEELINE_RETURN_IF_ERROR(limit_sends(fd, wait.tick()));
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) break;
    if (errno != EINTR && errno != EAGAIN) return Status::from_errno("connect to " + path, errno);
    BEELINE_RETURN_IF_ERROR(
        wait.check().with_context("while waiting for the process that listens at " + path + " to accept connections"));
    if (wait.is_interrupted()) return Status(Code::kInterrupted, "a signal ended the wait to connect to " + path);
  }
  BEELINE_RETURN_IF_ERROR(limit_sends(fd, Deadline::never()));
  return fd;
}

bool is_left_behind(const std::string& path) {
  const auto address = address_of(path);
  const Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!address || !fd.is_open()) return false;
  const auto& target = *address;
  return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&target), sizeof target) != 0 && errno == ECONNREFUSED;
}

Result<Fd> accept_unix(int listener) {
  Fd fd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  if (!fd.is_open()) {
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return Fd();
    return Status::from_errno("accept a connection", errno);
  }
  BEELINE_ASSIGN(const auto peer, peer_credentials(fd.get()));
  if (peer.uid != ::geteuid()) {
    return Status(Code::kInvalidArgument, "refused a connection from user " + std::to_string(peer.uid) + " (pid " +
                                              std::to_string(peer.pid) +
                                              "): a session belongs to the user that started it");
  }
  return fd;
}

Result<std::pair<Fd, Fd>> make_socket_pair() {
  std::array<int, 2> fds{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) != 0) {
    return Status::from_errno("socketpair", errno);
  }
  return std::pair<Fd, Fd>(Fd(fds[0]), Fd(fds[1]));
}

Result<PeerCredentials> peer_credentials(int socket) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return Status::from_errno("read a peer's credentials", errno);
  }
  return PeerCredentials{credentials.pid, credentials.uid};
}

Status FrameSocket::send(BytesView frame, const std::vector<int>& fds) {
  BEELINE_RETURN_IF_ERROR(queue(frame, fds));
  return flush();
}

Status FrameSocket::queue(BytesView frame, const std::vector<int>& fds) {
  if (!is_open()) return {Code::kPeerLost, "send on a closed connection"};
  if (frame.size() > kMaxFrame || fds.size() > kMaxFds) {
    return {Code::kInvalidArgument, "a frame of " + std::to_string(frame.size()) + " bytes and " +
                                        std::to_string(fds.size()) + " descriptors exceeds the limits"};
  }
  Outgoing outgoing;
  outgoing.bytes.reserve(sizeof(FrameHeader) + frame.size());
  Writer writer(outgoing.bytes);
  writer.write(FrameHeader{static_cast<std::uint32_t>(frame.size()), static_cast<std::uint32_t>(fds.size())});
  writer.append(frame);
  for (const int fd : fds) {
    const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) return Status::from_errno("duplicate a descriptor to send", errno);
    outgoing.fds.emplace_back(copy);
  }
  out_.push_back(std::move(outgoing));
  return Status::ok();
}

Result<std::size_t> FrameSocket::write(Outgoing& head) {
  if (stream_ == nullptr) return write_with_fds(head);
  const iovec part{head.bytes.data() + head.at, head.bytes.size() - head.at};
  BEELINE_ASSIGN(const auto moved, stream_->send({&part, 1}));
  return moved.bytes;
}

Result<std::size_t> FrameSocket::write_with_fds(Outgoing& head) {
  for (;;) {
    iovec part{head.bytes.data() + head.at, head.bytes.size() - head.at};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * kMaxFds)> control{};
    if (!head.fds.empty()) {
      message.msg_control = control.data();
      message.msg_controllen = CMSG_SPACE(sizeof(int) * head.fds.size());
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int) * head.fds.size());
      auto* slots = reinterpret_cast<int*>(CMSG_DATA(header));
      for (std::size_t i = 0; i < head.fds.size(); ++i) slots[i] = head.fds[i].get();
    }
    const ssize_t sent = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return std::size_t{0};
      if (errno == EPIPE || errno == ECONNRESET) return Status(Code::kPeerLost, "the peer closed the connection");
      return Status::from_errno("send on a socket", errno);
    }
    return static_cast<std::size_t>(sent);
  }
}

Status FrameSocket::flush() {
  while (!out_.empty()) {
    auto& head = out_.front();
    BEELINE_ASSIGN(const std::size_t sent, write(head));
    if (sent == 0) return Status::ok();
    head.fds.clear();
    head.at += sent;
    if (head.at == head.bytes.size()) out_.pop_front();
  }
  return Status::ok();
}

Status FrameSocket::flush_all(const Wait& wait) {
  for (;;) {
    BEELINE_RETURN_IF_ERROR(flush());
    if (!wants_write()) return Status::ok();
    BEELINE_RETURN_IF_ERROR(wait_ready(fd(), POLLOUT, wait, "room in a socket"));
  }
}

Result<bool> FrameSocket::fill() {
  in_.erase(in_.begin(), in_.begin() + static_cast<std::ptrdiff_t>(std::exchange(in_at_, 0)));
  if (stream_ == nullptr) return fill_with_fds();
  std::array<std::byte, 65536> buffer;
  const iovec part{buffer.data(), buffer.size()};
  // Not less than a frame: what TLS holds decrypted shows at no descriptor.
  while (in_.size() < sizeof(FrameHeader) + max_frame_) {
    const auto moved = stream_->receive({&part, 1});
    if (moved.status().code() == Code::kPeerLost) return false;
    if (!moved) return moved.status();
    if (moved->bytes == 0) return true;
    in_.insert(in_.end(), buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(moved->bytes));
  }
  return true;
}

Result<bool> FrameSocket::fill_with_fds() {
  std::array<std::byte, 65536> buffer;
  for (std::size_t filled = 0; filled < kBytesAtOnce && in_.size() < sizeof(FrameHeader) + max_frame_;) {
    iovec part{buffer.data(), buffer.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * kMaxFds)> control{};
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t got = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return true;
      if (errno == ECONNRESET) return false;
      return Status::from_errno("receive on a socket", errno);
    }
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
      const auto count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      const auto* slots = reinterpret_cast<const int*>(CMSG_DATA(header));
      for (std::size_t i = 0; i < count; ++i) in_fds_.emplace_back(slots[i]);
    }
    if ((message.msg_flags & MSG_CTRUNC) != 0) {
      return Status(Code::kResourceExhausted,
                    "descriptors sent by a peer were lost: raise the open files limit (ulimit -n)");
    }
    if (got == 0) return false;
    in_.insert(in_.end(), buffer.begin(), buffer.begin() + got);
    if (static_cast<std::size_t>(got) < buffer.size()) return true;
    filled += static_cast<std::size_t>(got);
  }
  return true;
}

Result<FrameSocket::Receive> FrameSocket::receive(Frame& frame) {
  if (!is_open()) return Receive::kClosed;
  for (bool filled = false;; filled = true) {
    const BytesView bytes = unread();
    if (bytes.size() >= sizeof(FrameHeader)) {
      FrameHeader header{};
      std::memcpy(&header, bytes.data(), sizeof header);
      if (header.size > max_frame_ || header.fd_count > kMaxFds) {
        return Status(Code::kCorrupt, "a frame header announces " + std::to_string(header.size) + " bytes and " +
                                          std::to_string(header.fd_count) + " descriptors");
      }
      const std::size_t whole = sizeof header + header.size;
      if (bytes.size() >= whole) {
        // Descriptors come with the first byte of their frame: those of a whole frame are here, and others belong
        // to what follows it.
        if (in_fds_.size() < header.fd_count || (bytes.size() == whole && in_fds_.size() > header.fd_count)) {
          return Status(Code::kCorrupt, "a frame that announces " + std::to_string(header.fd_count) +
                                            " descriptors came with " + std::to_string(in_fds_.size()));
        }
        frame.bytes.assign(bytes.begin() + sizeof header, bytes.begin() + static_cast<std::ptrdiff_t>(whole));
        in_at_ += whole;
        frame.fds.clear();
        for (std::uint32_t i = 0; i < header.fd_count; ++i) {
          frame.fds.push_back(std::move(in_fds_.front()));
          in_fds_.pop_front();
        }
        return Receive::kFrame;
      }
    }
    if (filled) return Receive::kNothing;
    BEELINE_ASSIGN(const bool open, fill());
    // The stream ended: a whole frame may still be in the buffer, a part of one never completes.
    if (!open && !holds_whole_frame(unread())) return Receive::kClosed;
  }
}

Result<FrameSocket::Taken> FrameSocket::take_frames(FunctionRef<Status(const Frame& frame)> take) {
  Frame frame;
  for (int taken = 0; taken < kFramesAtOnce; ++taken) {
    BEELINE_ASSIGN(const auto outcome, receive(frame));
    if (outcome == Receive::kNothing) return Taken::kAll;
    if (outcome == Receive::kClosed) return Taken::kClosed;
    BEELINE_RETURN_IF_ERROR(take(frame));
  }
  return Taken::kSome;
}

Status FrameSocket::receive_within(Frame& frame, const Wait& wait) {
  for (;;) {
    BEELINE_ASSIGN(const auto outcome, receive(frame));
    if (outcome == Receive::kFrame) return Status::ok();
    if (outcome == Receive::kClosed) return {Code::kPeerLost, "the peer closed the connection"};
    BEELINE_RETURN_IF_ERROR(wait_ready(fd(), POLLIN, wait, "an answer on a socket"));
  }
}

}  // namespace beeline::os
