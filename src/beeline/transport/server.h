// The owner's side of back ends that reach memory over a network: it serves what is registered to whoever has the
// token. Agents' own connections arrive at the same place, and are handed on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "beeline/os/byte_stream.h"
#include "beeline/os/tcp_socket.h"
#include "beeline/os/tls.h"
#include "beeline/transport/transport.h"

namespace beeline::transport {

// Thread-safe. Ends every connection and thread when it is destroyed.
class Server {
 public:
  struct Options {
    os::TcpAddress listen;  // port 0 takes a free one
    std::string token;      // never empty
    std::string agent_id;   // whose server it is
    // Told of each caller that is turned away, on a thread of the server.
    std::function<void()> on_refused = {};
    std::shared_ptr<const os::Tls> tls = {};  // null: it speaks plain; else nothing but TLS
  };
  // Gets an admitted connection that is an agent's own, from a thread of the server.
  using OnControl = std::function<void(std::unique_ptr<os::ByteStream> connection, const std::string& agent_id)>;

  virtual ~Server() = default;
  // Where it listens, with the port that it has.
  [[nodiscard]] virtual const os::TcpAddress& address() const = 0;

  struct Stats {
    std::uint64_t connections = 0;  // now
    std::uint64_t refused = 0, requests = 0, bytes_read = 0, bytes_written = 0, failed = 0;
  };
  [[nodiscard]] virtual Stats stats() const = 0;
};

}  // namespace beeline::transport
