#include "beeline/transfer/batch.h"

#include <utility>

namespace beeline::transfer {
namespace {

using transport::Run;

// Neighbours that continue each other on both sides become one.
void join_neighbours(Portion& portion) {
  std::vector<Run>& runs = portion.runs;
  if (!portion.strided.empty()) return;
  const std::uint64_t from = portion.conversion ? portion.conversion->from().bytes() : 1;
  const std::uint64_t to = portion.conversion ? portion.conversion->to().bytes() : 1;
  std::size_t kept = 0;
  for (std::size_t i = 1; i < runs.size(); ++i) {
    Run& last = runs[kept];
    const Run& next = runs[i];
    const bool continues = last.count == 1 && next.count == 1 && next.offset == last.offset + last.length &&
                           next.local == last.local + last.length / from * to;
    if (continues) {
      last.length += next.length;
    } else {
      runs[++kept] = next;
    }
  }
  if (!runs.empty()) runs.resize(kept + 1);
}

}  // namespace

Result<std::unique_ptr<Batch>> Batch::prepare(std::shared_ptr<Peer> peer, std::span<const Copy> copies,
                                              const Requirement& requirement, const os::Wait& wait) {
  std::unique_ptr<Batch> batch(new Batch());
  batch->peer_ = std::move(peer);
  batch->requirement_ = requirement;
  learn_keys(*batch->peer_, copies);
  for (auto portions = portions_of(copies, Use::kFilled); Portion& portion : portions) {
    const auto& runs = portion.runs;
    BEELINE_RETURN_IF_ERROR(transport::check_bounds(runs));
    join_neighbours(portion);
    BEELINE_ASSIGN(auto leases, batch->peer_->lease(runs));
    std::move(leases.begin(), leases.end(), std::back_inserter(batch->leases_));
    BEELINE_ASSIGN(auto chosen, batch->peer_->paths().choose(runs, requirement, wait));
    batch->bytes_ += transport::bytes_of(runs);
    batch->parts_.push_back({nullptr, std::move(portion), std::move(chosen)});
  }
  // A region lives in its descriptor.
  for (Part& part : batch->parts_) {
    for (const Copy& copy : copies) {
      if (&copy.remote->home() == part.portion.region) part.descriptor = copy.remote->descriptor;
    }
  }
  return batch;
}

Batch::~Batch() {
  leases_.clear();
  if (peer_ != nullptr) peer_->request_cleaning();
}

Status Batch::run(const os::Wait& wait) {
  BEELINE_ASSIGN(const std::uint64_t writes, peer_->begin_reading(leases_, bytes_));
  // Leases are held of all regions, or, on another host, of none.
  std::vector<const transport::Region*> regions;
  for (const Part& part : parts_) {
    if (!peer_->facts().same_host() && parts_.size() > 1) regions.push_back(part.portion.region);
  }
  BEELINE_ASSIGN(const std::uint64_t before, peer_->writes_to(regions, wait));
  for (Part& part : parts_) {
    BEELINE_RETURN_IF_ERROR(
        peer_->read_prepared(part.portion.runs, part.chosen, requirement_, wait, part.portion.read_by()));
  }
  BEELINE_ASSIGN(const std::uint64_t after, peer_->writes_to(regions, wait));
  if (after != before) return transport::torn();
  return peer_->end_reading(leases_, writes, bytes_);
}

}  // namespace beeline::transfer
