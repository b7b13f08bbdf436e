// A call that this process makes: what it asks for, and what it holds until its end.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "beeline/base/linked_list.h"
#include "beeline/base/thin_vector.h"
#include "beeline/runtime/control.h"
#include "beeline/runtime/messages.h"
#include "beeline/runtime/stream_items.h"
#include "beeline/store/object_table.h"

namespace beeline::runtime {

struct Shape;
struct ActorTarget;

struct CallOptions {
  const std::string* name = nullptr;           // "Counter.incr", or what the program calls it; for people; interned
  const std::string* function_name = nullptr;  // what it runs, whatever it is called; null: as its name
  const std::string* call_site = nullptr;      // where it is made, if that is recorded; interned
  const std::string* method = nullptr;         // of an actor; interned
  std::uint64_t function = 0;                  // key of the blob
  std::uint32_t return_count = 1;
  std::int8_t mode = 0;
  std::uint8_t flags = 0;    // CallFlag
  std::uint32_t group = 0;   // of a method: its concurrency group
  std::uint32_t window = 0;  // of a stream: as in CallHeader
  std::int32_t retries = 0;  // -1: without bound

  [[nodiscard]] bool streams() const { return (flags & kCallStreams) != 0; }
  [[nodiscard]] bool collects() const { return (flags & kCallCollects) != 0; }
};

// A call as its executor knows it: who made it, and its number there. {} stands for none.
struct CallKey {
  ProcessIndex caller = 0;
  std::uint64_t task = 0;
  bool operator==(const CallKey&) const = default;
};

// In its target's list once it was sent.
struct OutgoingCall : LinkedItem<OutgoingCall> {
  struct Forward {
    std::uint32_t return_index;
    ProcessIndex consumer;
  };
  CallOptions options;
  std::uint64_t task = 0;
  CallKey parent;                          // on whose behalf it was made
  ThinVector<store::Entry*> returns;       // each held until the end
  ThinVector<store::Entry*> dependencies;  // each held until the end
  // Their placement is ours; their references are held until the end. Null once they need not be sent again.
  store::PayloadPtr args;
  std::uint32_t attempt = 0;
  std::int32_t retries_left = 0;
  StreamItems items;          // of a stream: those that another attempt may have to give again
  std::uint64_t yielded = 0;  // by this attempt: one more than the number of its last item
  ProcessIndex sent_to = 0;   // 0: queued here
  ProcessIndex worker = 0;    // where it was sent last
  bool cancelled = false;
  ThinVector<Forward> forwards;  // consumers that its worker was asked to tell, in order
  ActorTarget* actor = nullptr;
  Shape* shape = nullptr;
  LeaseId lease = 0;

  // What becomes of its values, once it has ended well and one of them is lost.
  [[nodiscard]] store::Remaking remaking() const {
    if (options.retries == 0) return store::Remaking::kNoRetries;
    if (retries_left == 0) return store::Remaking::kRetriesUsed;
    // They were published for this call, and go with it.
    if (args->placement) return store::Remaking::kLargeArguments;
    return store::Remaking::kKept;
  }
};

}  // namespace beeline::runtime
