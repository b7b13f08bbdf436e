// What processes of a session write into each other's rings. docs/wire_format.md describes the same as a format.
#pragma once

#include <cstdint>

#include "beeline/base/bytes.h"
#include "beeline/ring/mailbox.h"
#include "beeline/store/payload.h"

namespace beeline::runtime {

using ring::Urgency;
using store::ObjectId;
using store::ProcessIndex;

enum class Message : std::uint16_t {
  kFragment = 1,          // a part of a message larger than a record
  kCall = 2,              // CallHeader, name, dependencies, arguments
  kResult = 3,            // ResultHeader, one payload per return
  kSubscribe = 4,         // ObjectId: to its owner, tell me its value when it is ready
  kForward = 5,           // ForwardRecord: to a producer, tell another process too
  kObject = 6,            // ObjectId, payload
  kBorrow = 7,            // ObjectId: to its owner, this process holds it
  kRelease = 8,           // ObjectId: to its owner, no more
  kRefsTaken = 9,         // u64 token: the receiver has borrowed the references of a result
  kFree = 10,             // PublicationId: to its holder, nobody needs it
  kLeaseReturned = 11,    // PublicationId: to its holder, a lease on a retired publication came back
  kCancel = 12,           // CancelRecord
  kTerminate = 13,        // u64 actor, 0 for a worker that leaves: finish what came before; exit when nobody needs you
  kFunctionRequest = 14,  // u64 key: to a caller
  kFunction = 15,         // u64 key, blob
  kRejected = 16,         // u64 task: to a caller, not started here; submit it elsewhere
  kGreeted = 17,          // from the side that connected, once per link: from here on each record rings
  kItem = 18,             // ItemHeader, payload: to a caller, the next item of its call's stream
  kTaken = 19,            // TakenRecord: to a worker, how much of a stream has been taken
};

enum CallFlag : std::uint8_t {
  kCallRetryExceptions = 1,  // an exception of user code may be retried: the worker asks the function's filter
  kCallStreams = 2,          // what it yields is sent item by item; its one return tells of the end
  kCallCollects = 4,         // with kCallStreams: its return is the collection of the items
};

struct CallHeader {
  std::uint64_t task = 0;      // serial of the first return's id: names the call at its caller
  std::uint64_t actor = 0;     // 0: a function
  std::uint64_t function = 0;  // key of the function's blob; 0 for actors
  std::uint32_t attempt = 0;
  std::uint16_t return_count = 0;
  std::uint16_t dependency_count = 0;
  std::int8_t mode = 0;    // how results travel: -1 as the method declares, 0 stored, 1 live, 2 snapshot
  std::uint8_t flags = 0;  // CallFlag
  std::uint16_t name_size = 0;
  union {
    std::uint32_t lease = 0;  // of a function: the lease it was sent on; starts once its worker was assigned that
    std::uint32_t group;      // of a method: its concurrency group, 0 for the actor's own max_concurrency
  };
  std::uint32_t window = 0;  // of a stream: how many items may lie untaken before it pauses; 0: any number
  std::uint32_t reserved = 0;
};
static_assert(sizeof(CallHeader) == 48);

// After the name, per dependency: this, and the payload if it is attached.
struct DependencyHeader {
  enum State : std::uint32_t {
    kAttached = 0,   // the payload follows
    kWillCome = 1,   // somebody sends kObject
    kSubscribe = 2,  // the receiver asks the owner
  };
  ObjectId id;
  std::uint32_t state = kAttached;
  ProcessIndex producer = 0;  // kWillCome: who sends it, 0 for the owner; if that one is gone, the owner is asked
};
static_assert(sizeof(DependencyHeader) == 24);

struct ResultHeader {
  std::uint64_t task = 0;
  std::uint64_t execution_ns = 0;
  std::uint64_t refs_token = 0;  // not 0: answer with kRefsTaken once the references inside are borrowed
  std::uint32_t attempt = 0;
  std::uint32_t forwarded = 0;  // how many kForward of this call were honoured
  std::uint16_t return_count = 0;
  std::uint8_t retryable = 0;  // an exception that the call's filter lets retry
  std::uint8_t leaving = 0;    // the worker takes no more functions
  std::uint8_t reserved[4] = {};
};
static_assert(sizeof(ResultHeader) == 40);

struct ForwardRecord {
  std::uint64_t task = 0;
  ObjectId id;  // of the return to tell about
  std::uint32_t return_index = 0;
  ProcessIndex consumer = 0;
  std::uint32_t attempt = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(ForwardRecord) == 40);

struct ItemHeader {
  std::uint64_t task = 0;
  std::uint64_t index = 0;       // from 0; an attempt sends all from the first on
  std::uint64_t refs_token = 0;  // as of a result
  std::uint32_t attempt = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(ItemHeader) == 32);

struct TakenRecord {
  static constexpr std::uint64_t kAll = UINT64_MAX;  // nobody waits for the rest
  std::uint64_t task = 0;
  std::uint64_t count = 0;
};
static_assert(sizeof(TakenRecord) == 16);

struct CancelRecord {
  std::uint64_t task = 0;
  std::uint8_t force = 0;
  std::uint8_t recursive = 0;
  std::uint8_t reserved[6] = {};
};
static_assert(sizeof(CancelRecord) == 16);

// First frame on the socket of a new link, in both directions; descriptors: mailbox, arena data, arena table, and
// from the connecting side the memory of the two rings (first the connecting side's outgoing one).
struct Hello {
  static constexpr std::uint32_t kMagic = 0x314c4542;  // "BEL1"
  std::uint32_t magic = kMagic;
  ProcessIndex process = 0;
  std::uint32_t channel = 0;  // the bit to set in the sender's mailbox
  std::uint32_t holder = 0;   // the receiver's index in the lease table of the sender's arena
  std::int32_t pid = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(Hello) == 24);

}  // namespace beeline::runtime
