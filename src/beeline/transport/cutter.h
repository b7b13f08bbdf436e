// Cuts a transfer into requests: as much as one of them holds, whole runs where they fit, parts of those that do not.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "beeline/transport/exposures.h"
#include "beeline/transport/transport.h"

namespace beeline::transport {

// What of a run is in one request: `count` pieces of `length` bytes.
struct Part {
  std::size_t of = 0;        // which of the runs
  std::uint64_t offset = 0;  // of the first piece, from where the run's counts
  std::byte* local = nullptr;
  std::uint64_t length = 0;
  std::uint64_t count = 1;
  std::uint64_t stride = 0;
  std::uint64_t local_stride = 0;

  [[nodiscard]] std::uint64_t bytes() const { return length * count; }
};

struct RequestLimits {
  std::size_t parts = 0;
  std::uint64_t bytes = 0;
  std::uint64_t pieces = std::numeric_limits<std::uint64_t>::max();
};

inline const Run& run_of(const Run& run) {
  return run;
}
inline const Run& run_of(const KeyedRun& keyed) {
  return keyed.run;
}

// Borrows the runs. One thread at a time.
template <typename Each>
class Cutter {
 public:
  Cutter(std::span<const Each> runs, const RequestLimits& limits) : runs_(runs), limits_(limits) {}

  // The next request's; false when all runs are done.
  bool next(std::vector<Part>& parts) {
    parts.clear();
    std::uint64_t bytes = 0;
    std::uint64_t pieces = 0;
    while (at_ < runs_.size() && parts.size() < limits_.parts && bytes < limits_.bytes && pieces < limits_.pieces) {
      const Run& run = run_of(runs_[at_]);
      if (index_ == run.count || run.length == 0) {
        ++at_;
        index_ = 0;
        continue;
      }
      parts.push_back(next_of(run, limits_.bytes - bytes, limits_.pieces - pieces));
      bytes += parts.back().bytes();
      pieces += parts.back().count;
    }
    return !parts.empty();
  }

 private:
  // As many whole pieces as there is room for, or a part of one that is larger.
  Part next_of(const Run& run, std::uint64_t room, std::uint64_t pieces) {
    Part part{at_, run.offset + index_ * run.stride + done_, run.local + index_ * run.local_stride + done_};
    if (done_ > 0 || run.length > room) {
      part.length = std::min(run.length - done_, room);
      done_ += part.length;
      if (done_ == run.length) {
        done_ = 0;
        ++index_;
      }
      return part;
    }
    part.length = run.length;
    part.count = std::min({run.count - index_, room / run.length, pieces});
    part.stride = run.stride;
    part.local_stride = run.local_stride;
    index_ += part.count;
    return part;
  }

  std::span<const Each> runs_;
  const RequestLimits limits_;
  std::size_t at_ = 0;       // run
  std::uint64_t index_ = 0;  // of its `count`
  std::uint64_t done_ = 0;   // bytes of that one
};

}  // namespace beeline::transport
