#include "beeline/transport/tcp/requests.h"

#include <algorithm>

namespace beeline::transport::tcp {

std::optional<Request> Requests::next() {
  const std::lock_guard guard(mutex_);
  if (!again_.empty()) {
    Request request = std::move(again_.front());
    again_.pop_front();
    return request;
  }
  Request request;
  while (at_ < runs_.size() && request.runs.size() < kMaxRequestRuns && request.bytes < kMaxRequestBytes) {
    if (index_ == runs_[at_].count || runs_[at_].length == 0) {
      ++at_;
      index_ = 0;
    } else {
      add_part(request);
    }
  }
  if (request.runs.empty()) return std::nullopt;
  return request;
}

// As many whole runs of runs_[at_] as fit, or a part of one that is larger than a request.
void Requests::add_part(Request& request) {
  const Run& run = runs_[at_];
  const std::uint64_t room = kMaxRequestBytes - request.bytes;
  std::byte* local = run.local + index_ * run.local_stride + done_;
  RunRecord record{run.region->id.slot, run.region->id.generation, run.offset + index_ * run.stride + done_, 0, 1, 0};
  if (done_ > 0 || run.length > room) {
    record.length = std::min(run.length - done_, room);
    done_ += record.length;
    if (done_ == run.length) {
      done_ = 0;
      ++index_;
    }
  } else {
    record.length = run.length;
    record.count = std::min(run.count - index_, room / run.length);
    record.stride = run.stride;
    index_ += record.count;
  }
  if (record.count == 1 || run.local_stride == run.length) {
    request.local.push_back({local, record.length * record.count});
  } else {
    for (std::uint64_t i = 0; i < record.count; ++i) {
      request.local.push_back({local + i * run.local_stride, record.length});
    }
  }
  request.bytes += record.length * record.count;
  request.runs.push_back(record);
}

void Requests::give_back(Request request) {
  const std::lock_guard guard(mutex_);
  again_.push_back(std::move(request));
}

}  // namespace beeline::transport::tcp
