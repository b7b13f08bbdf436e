// What one agent has moved, in a file that any process of its user can read while the agent runs.
//
// docs/wire_format.md is the format's description, agent_file.h tells the rules of such files.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "beeline/base/bytes.h"
#include "beeline/base/clock.h"
#include "beeline/base/status.h"
#include "beeline/os/fd.h"
#include "beeline/transfer/operation.h"
#include "beeline/transfer/spans.h"

namespace beeline::transfer {

// Sizes that are alike: below 4 KiB, 64 KiB, 1 MiB, 16 MiB, and the rest.
inline constexpr std::size_t kSizeClasses = 5;
constexpr std::size_t size_class(std::uint64_t bytes) {
  std::size_t at = 0;
  for (std::uint64_t bound = 4096; at < kSizeClasses - 1 && bytes >= bound; bound *= 16) ++at;
  return at;
}

// Bucket i counts what took 2^i ns and less than 2^(i+1); the last one also what took longer.
inline constexpr std::size_t kLatencyBuckets = 40;
constexpr std::size_t latency_bucket(std::uint64_t nanoseconds) {
  return std::min<std::size_t>(static_cast<std::size_t>(std::bit_width(nanoseconds | 1)) - 1, kLatencyBuckets - 1);
}

// ----- the file: offsets and explicit widths, no pointers. All atomics are relaxed: numbers on their own; but for
// AgentNumbers::rows.

inline constexpr std::uint64_t kCountersMagic = 0x3172746E634C4542;  // "BELcntr1", little-endian
inline constexpr std::uint32_t kCountersVersion = 1;
inline constexpr std::uint32_t kMaxCounterRows = 1024;
inline constexpr std::size_t kMaxCountedAddress = 4096;

// One peer by one path, with one operation and one class of sizes. The first three parts are written before the row is
// counted in AgentNumbers::rows, and never again. Texts end at their first 0, or fill their field.
struct CounterRow {
  char peer_id[32];
  char peer_name[64];
  char path[16];
  std::uint8_t operation;
  std::uint8_t size_class;
  std::uint8_t reserved[14];
  // How many transfers there were is the sum of `latency`: no two numbers can disagree.
  std::atomic<std::uint64_t> bytes;
  std::atomic<std::uint64_t> nanoseconds;
  std::atomic<std::uint64_t> failures;   // attempts that moved nothing of use
  std::atomic<std::uint64_t> failovers;  // those of them after which another path was looked for
  std::uint64_t reserved_counters[4];
  std::atomic<std::uint64_t> latency[kLatencyBuckets];
};

struct AgentNumbers {
  std::atomic<std::uint32_t> rows;       // release after a row's key; a reader looks at it before the rows
  std::atomic<std::uint32_t> rows_lost;  // keys that found no room: what they count is in row 0
  std::atomic<std::uint64_t> refused;    // callers that were turned away
  std::atomic<std::uint64_t> registrations, visitors, peers;  // now
  std::atomic<std::uint64_t> unreached;                       // times that no connection to a peer was made
  std::uint64_t reserved[2];
};

struct CountersHeader {
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t row_bytes;
  std::uint32_t max_rows;
  std::int32_t pid;
  std::int64_t started_ns;  // of the agent, since 1970
  char id[32];
  char name[64];
  std::uint32_t address_bytes;
  std::uint8_t reserved[60];
  AgentNumbers numbers;
  std::uint8_t reserved_numbers[3840];
  char address[kMaxCountedAddress];
};

// As far as there are rows; the file is longer by a part of the rest. Row 0 counts what found no row of its own.
struct CountersFile {
  CountersHeader header;
  CounterRow rows[kMaxCounterRows];
};

static_assert(std::atomic<std::uint64_t>::is_always_lock_free && std::atomic<std::uint32_t>::is_always_lock_free);
static_assert(std::is_standard_layout_v<CountersFile>);
static_assert(offsetof(CounterRow, peer_name) == 32 && offsetof(CounterRow, path) == 96);
static_assert(offsetof(CounterRow, operation) == 112 && offsetof(CounterRow, size_class) == 113);
static_assert(offsetof(CounterRow, bytes) == 128 && offsetof(CounterRow, nanoseconds) == 136);
static_assert(offsetof(CounterRow, failures) == 144 && offsetof(CounterRow, failovers) == 152);
static_assert(offsetof(CounterRow, latency) == 192 && sizeof(CounterRow) == 512);
static_assert(offsetof(AgentNumbers, rows_lost) == 4 && offsetof(AgentNumbers, refused) == 8);
static_assert(offsetof(AgentNumbers, registrations) == 16 && offsetof(AgentNumbers, visitors) == 24);
static_assert(offsetof(AgentNumbers, peers) == 32 && offsetof(AgentNumbers, unreached) == 40);
static_assert(sizeof(AgentNumbers) == 64);
static_assert(offsetof(CountersHeader, row_bytes) == 12 && offsetof(CountersHeader, max_rows) == 16);
static_assert(offsetof(CountersHeader, pid) == 20 && offsetof(CountersHeader, started_ns) == 24);
static_assert(offsetof(CountersHeader, id) == 32 && offsetof(CountersHeader, name) == 64);
static_assert(offsetof(CountersHeader, address_bytes) == 128 && offsetof(CountersHeader, numbers) == 192);
static_assert(offsetof(CountersHeader, address) == 4096 && sizeof(CountersHeader) == 8192);
static_assert(offsetof(CountersFile, rows) == 8192);

// ----- its owner

// One agent's numbers, and its spans beside them. Thread-safe: numbers are added to without a lock; a row is found
// once, under one.
class Counters {
 public:
  // In a file of the folder, under a name of its own until appear(), and one for spans. ENOENT when the folder is not
  // there (any more).
  static Result<std::shared_ptr<Counters>> create(const std::string& folder, std::string_view id,
                                                  std::string_view name);
  // Without files: nobody else sees them, and there are no spans.
  static Result<std::shared_ptr<Counters>> create_unseen(std::string_view id, std::string_view name);
  Counters(const Counters&) = delete;

