#include "beeline/runtime/call_history.h"

namespace beeline::runtime {

void CallHistory::failed(const EndedCall& call, const store::Payload& error) {
  FailedCall row{call, error.failure->kind, error.failure->message.substr(0, kMaxMessage), {}};
  if (error.skeleton.size() <= kMaxPickled) row.pickled = error.skeleton;
  pickled_bytes_ += row.pickled.size();
  failures_.push_back(std::move(row));
  while (failures_.size() > kKeptFailures || pickled_bytes_ > kMaxPickledBytes) {
    pickled_bytes_ -= failures_.front().pickled.size();
    failures_.pop_front();
    ++failures_forgotten_;
  }
}

}  // namespace beeline::runtime
