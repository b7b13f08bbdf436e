// The last transfers of an agent one by one: when each began, how long it took, what came of it.
//
// A file beside that of the agent's counters, under the same rules (agent_file.h); docs/wire_format.md is the format's
// description. Its rings are bounded: new spans overwrite the oldest, which is counted. Short transfers have a ring of
// their own, so that a flood of them leaves the long ones alone.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "beeline/base/bytes.h"
#include "beeline/base/clock.h"
#include "beeline/base/status.h"
#include "beeline/os/fd.h"
#include "beeline/os/thread.h"
#include "beeline/transfer/operation.h"

namespace beeline::transfer {

// ----- the file: offsets and explicit widths, no pointers

inline constexpr std::uint64_t kSpansMagic = 0x316E6170734C4542;  // "BELspan1", little-endian
inline constexpr std::uint32_t kSpansVersion = 1;
inline constexpr std::size_t kSpanRings = 2;  // of short spans, of the others
inline constexpr std::uint32_t kSpansOfRing = 2048;
inline constexpr Nanos kLongSpan = std::chrono::microseconds(10);
inline constexpr std::size_t kSpanNameBytes = 24;

// One cache line. Who writes it has taken it by an odd sequence; all that follows is stored with release, so that a
// reader who finds something of it finds the odd sequence afterwards, or a later one.
struct SpanSlot {
  std::atomic<std::uint64_t> sequence;  // 2 * n + 1 while the n-th span of the ring is written, 2 * n + 2 from then on
  std::atomic<std::int64_t> begin_ns;   // of the monotonic clock
  std::atomic<std::uint64_t> nanoseconds;
  std::atomic<std::uint64_t> bytes;
  std::atomic<std::uint32_t> thread;
  std::atomic<std::uint16_t> row;  // of the counters, for peer and path; 0: none, or none of its own
  std::atomic<std::uint8_t> operation;
  std::atomic<std::uint8_t> outcome;                                        // Code
  std::atomic<std::uint64_t> name[kSpanNameBytes / sizeof(std::uint64_t)];  // of what was published; as text
};

struct alignas(64) SpanRing {
  std::atomic<std::uint64_t> next;     // how many were begun: the next one's number
  std::atomic<std::uint64_t> dropped;  // those whose slot somebody was still writing, a whole round later
};

struct SpansHeader {
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t slot_bytes;
  std::uint32_t slots_of_ring;
  std::int32_t pid;
  std::uint64_t long_ns;  // from here on spans are in the second ring
  char id[32];
  SpanRing rings[kSpanRings];
  std::uint8_t reserved[3904];
};

struct SpansFile {
  SpansHeader header;
  SpanSlot slots[kSpanRings][kSpansOfRing];
};

static_assert(std::is_standard_layout_v<SpansFile> && std::has_single_bit(kSpansOfRing));
static_assert(offsetof(SpanSlot, begin_ns) == 8 && offsetof(SpanSlot, nanoseconds) == 16);
static_assert(offsetof(SpanSlot, bytes) == 24 && offsetof(SpanSlot, thread) == 32 && offsetof(SpanSlot, row) == 36);
static_assert(offsetof(SpanSlot, operation) == 38 && offsetof(SpanSlot, outcome) == 39);
static_assert(offsetof(SpanSlot, name) == 40 && sizeof(SpanSlot) == 64);
static_assert(offsetof(SpansHeader, slot_bytes) == 12 && offsetof(SpansHeader, slots_of_ring) == 16);
static_assert(offsetof(SpansHeader, pid) == 20 && offsetof(SpansHeader, long_ns) == 24);
static_assert(offsetof(SpansHeader, id) == 32 && offsetof(SpansHeader, rings) == 64);
static_assert(sizeof(SpanRing) == 64 && sizeof(SpansHeader) == 4096 && offsetof(SpansFile, slots) == 4096);

// ----- its owner

// What is recorded. A value.
struct SpanRecord {
  Operation operation = Operation::kFetch;
  std::uint16_t row = 0;
  std::uint64_t bytes = 0;
  Clock::time_point begin;
  Nanos took{0};
  Code outcome = Code::kOk;
};

// Thread-safe, without locks and without waiting.
class Spans {
 public:
  // ENOENT when the folder is not there (any more).
  static Result<std::unique_ptr<Spans>> create(std::string path, std::string_view id);
  Spans(const Spans&) = delete;

