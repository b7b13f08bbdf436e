// Cuts a transfer into requests, and keeps those that have to be made again.
#pragma once

#include <sys/uio.h>

#include <deque>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "beeline/transport/cutter.h"
#include "beeline/transport/tcp/stream.h"
#include "beeline/transport/transport.h"

namespace beeline::transport::tcp {

// At most kMaxRequestBytes of a transfer, and where they lie in local memory.
struct Request {
  std::vector<RunRecord> runs;
  std::vector<iovec> local;
  std::uint64_t bytes = 0;
  std::uint32_t id = 0;  // while it is under way
};

// Thread-safe: several streams draw from it.
class Requests {
 public:
  // Borrows the runs.
  explicit Requests(std::span<const Run> runs) : runs_(runs), cutter_(runs, {kMaxRequestRuns, kMaxRequestBytes}) {}

  // Nothing when all were given out; some may come back.
  std::optional<Request> next();
  void give_back(Request request);

 private:
  const std::span<const Run> runs_;
  std::mutex mutex_;
  Cutter<Run> cutter_;         // needs mutex_
  std::deque<Request> again_;  // likewise
};

}  // namespace beeline::transport::tcp
