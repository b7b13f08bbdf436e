// What the two sides say to each other. First an opening, in pieces of fixed size, by which both prove that they have
// the secret of the owner's contact; then frames. docs/wire_format.md describes the same as a format.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "beeline/base/msgpack.h"
#include "beeline/base/sha256.h"
#include "beeline/base/status.h"
#include "beeline/transport/served_extents.h"

namespace beeline::transport::nccl {

inline constexpr std::string_view kName = "nccl";

// Where the owner's side is. It travels over the agents' own connection: who was not admitted there has no secret.
struct Contact {
  std::string unix_name;
  std::uint16_t port = 0;    // at the hosts by which the agent is reached by TCP; 0: it does not listen there
  Bytes secret;              // 32 random bytes
  std::vector<Bytes> uuids;  // of the GPUs that the owner sees, by its ordinals
  MSGPACK_DEFINE_ARRAY(unix_name, port, secret, uuids)
};
inline constexpr std::size_t kSecretBytes = 32;

using Nonce = std::array<std::byte, 32>;
using Proof = Sha256::Digest;

// The reader's first piece. The owner's Nonce is the answer; then comes the reader's Proof, and a Verdict.
struct Opening {
  static constexpr std::uint64_t kMagic = 0x326C63636E656542;  // "Beenccl2"
  std::uint64_t magic = kMagic;
  Nonce nonce{};
};
static_assert(sizeof(Opening) == 40 && std::is_trivially_copyable_v<Opening>);

struct Verdict {
  std::uint32_t is_refused = 0;
  std::uint32_t reserved = 0;
  Proof proof{};  // the owner's, unless it refuses
};
static_assert(sizeof(Verdict) == 40 && std::is_trivially_copyable_v<Verdict>);

// The first frame: between which two GPUs this connection moves. Answered by a Reply; then the reader sends the 128
// bytes of an ncclUniqueId, which is answered once the owner's side of the communicator is there. The id is the
// reader's: NCCL keeps a thread and a socket for each until both ranks have come, which stay with who gave up.
struct Join {
  std::int32_t ordinal = 0;  // the owner's
  std::uint32_t reserved = 0;
  std::array<std::byte, 16> uuid{};  // of the reader's GPU
};
static_assert(sizeof(Join) == 24 && std::is_trivially_copyable_v<Join>);

// Ranks within the communicator of a connection.
inline constexpr int kOwnerRank = 0, kReaderRank = 1;

// What one request may ask for: between two of them the deadline is looked at, and each piece is a send of its own.
inline constexpr std::uint32_t kMaxRequestRuns = 512;
inline constexpr std::uint64_t kMaxRequestPieces = 512;
inline constexpr std::uint64_t kMaxRequestBytes = std::uint64_t{64} << 20;

// Nothing that a reader says is longer.
inline constexpr std::uint32_t kMaxAskedBytes = 1 << 16;

enum class Op : std::uint32_t { kRead = 1, kWrite = 2 };

// Followed by `runs` RunRecords. Answered by two Replies: that the owner begins, and that it is done.
struct Request {
  Op op = Op::kRead;
  std::uint32_t runs = 0;
};
static_assert(sizeof(Request) == 8 && std::is_trivially_copyable_v<Request>);

// Followed by text where the code is none of kOk: then nothing else comes for what was asked.
struct Reply {
  std::uint32_t code = 0;  // Code
  std::uint32_t reserved = 0;
};
static_assert(sizeof(Reply) == 8 && std::is_trivially_copyable_v<Reply>);

// kCorrupt where the frame is none; `runs` are those of the request.
Result<Op> decode_request(BytesView frame, std::vector<RunRecord>& runs);
// What follows a reply, or the failure that it tells.
Result<Bytes> decode_reply(BytesView frame);

}  // namespace beeline::transport::nccl