  // From here on readers find it, with that address in it. Nothing without a file.
  Status appear(std::string_view address);
  // Removes the files; peers that outlive their agent go on counting where nobody looks. May be called again.
  void remove();
  [[nodiscard]] const std::string& path() const { return path_; }  // empty: there is no file

  [[nodiscard]] AgentNumbers& numbers() { return file().header.numbers; }
  // The row of that key, made if need be. Row 0 when there is no room in the file, or none for the file.
  CounterRow& row(std::string_view peer_id, std::string_view peer_name, std::string_view path, Operation operation,
                  std::size_t size_class);
  // Its place in the file.
  [[nodiscard]] std::uint16_t index_of(const CounterRow& row) const {
    return static_cast<std::uint16_t>(&row - file().rows);
  }
  [[nodiscard]] Spans* spans() const { return spans_.get(); }  // null: there are none
  // A version of what is published under a name, until its subscribers were told.
  void published(std::string_view name, std::uint64_t bytes, Clock::time_point begin);

 private:
  Counters() = default;
  static Result<std::shared_ptr<Counters>> start(os::Fd fd, std::string path, std::string_view id,
                                                 std::string_view name);
  [[nodiscard]] CountersFile& file() const { return *reinterpret_cast<CountersFile*>(mapping_.data()); }
  bool make_room(std::uint32_t rows);

  std::string path_;
  os::Fd fd_;  // holds the flock
  os::Mapping mapping_;
  std::unique_ptr<Spans> spans_;
  std::mutex mutex_;
  std::uint32_t room_ = 0;  // needs mutex_: rows that the file has memory for
  using Key = std::tuple<std::string, std::string, Operation, std::size_t>;
  std::map<Key, CounterRow*> rows_;  // needs mutex_
};

// The rows of one peer, found once each, and what is said of it in spans. Thread-safe, without locks but for the first
// of each kind.
class PeerCounters {
 public:
  // `paths`: their names; below they are told by their place in the list.
  PeerCounters(std::shared_ptr<Counters> home, std::string id, std::string name, std::vector<std::string> paths);

  void moved(std::size_t path, Operation operation, std::uint64_t bytes, Clock::time_point begin, Nanos took) {
    const auto nanoseconds = static_cast<std::uint64_t>(std::max<Nanos::rep>(took.count(), 0));
    CounterRow& row = row_of(path, operation, size_class(bytes));
    row.bytes.fetch_add(bytes, std::memory_order_relaxed);
    row.nanoseconds.fetch_add(nanoseconds, std::memory_order_relaxed);
    row.latency[latency_bucket(nanoseconds)].fetch_add(1, std::memory_order_relaxed);
    record(row, operation, bytes, begin, took, Code::kOk);
  }
  void failed(std::size_t path, Operation operation, std::uint64_t bytes, Clock::time_point begin, Code why,
              bool is_failover) {
    CounterRow& row = row_of(path, operation, size_class(bytes));
    row.failures.fetch_add(1, std::memory_order_relaxed);
    if (is_failover) row.failovers.fetch_add(1, std::memory_order_relaxed);
    record(row, operation, bytes, begin, Clock::now() - begin, why);
  }

 private:
  void record(const CounterRow& row, Operation operation, std::uint64_t bytes, Clock::time_point begin, Nanos took,
              Code outcome) {
    if (spans_ != nullptr) spans_->record({operation, home_->index_of(row), bytes, begin, took, outcome});
  }
  CounterRow& row_of(std::size_t path, Operation operation, std::size_t size) {
    // Acquire: pairs with the release in find().
    CounterRow* const known = place(path, operation, size).load(std::memory_order_acquire);
    return known != nullptr ? *known : find(path, operation, size);
  }
  std::atomic<CounterRow*>& place(std::size_t path, Operation operation, std::size_t size) {
    return rows_[(path * kCountedOperations + static_cast<std::size_t>(operation)) * kSizeClasses + size];
  }
  CounterRow& find(std::size_t path, Operation operation, std::size_t size);

  const std::shared_ptr<Counters> home_;
  Spans* const spans_;  // home's
  const std::string id_, name_;
  const std::vector<std::string> paths_;
  std::vector<std::atomic<CounterRow*>> rows_;
};

// ----- its readers

// A file of counters as it was read. Texts are bytes from outside: not necessarily UTF-8.
struct CountersReading {
  struct Row {
    std::string peer_id, peer_name, path;  // empty in `rest`
    Operation operation = Operation::kFetch;
    std::size_t size_class = 0;
    std::uint64_t bytes = 0, nanoseconds = 0, failures = 0, failovers = 0;
    std::array<std::uint64_t, kLatencyBuckets> latency{};
  };
  std::string id, name, address;
  std::int32_t pid = 0;
  std::int64_t started_ns = 0;
  bool alive = false;  // somebody holds it, see agent_file.h
  std::uint32_t rows_lost = 0;
  std::uint64_t refused = 0, registrations = 0, visitors = 0, peers = 0, unreached = 0;
  Row rest;
  std::vector<Row> rows;
};

// The content of a file; `alive` stays false. kCorrupt for anything else.
Result<CountersReading> decode_counters(BytesView file);
// kNotFound when there is none; kInvalidArgument when it is no file of this user.
Result<CountersReading> read_counters(const std::string& path);

}  // namespace beeline::transfer
