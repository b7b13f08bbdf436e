// The calls of a process that ended last: rings of fixed size, so that what a call adds is one line of memory.
//
// Not thread-safe: the process's state lock is held in every call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "beeline/store/payload.h"

namespace beeline::runtime {

struct Shape;

// The last `kSize` of what was added, newest first. Its memory is touched as far as it is used.
template <typename Row, std::size_t kSize>
class LastRows {
 public:
  Row& add() { return rows_[added_++ % kSize]; }
  [[nodiscard]] std::uint64_t added() const { return added_; }
  [[nodiscard]] std::uint64_t forgotten() const { return added_ > kSize ? added_ - kSize : 0; }
  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (auto at = added_; at > forgotten(); --at) visit(rows_[(at - 1) % kSize]);
  }

 private:
  std::unique_ptr<Row[]> rows_ = std::make_unique_for_overwrite<Row[]>(kSize);
  std::uint64_t added_ = 0;
};

// As its caller knows it. No initializers: nothing touches the memory before it is used.
struct EndedCall {
  std::uint64_t task;
  const std::string* name;  // interned
  const std::string* function;
  const Shape* shape;  // of a function: what it asked for; its caller keeps all shapes
  std::uint64_t actor;
  std::uint64_t parent_task;
  store::ProcessIndex parent_caller;
  store::ProcessIndex worker;
  std::uint32_t attempt;
};

struct FailedCall {
  EndedCall call;
  store::ErrorKind error = store::ErrorKind::kNone;
  std::string message;
  std::string pickled;  // the exception, as far as it is not too long
};

// As its executor knows it.
struct ExecutedCall {
  std::uint64_t task;
  store::ProcessIndex caller;
  std::uint32_t attempt;
  std::int64_t started_ns;  // of Clock
  std::int64_t took_ns;
};

// Calls that failed have a place of their own, so that a flood of others leaves them alone.
class CallHistory {
 public:
  static constexpr std::size_t kKept = 4096;
  static constexpr std::size_t kKeptFailures = 1024;
  static constexpr std::size_t kMaxMessage = 2048;
  static constexpr std::size_t kMaxPickled = 64u << 10;      // of one; longer ones are left out
  static constexpr std::size_t kMaxPickledBytes = 8u << 20;  // of all; the oldest are forgotten

  [[nodiscard]] EndedCall& finished() { return finished_.add(); }
  // `error`: a payload that is one.
  void failed(const EndedCall& call, const store::Payload& error);

  [[nodiscard]] std::uint64_t forgotten() const { return finished_.forgotten() + failures_forgotten_; }
  template <typename Visit>
  void for_each_finished(Visit&& visit) const {
    finished_.for_each(visit);
  }
  [[nodiscard]] const std::deque<FailedCall>& failures() const { return failures_; }

 private:
  LastRows<EndedCall, kKept> finished_;
  std::deque<FailedCall> failures_;
  std::size_t pickled_bytes_ = 0;
  std::uint64_t failures_forgotten_ = 0;
};

}  // namespace beeline::runtime
