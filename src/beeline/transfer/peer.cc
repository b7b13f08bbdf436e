#include "beeline/transfer/peer.h"

#include <algorithm>
#include <climits>
#include <utility>

#include "beeline/os/futex.h"

namespace beeline::transfer {

using transport::Region;
using transport::Run;

namespace {

// Declared before leases: asks for cleaning once they have ended, whichever way the function is left.
struct Cleaner {
  Peer& peer;
  ~Cleaner() { peer.request_cleaning(); }
};

}  // namespace

void Peer::set_gone(const std::string& why) {
  const std::lock_guard guard(mutex_);
  if (is_gone()) return;
  why_gone_ = why;
  gone_.store(true, std::memory_order_release);
  answers_.fetch_add(1);
  os::futex_wake(answers_, INT_MAX);
}

void Peer::set_grant(memory::PublicationId id, std::uint64_t address, std::uint64_t length, Status verdict) {
  const std::lock_guard guard(mutex_);
  verdicts_[{id.slot, id.generation, address, length}] = std::move(verdict);
  answers_.fetch_add(1);
  os::futex_wake(answers_, INT_MAX);
}

Status Peer::require_grants(std::span<const Run> runs, const os::Wait& wait) {
  const Region* granted = nullptr;
  for (const Run& run : runs) {
    if (granted == run.region) continue;
    granted = run.region;
    BEELINE_RETURN_IF_ERROR(require_grant(*granted, wait));
  }
  return Status::ok();
}

// A grant is asked for once; a refusal is asked for again, for it may have been granted since.
Status Peer::require_grant(const Region& region, const os::Wait& wait) {
  const Asked asked{region.id.slot, region.id.generation, region.address, region.length};
  {
    const std::lock_guard guard(mutex_);
    const auto known = verdicts_.find(asked);
    if (known != verdicts_.end() && known->second) return Status::ok();
    if (known != verdicts_.end()) verdicts_.erase(known);
  }
  requests_.ask_grant(shared_from_this(), region);
  for (;;) {
    // Before the look: what changes after it makes the sleep end at once.
    const std::uint32_t ticket = answers_.load();
    {
      const std::lock_guard guard(mutex_);
      const auto known = verdicts_.find(asked);
      if (known != verdicts_.end()) return known->second;
    }
    BEELINE_RETURN_IF_ERROR(check_alive());
    BEELINE_RETURN_IF_ERROR(wait.check().with_context("while waiting for a grant of agent \"" + address_.name + "\""));
    os::futex_wait(answers_, ticket, wait.tick());
    if (wait.is_interrupted()) {
      return {Code::kInterrupted, "a signal ended the wait for a grant"};
    }
  }
}

Status Peer::check_alive() const {
  if (fork_count_ != os::fork_count()) {
    return {Code::kUnsupported, "this process was forked from the one that connected: open an agent of its own"};
  }
  return is_gone() ? gone() : Status::ok();
}

Status Peer::gone() const {
  const std::lock_guard guard(mutex_);
  return {Code::kPeerLost, "agent \"" + address_.name + "\" is gone: " + why_gone_};
}

// A peer that has ended makes transfers fail in many ways; they have one cause.
Status Peer::lost_or(Status status) const {
  if (status || !is_gone()) return status;
  return gone();
}

Result<std::vector<memory::Lease>> Peer::lease(std::span<const Run> runs) {
  std::vector<memory::Lease> leases;
  if (!facts().same_host()) return leases;
  const Region* leased = nullptr;
  for (const Run& run : runs) {
    if (leased == run.region) continue;
    leased = run.region;
    const bool again = std::ranges::any_of(leases, [&](const auto& lease) { return lease.id() == run.region->id; });
    if (again) continue;
    BEELINE_ASSIGN(auto lease, facts().arena->acquire(run.region->id, {}));
    leases.push_back(std::move(lease));
  }
  return leases;
}

// Holds keep blocks of the arena from being reused, not memory outside it: what was undone meanwhile may be something
// else by now.
Status Peer::check_held(std::span<const memory::Lease> leases) {
  for (const auto& lease : leases) {
    if (facts().arena->is_published(lease.id())) continue;
    return {Code::kStale, "the registration was undone while it was read"};
  }
  return Status::ok();
}

Status Peer::read(std::span<const Run> runs, const Requirement& requirement, const os::Wait& wait, ReadBy read_by) {
  BEELINE_RETURN_IF_ERROR(check_alive());
  BEELINE_RETURN_IF_ERROR(transport::check_bounds(runs));
  BEELINE_RETURN_IF_ERROR(wait.check());
  const Cleaner cleaner{*this};
  BEELINE_ASSIGN(auto leases, lease(runs));
  Status status = paths_.read(runs, requirement, wait, read_by);
  if (status) status = check_held(leases);
  return lost_or(std::move(status));
}

Status Peer::read_prepared(std::span<const Run> runs, Paths::Chosen& chosen, const Requirement& requirement,
                           const os::Wait& wait, ReadBy read_by) {
  BEELINE_RETURN_IF_ERROR(check_alive());
  BEELINE_RETURN_IF_ERROR(wait.check());
  return lost_or(paths_.read(runs, chosen, requirement, wait, read_by));
}

Status Peer::write(std::span<const Run> runs, const Requirement& requirement, const os::Wait& wait) {
  BEELINE_RETURN_IF_ERROR(check_alive());
  BEELINE_RETURN_IF_ERROR(transport::check_bounds(runs));
  BEELINE_RETURN_IF_ERROR(wait.check());
  const Cleaner cleaner{*this};
  BEELINE_ASSIGN(auto leases, lease(runs));
  // Over a network the owner's server looks itself.
  if (facts().same_host()) BEELINE_RETURN_IF_ERROR(require_grants(runs, wait));
  Status status = paths_.write(runs, requirement, wait);
  return lost_or(std::move(status));
}

// Where leases have ended, pages are to be dropped, and owners may wait to be told.
void Peer::request_cleaning() {
  if (!facts().same_host() || !facts().arena->needs_cleaning()) return;
  if (!cleaning_.exchange(true)) requests_.clean(shared_from_this());
}

Result<Mapped> Peer::map(const Region& region, std::uint64_t offset, std::uint64_t length) {
  const Cleaner cleaner{*this};
  BEELINE_RETURN_IF_ERROR(check_alive());
  const Run run{&region, offset, nullptr, length};
  BEELINE_RETURN_IF_ERROR(transport::check_bounds({&run, 1}));
  if (!facts().same_host() || !region.in_arena() || !region.device.is_host()) {
    const auto explanation = explain(region, length, {.path = "shm"});
    return Status(Code::kUnsupported, "map: " + explanation.candidates.front().reason + "; fetch() copies it");
  }
  const memory::Range range{region.arena_offset + offset, length};
  BEELINE_ASSIGN(auto lease, facts().arena->acquire(region.id, {&range, 1}));
  struct Held {
    std::shared_ptr<Peer> peer;
    memory::Lease lease;
    ~Held() {
      lease.done_reading();
      peer->request_cleaning();
    }
  };
  Mapped mapped;
  mapped.data = lease.at(range.offset);
  mapped.lease = std::shared_ptr<Held>(new Held{shared_from_this(), std::move(lease)});
  return mapped;
}

}  // namespace beeline::transfer
