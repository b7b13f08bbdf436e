// What an object holds: the skeleton of a pickled value, the tensors and arrays beside it as ranges of an arena,
// the references inside it; or an error. One encoding for arguments, results and stored objects.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "beeline/base/bytes.h"
#include "beeline/base/status.h"
#include "beeline/base/thin_vector.h"
#include "beeline/memory/arena.h"
#include "beeline/store/ids.h"

namespace beeline::store {

// Values up to this size travel inside messages and live in the owner's heap.
inline constexpr std::size_t kInlineLimit = 100 * 1024;

// Stable numbers: python/beeline/api/errors.py maps them to exceptions.
enum class ErrorKind : std::uint8_t {
  kNone = 0,
  kTask = 1,
  kActorDied = 2,
  kActorUnavailable = 3,
  kWorkerCrashed = 4,
  kObjectLost = 5,
  kOwnerDied = 6,
  kCancelled = 7,
  kInfeasible = 8,
  kSessionLost = 9,
  kTransport = 10,
  kMutated = 11,
  kPendingCalls = 12,
  kActorInitFailed = 13,
  kOutOfMemory = 14,
  kTimeout = 15,
  kInvalid = 16,
  kSystem = 17,
  kPeerLost = 18,
  kStaleReference = 19,
  kUnavailable = 20,
  kTransferTimeout = 21,
  kTransferCancelled = 22,
  kTorn = 23,
  kRefused = 24,
  kGroupRemoved = 25,
  kEndOfStream = 26,
  kReconstruction = 27,
  kNoEnvironment = 30,
};

struct Buffer {
  memory::Range range;
  bool writable = false;  // the consumer's view, copy-on-write

  friend bool operator==(const Buffer& a, const Buffer& b) {
    return a.range.offset == b.range.offset && a.range.length == b.range.length && a.writable == b.writable;
  }
};

struct InlineBuffer {
  std::string bytes;
  bool writable = false;
};

// How what a value stands for is reached. By a transport, the value says how that fetches the tensors.
enum class Way : std::uint8_t {
  kArena = 0,             // it lies in the placement's buffers, or inline
  kTransport = 1,         // the tensors stay with the holder, and are lost with it
  kProgramTransport = 2,  // of the program's own, which may keep them anywhere
};

// A publication of one process: where the bytes of a large value lie, in its arena. Without buffers: what the holder
// keeps of a value that travels inline, until the owner frees the object.
struct Placement {
  ProcessIndex holder = 0;
  memory::PublicationId publication{};
  std::vector<Buffer> buffers;
  bool direct = false;  // published in place of the producer's tensors, or a snapshot of them
  Way way = Way::kArena;
};

struct Failure {
  ErrorKind kind = ErrorKind::kNone;
  std::string message;
  std::uint64_t actor = 0;
  std::string name;
};

// Immutable once an object is ready; shared by the table and readers.
struct Payload {
  std::string skeleton;                     // pickle; of an error: what dumps_error made
  bool skeleton_in_buffer = false;          // the last buffer of the placement is the skeleton
  ThinVector<InlineBuffer> inline_buffers;  // small arrays that travel along; a placement has no buffers then
  std::unique_ptr<Placement> placement;
  std::unique_ptr<Failure> failure;
  ThinVector<ObjectId> refs;  // references inside the value

  [[nodiscard]] bool is_error() const { return failure != nullptr; }
  // The value is all here: nothing needs to be fetched from a holder.
  [[nodiscard]] bool is_inline() const { return !placement || placement->buffers.empty(); }
  // Something of the value lies with its holder, or may do so.
  [[nodiscard]] bool needs_holder() const { return !is_inline() || (placement && placement->way != Way::kArena); }
  [[nodiscard]] std::uint64_t size_bytes() const;
};
using PayloadPtr = std::shared_ptr<const Payload>;

PayloadPtr make_failure(ErrorKind kind, std::string message, std::uint64_t actor = 0, std::string name = {});

void encode_payload(const Payload& payload, Writer& out);
// kCorrupt when the bytes are no payload: they come from another process.
Result<std::shared_ptr<Payload>> decode_payload(Reader& in);

}  // namespace beeline::store
