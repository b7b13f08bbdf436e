// Stream sockets over TCP: numeric addresses or host names, IPv4 and IPv6.
#pragma once

#include <cstdint>
#include <string>

#include "beeline/base/status.h"
#include "beeline/os/fd.h"
#include "beeline/os/wait.h"

namespace beeline::os {

// Where a listener can be reached. "host:port"; an IPv6 host stands in brackets.
struct TcpAddress {
  std::string host;
  std::uint16_t port = 0;

  static Result<TcpAddress> parse(const std::string& text);
  [[nodiscard]] std::string text() const;
  friend bool operator==(const TcpAddress&, const TcpAddress&) = default;
};

// Binds and listens, non-blocking; port 0 takes a free one.
Result<Fd> listen_tcp(const TcpAddress& address);
// Connects within the bounds of `wait`; the socket does not block, and sends at once (TCP_NODELAY).
Result<Fd> connect_tcp(const TcpAddress& address, const Wait& wait);
// One connection, non-blocking, TCP_NODELAY; no value inside the Fd when none is pending.
Result<Fd> accept_tcp(int listener);
// This end's address, as numbers.
Result<TcpAddress> local_address(int socket);
// The other end's, for people; "?" when it is gone.
std::string peer_address_text(int socket);

}  // namespace beeline::os
