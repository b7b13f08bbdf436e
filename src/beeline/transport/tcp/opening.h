// How a TCP connection between agents begins: who calls whom, what for, and on both sides the proof that they have the
// token, which itself does not travel. docs/wire_format.md describes the same as a format.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>

#include "beeline/base/sha256.h"
#include "beeline/os/byte_stream.h"
#include "beeline/os/wait.h"
#include "beeline/transport/transport.h"

namespace beeline::transport::tcp {

enum class Purpose : std::uint32_t {
  kControl = 1,  // frames of the agents (transfer/messages.h)
  kStream = 2,   // requests for memory (stream.h)
};

// What is said, in this order. Numbers that are used once (nonces) are random and of either side, so that nothing of
// one opening is worth anything in another.

using Nonce = std::array<std::byte, 32>;
using Proof = Sha256::Digest;

// By the caller; followed by its id.
struct Opening {
  static constexpr std::uint64_t kMagic = 0x3370637465656C42;  // "Bleetcp3"
  std::uint64_t magic = kMagic;
  Purpose purpose = Purpose::kControl;
  std::uint32_t id_bytes = 0;
  std::uint32_t has_token = 0;
  std::uint32_t reserved = 0;
  Nonce nonce{};
};
static_assert(sizeof(Opening) == 56 && std::is_trivially_copyable_v<Opening>);

// By the listener, to the opening and to the caller's proof; followed by the text of a refusal, else by a Challenge or
// by its own proof.
struct Answer {
  std::uint32_t code = 0;  // Code
  std::uint32_t message_bytes = 0;
};
static_assert(sizeof(Answer) == 8);

// Followed by the listener's id. The caller's Proof is the next.
struct Challenge {
  Nonce nonce{};
  std::uint32_t id_bytes = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(Challenge) == 40 && std::is_trivially_copyable_v<Challenge>);

// What both sides know of one opening before either has proven anything.
struct Transcript {
  Purpose purpose = Purpose::kControl;
  Nonce caller_nonce{}, listener_nonce{};
  std::string_view caller_id, listener_id;
  Bytes binding;  // os::ByteStream::binding()
};
enum class Side { kCaller, kListener };
Proof prove(std::string_view token, Side side, const Transcript& transcript);

// The caller's side. kInvalidArgument, with the other's words, when it is refused, and when whoever listens there has
// no such token; kNotFound when it is not the agent of that id; kUnsupported when it is of another release.
Status open_connection(os::ByteStream& stream, Purpose purpose, std::string_view self_id, std::string_view peer_id,
                       std::string_view token, const os::Wait& wait);
// kUnsupported where what the peer speaks by TCP is not what this agent insists on.
Status check_spoken(const PeerFacts& peer);
// Connects and opens, by TLS if the peer has a certificate. Fails as connect_tcp(), ByteStream::begin() and
// open_connection() do.
Result<std::unique_ptr<os::ByteStream>> connect(const os::TcpAddress& address, Purpose purpose, const PeerFacts& peer,
                                                const os::Wait& wait);

struct Caller {
  Purpose purpose = Purpose::kControl;
  std::string agent_id;
};
// The listener's side. Whoever has no token, or another one, is told so and refused.
Result<Caller> admit_connection(os::ByteStream& stream, std::string_view self_id, std::string_view token,
                                const os::Wait& wait);
// Tells whoever has begun to speak plain to a listener that speaks TLS.
void turn_away_plain(int fd);

}  // namespace beeline::transport::tcp