  // `name`: of what was published; cut to what a slot has room for.
  void record(const SpanRecord& span, std::string_view name = {});
  // Removes the file; what is recorded later is seen by nobody. May be called again.
  void remove();

 private:
  Spans() = default;
  [[nodiscard]] SpansFile& file() const { return *reinterpret_cast<SpansFile*>(mapping_.data()); }
  static void write_name(SpanSlot& slot, std::string_view name);

  std::string path_;
  os::Fd fd_;  // holds the flock
  os::Mapping mapping_;
};

inline void Spans::record(const SpanRecord& span, std::string_view name) {
  const std::size_t at = span.took < kLongSpan ? 0 : 1;
  SpanRing& ring = file().header.rings[at];
  const std::uint64_t number = ring.next.fetch_add(1, std::memory_order_relaxed);  // which slot it is is all it says
  SpanSlot& slot = file().slots[at][number % kSpansOfRing];
  std::uint64_t before = slot.sequence.load(std::memory_order_relaxed);
  // An odd number: who writes there was overtaken by a whole round. A larger one: so was this thread.
  const bool is_free = before % 2 == 0 && before <= 2 * number;
  // Acquire: pairs with the release of who wrote the slot before.
  if (!is_free || !slot.sequence.compare_exchange_strong(before, 2 * number + 1, std::memory_order_acquire,
                                                         std::memory_order_relaxed)) {
    ring.dropped.fetch_add(1, std::memory_order_relaxed);  // a number on its own
    return;
  }
  // Release: see SpanSlot. Pairs with a reader's order of reads.
  slot.begin_ns.store(span.begin.time_since_epoch().count(), std::memory_order_release);
  slot.nanoseconds.store(static_cast<std::uint64_t>(std::max<Nanos::rep>(span.took.count(), 0)),
                         std::memory_order_release);
  slot.bytes.store(span.bytes, std::memory_order_release);
  slot.thread.store(os::thread_id(), std::memory_order_release);
  slot.row.store(span.row, std::memory_order_release);
  slot.operation.store(static_cast<std::uint8_t>(span.operation), std::memory_order_release);
  slot.outcome.store(static_cast<std::uint8_t>(span.outcome), std::memory_order_release);
  if (span.operation == Operation::kPublish) write_name(slot, name);
  slot.sequence.store(2 * number + 2, std::memory_order_release);
}

// ----- its readers

struct SpansReading {
  struct Span {
    std::int64_t begin_ns = 0;
    std::uint64_t nanoseconds = 0, bytes = 0;
    std::uint32_t thread = 0;
    std::uint16_t row = 0;
    Operation operation = Operation::kFetch;
    Code outcome = Code::kOk;
    std::string name;  // bytes from outside; empty but for what was published
  };
  std::string id;
  std::int32_t pid = 0;
  std::uint64_t recorded = 0;     // since the agent was opened; the next three are among them
  std::uint64_t overwritten = 0;  // by later ones
  std::uint64_t dropped = 0;      // see SpanRing
  std::uint64_t changing = 0;     // were being written while the file was read
  std::vector<Span> spans;        // by when they began
};

// Three copies of a file, read one after the other: what has the same sequence in the first and the last one is whole
// in that between them. kCorrupt for anything else than such a file.
Result<SpansReading> decode_spans(BytesView first, BytesView file, BytesView last);
// kNotFound when there is none; kInvalidArgument when it is no file of this user.
Result<SpansReading> read_spans(const std::string& path);

}  // namespace beeline::transfer
