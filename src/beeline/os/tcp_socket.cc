#include "beeline/os/tcp_socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <charconv>
#include <memory>

namespace beeline::os {
namespace {

struct FreeAddresses {
  void operator()(addrinfo* list) const { ::freeaddrinfo(list); }
};
using AddressList = std::unique_ptr<addrinfo, FreeAddresses>;

// `failure`: what a name without an address means here.
Result<AddressList> resolve(const TcpAddress& address, int flags, Code failure) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const auto port = std::to_string(address.port);
  const int error = ::getaddrinfo(address.host.empty() ? nullptr : address.host.c_str(), port.c_str(), &hints, &found);
  if (error == EAI_SYSTEM) return Status::from_errno("resolve " + address.text(), errno);
  if (error != 0) return Status(failure, "resolve " + address.text() + ": " + ::gai_strerror(error));
  return AddressList(found);
}

void send_at_once(int socket) {
  const int on = 1;
  ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

// A peer whose host vanished is noticed after half a minute, also by who only waits.
void notice_loss(int socket) {
  constexpr int kOn = 1;
  constexpr int kIdleS = 10;
  constexpr int kBetweenS = 5;
  constexpr int kProbes = 4;
  constexpr unsigned kUserTimeoutMs = 30'000;
  ::setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &kOn, sizeof kOn);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &kIdleS, sizeof kIdleS);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &kBetweenS, sizeof kBetweenS);
  ::setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &kProbes, sizeof kProbes);
  ::setsockopt(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &kUserTimeoutMs, sizeof kUserTimeoutMs);
}

Result<TcpAddress> numeric(const sockaddr_storage& storage, socklen_t size) {
  char host[NI_MAXHOST];
  char port[NI_MAXSERV];
  const int error = ::getnameinfo(reinterpret_cast<const sockaddr*>(&storage), size, host, sizeof host, port,
                                  sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
  if (error != 0) return Status(Code::kSystem, std::string("name a socket's address: ") + ::gai_strerror(error));
  TcpAddress address;
  address.host = host;
  std::from_chars(port, port + std::char_traits<char>::length(port), address.port);
  return address;
}

Result<Fd> connect_one(const addrinfo& candidate, const TcpAddress& address, const Wait& wait) {
  Fd fd(::socket(candidate.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.is_open()) return Status::from_errno("create a TCP socket", errno);
  if (::connect(fd.get(), candidate.ai_addr, candidate.ai_addrlen) != 0) {
    if (errno != EINPROGRESS && errno != EINTR) return Status::from_errno("connect to " + address.text(), errno);
    BEELINE_RETURN_IF_ERROR(wait_ready(fd.get(), POLLOUT, wait, "a TCP connection"));
    int error = 0;
    socklen_t size = sizeof error;
    ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return Status::from_errno("connect to " + address.text(), error);
  }
  send_at_once(fd.get());
  notice_loss(fd.get());
  return fd;
}

}  // namespace

Result<TcpAddress> TcpAddress::parse(const std::string& text) {
  const Status bad(Code::kInvalidArgument, "\"" + text + "\" is no TCP address: write host:port or [IPv6]:port");
  const auto colon = text.rfind(':');
  if (colon == std::string::npos) return bad;
  TcpAddress address;
  address.host = text.substr(0, colon);
  if (address.host.starts_with('[')) {
    if (!address.host.ends_with(']')) return bad;
    address.host = address.host.substr(1, address.host.size() - 2);
  } else if (address.host.find(':') != std::string::npos) {
    return bad;
  }
  const char* const end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data() + colon + 1, end, address.port);
  if (parsed.ec != std::errc() || parsed.ptr != end) return bad;
  return address;
}

std::string TcpAddress::text() const {
  const bool is_ipv6 = host.find(':') != std::string::npos;
  return (is_ipv6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<Fd> listen_tcp(const TcpAddress& address) {
  BEELINE_ASSIGN(const auto candidates, resolve(address, AI_PASSIVE, Code::kInvalidArgument));
  Fd fd(::socket(candidates->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.is_open()) return Status::from_errno("create a TCP socket", errno);
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(fd.get(), candidates->ai_addr, candidates->ai_addrlen) != 0) {
    return Status::from_errno("bind " + address.text(), errno);
  }
  if (::listen(fd.get(), 1024) != 0) return Status::from_errno("listen at " + address.text(), errno);
  return fd;
}

Result<Fd> connect_tcp(const TcpAddress& address, const Wait& wait) {
  BEELINE_ASSIGN(const auto candidates, resolve(address, 0, Code::kPeerLost));
  Status last(Code::kPeerLost, address.text() + " has no address");
  for (const addrinfo* candidate = candidates.get(); candidate != nullptr; candidate = candidate->ai_next) {
    auto connected = connect_one(*candidate, address, wait);
    if (connected) return connected;
    last = connected.status();
    if (last.code() == Code::kInterrupted || !wait.check()) break;
  }
  return last;
}

Result<Fd> accept_tcp(int listener) {
  Fd fd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (fd.is_open()) {
    send_at_once(fd.get());
    notice_loss(fd.get());
    return fd;
  }
  if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return Fd();
  return Status::from_errno("accept a TCP connection", errno);
}

Result<TcpAddress> local_address(int socket) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&storage), &size) != 0) {
    return Status::from_errno("read a socket's address", errno);
  }
  return numeric(storage, size);
}

std::string peer_address_text(int socket) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  if (::getpeername(socket, reinterpret_cast<sockaddr*>(&storage), &size) != 0) return "?";
  auto address = numeric(storage, size);
  return address ? address->text() : "?";
}

}  // namespace beeline::os
