// Where an agent is to be found, as a value: it travels in JSON, in a URL or inside any object.
#pragma once

#include <string>
#include <vector>

#include "beeline/base/status.h"
#include "beeline/os/tcp_socket.h"

namespace beeline::transfer {

// beeline://NAME?id=..&boot=..&unix=PATH&tcp=HOST:PORT,... with percent-encoding; who speaks TLS at these has
// &tls=HOST:PORT,...&certificate=.. instead. No secret is in it.
struct Address {
  std::string name;       // for people; need not be unique
  std::string id;         // 32 hexadecimal digits, of one agent's life
  std::string boot_id;    // of the machine's boot, 32 hexadecimal digits; empty where it is hidden
  std::string unix_path;  // of its socket; empty: shares no memory
  std::vector<os::TcpAddress> tcp;
  std::string certificate;  // fingerprint of what it shows there, 64 hexadecimal digits; empty: it speaks no TLS

  static Result<Address> parse(const std::string& text);
  [[nodiscard]] std::string text() const;
  friend bool operator==(const Address&, const Address&) = default;
};

// 32 random hexadecimal digits.
std::string make_agent_id();

}  // namespace beeline::transfer
