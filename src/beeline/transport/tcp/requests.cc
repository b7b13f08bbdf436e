#include "beeline/transport/tcp/requests.h"

#include <utility>

namespace beeline::transport::tcp {

std::optional<Request> Requests::next() {
  std::vector<Part> parts;
  {
    const std::lock_guard guard(mutex_);
    if (!again_.empty()) {
      Request request = std::move(again_.front());
      again_.pop_front();
      return request;
    }
    if (!cutter_.next(parts)) return std::nullopt;
  }
  Request request;
  for (const Part& part : parts) {
    const memory::PublicationId id = runs_[part.of].region->id;
    request.runs.push_back({id.slot, id.generation, part.offset, part.length, part.count, part.stride});
    request.bytes += part.bytes();
    if (part.count == 1 || part.local_stride == part.length) {
      request.local.push_back({part.local, part.bytes()});
      continue;
    }
    for (std::uint64_t i = 0; i < part.count; ++i) {
      request.local.push_back({part.local + i * part.local_stride, part.length});
    }
  }
  return request;
}

void Requests::give_back(Request request) {
  const std::lock_guard guard(mutex_);
  again_.push_back(std::move(request));
}

}  // namespace beeline::transport::tcp
