// Large values: publishing them, opening what others published, and what becomes of them.
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "beeline/runtime/process.h"

namespace beeline::runtime {
namespace {

using store::ErrorKind;
using store::make_failure;
using store::Payload;

constexpr std::uint64_t kWarmReserve = 64u << 20;

bool overlap(const std::vector<Extent>& extents, Extent range) {
  return std::any_of(extents.begin(), extents.end(), [&](Extent extent) {
    return extent.data() < range.data() + range.size() && range.data() < extent.data() + extent.size();
  });
}

}  // namespace

bool Process::is_shareable(const void* data, std::size_t size) {
  const Locked locked(lock_);
  return arena_ && arena_->offset_of(data, size).has_value();
}

bool Process::is_lasting() {
  const Locked locked(lock_);
  return is_driver_ || assignment_.actor.has_value();
}

Result<std::unique_ptr<store::Placement>> Process::publish(std::span<const SourceBuffer> buffers, Mode mode,
                                                           std::vector<Extent> referred) {
  std::shared_ptr<memory::Arena> arena;
  {
    const Locked locked(lock_);
    if (stopped_) return Status(Code::kShutdown, session_error_);
    arena = arena_;
  }
  auto placement = std::make_unique<store::Placement>();
  placement->holder = self_;
  placement->direct = mode != Mode::kStored;
  std::vector<memory::Range> ranges(buffers.size());
  std::vector<std::size_t> to_copy;
  std::size_t copy_bytes = 0;
  std::uint64_t mapped_bytes = 0;
  constexpr std::size_t kAlign = 64;
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    if (mode == Mode::kLive && buffers[i].size > 0) {
      if (const auto offset = arena->offset_of(buffers[i].data, buffers[i].size)) {
        ranges[i] = {*offset, buffers[i].size};
        mapped_bytes += buffers[i].size;
        continue;
      }
    }
    to_copy.push_back(i);
    copy_bytes += (buffers[i].size + kAlign - 1) / kAlign * kAlign;
  }
  std::byte* copies = nullptr;
  if (!to_copy.empty()) {
    BEELINE_ASSIGN(copies, arena->allocate(std::max<std::size_t>(copy_bytes, 1)));
    const auto base = arena->offset_of(copies, std::max<std::size_t>(copy_bytes, 1));
    BEELINE_CHECK(base.has_value(), "a block that was just allocated lies in the arena");
    std::size_t at = 0;
    for (const auto i : to_copy) {
      if (buffers[i].size > 0) std::memcpy(copies + at, buffers[i].data, buffers[i].size);
      ranges[i] = {*base + at, buffers[i].size};
      at += (buffers[i].size + kAlign - 1) / kAlign * kAlign;
    }
  }
  std::vector<memory::Range> published;
  for (const auto& range : ranges) {
    if (range.length > 0) published.push_back(range);
  }
  auto id = arena->publish(published);
  if (copies != nullptr) arena->release(copies);
  if (!id) return std::move(id).status().with_context("publish " + std::to_string(buffers.size()) + " buffers");
  placement->publication = *id;
  for (std::size_t i = 0; i < buffers.size(); ++i) placement->buffers.push_back({ranges[i], buffers[i].writable});

  const Locked locked(lock_);
  if (!arena_) return Status(Code::kShutdown, session_error_);
  publications_[id->slot] = {*id, std::move(referred), self_};
  progress_.expect_lull();
  if (!to_copy.empty()) {
    ++transfers_.copied_objects;
    transfers_.copied_bytes += copy_bytes;
  }
  if (mapped_bytes > 0) {
    ++transfers_.mapped_objects;
    transfers_.mapped_bytes += mapped_bytes;
  }
  return placement;
}

std::unique_ptr<store::Placement> Process::publish_inline(std::vector<Extent> referred) {
  // Nobody leases it, so it takes no slot of the lease table but one beyond.
  constexpr std::uint64_t kSlots = (std::uint64_t{1} << 32) - memory::kMaxPublications;
  const Locked locked(lock_);
  if (stopped_) return nullptr;
  const auto number = inline_publications_++;
  const memory::PublicationId id{static_cast<std::uint32_t>(memory::kMaxPublications + number % kSlots),
                                 static_cast<std::uint32_t>(number / kSlots)};
  auto placement = std::make_unique<store::Placement>();
  placement->holder = self_;
  placement->publication = id;
  placement->direct = true;
  publications_[id.slot] = {id, std::move(referred), self_};
  return placement;
}

Result<Opened> Process::open(const store::Placement& placement, Deadline deadline) {
  std::shared_ptr<memory::PeerArena> arena;
  {
    Locked locked(lock_);
    if (stopped_) return Status(Code::kShutdown, session_error_);
    if (placement.holder == self_) {
      if (!own_view_) {
        BEELINE_ASSIGN(const auto holder, arena_->add_holder(::getpid()));
        BEELINE_ASSIGN(auto data, os::duplicate(arena_->data_fd()));
        BEELINE_ASSIGN(auto table, os::duplicate(arena_->control_fd()));
        BEELINE_ASSIGN(own_view_, memory::PeerArena::attach(std::move(data), std::move(table), holder));
      }
      arena = own_view_;
    } else {
      if (!peers_->has_link(placement.holder) && !peers_->is_gone(placement.holder)) {
        peers_->connect(placement.holder);
        const auto outcome = progress_.wait(
            locked, deadline, [&] { return peers_->has_link(placement.holder) || peers_->is_gone(placement.holder); });
        if (outcome == WaitOutcome::kTimedOut) {
          return Status(Code::kDeadlineExceeded,
                        "process " + std::to_string(placement.holder) + ", which holds the value, did not answer");
        }
        if (outcome == WaitOutcome::kInterrupted) return Status(Code::kInterrupted, "interrupted by a signal");
      }
      auto attached = peers_->arena_of(placement.holder);
      if (!attached) {
        return Status(Code::kPeerLost, "process " + std::to_string(placement.holder) +
                                           ", which held the value, is gone: " + attached.status().message());
      }
      arena = std::move(*attached);
    }
  }
  std::vector<memory::Range> ranges;
  std::uint64_t bytes = 0;
  for (const auto& buffer : placement.buffers) {
    if (buffer.range.length > 0) ranges.push_back(buffer.range);
    bytes += buffer.range.length;
  }
  BEELINE_ASSIGN(auto lease, arena->acquire(placement.publication, ranges));
  Opened opened;
  opened.lease = std::shared_ptr<memory::Lease>(new memory::Lease(std::move(lease)), [this](memory::Lease* ended) {
    delete ended;
    lease_ended();
  });
  for (const auto& buffer : placement.buffers) {
    std::byte* data = buffer.range.length > 0 ? opened.lease->at(buffer.range.offset) : nullptr;
    if (buffer.range.length > 0 && data == nullptr) return Status(Code::kCorrupt, "a buffer outside its publication");
    opened.buffers.emplace_back(data, buffer.range.length);
  }
  const Locked locked(lock_);
  ++transfers_.fetched_objects;
  transfers_.fetched_bytes += bytes;
  return opened;
}

void Process::lease_ended() {
  leases_to_clean_.store(true);
  const Locked locked(lock_);
  progress_.request_chores();
}

void Process::clean_leases() {
  if (!leases_to_clean_.exchange(false)) return;
  std::vector<std::pair<ProcessIndex, std::shared_ptr<memory::PeerArena>>> arenas;
  {
    const Locked locked(lock_);
    if (stopped_) return;
    arenas = peers_->arenas();
    if (own_view_) arenas.emplace_back(self_, own_view_);
  }
  for (const auto& [process, arena] : arenas) {
    const auto retired = arena->clean();
    if (retired.empty()) continue;
    const Locked locked(lock_);
    if (stopped_) return;
    if (process == self_) {
      arena_->sweep();
      settle_publications();
      continue;
    }
    for (const auto& id : retired) peers_->send(process, Message::kLeaseReturned, view_of(id));
  }
}

// Once nobody has taken a block for a whole lull; true when somebody did. A reserve stays warm for whoever comes next.
bool Process::trim_arena() {
  std::shared_ptr<memory::Arena> arena;
  {
    const Locked locked(lock_);
    arena = arena_;
  }
  if (!arena) return false;
  const auto allocations = arena->stats().heap.allocations;
  if (std::exchange(allocations_seen_, allocations) != allocations) return true;
  arena->trim(kWarmReserve);
  return false;
}

void Process::retire(memory::PublicationId id) {
  if (!arena_) return;
  arena_->retire(id);
  const auto it = publications_.find(id.slot);
  if (it == publications_.end() || it->second.id.generation != id.generation) return;
  if (on_retired) on_retired(id);
  retired_.push_back(id);
  settle_publications();
}

// Forgets publications that are over for the producer: retired, and read by nobody.
void Process::settle_publications() {
  if (!arena_) return;
  const auto settled = std::erase_if(retired_, [&](memory::PublicationId id) {
    if (arena_->holds(id).reading > 0) return false;
    const auto it = publications_.find(id.slot);
    if (it != publications_.end() && it->second.id == id) publications_.erase(it);
    return true;
  });
  if (settled > 0) progress_.notify();
}

// The owner is gone: nobody will ever free what was published for its objects.
void Process::retire_publications_of(ProcessIndex owner) {
  std::vector<memory::PublicationId> orphans;
  for (const auto& [slot, publication] : publications_) {
    if (publication.owner == owner) orphans.push_back(publication.id);
  }
  for (const auto& id : orphans) retire(id);
}

std::size_t Process::publications_of(const void* data, std::size_t size) {
  Locked locked(lock_);
  progress_.poke(locked);
  settle_publications();
  return static_cast<std::size_t>(std::count_if(publications_.begin(), publications_.end(), [&](const auto& item) {
    return overlap(item.second.referred, {static_cast<const std::byte*>(data), size});
  }));
}

std::optional<std::size_t> Process::readers_of(memory::PublicationId id) {
  Locked locked(lock_);
  progress_.poke(locked);
  const auto it = publications_.find(id.slot);
  if (it == publications_.end() || it->second.id.generation != id.generation) return std::nullopt;
  return arena_->holds(id).reading;
}

void Process::mark_mutated(memory::PublicationId id) {
  const Locked locked(lock_);
  if (publications_.contains(id.slot)) arena_->mark_mutated(id);
}

WaitOutcome Process::wait_unpublished(const void* data, std::size_t size, Deadline deadline) {
  Locked locked(lock_);
  return progress_.wait(locked, deadline, [&] {
    return std::none_of(publications_.begin(), publications_.end(), [&](const auto& item) {
      return overlap(item.second.referred, {static_cast<const std::byte*>(data), size});
    });
  });
}

void Process::discard(const std::vector<store::PayloadPtr>& values) {
  const Locked locked(lock_);
  for (const auto& value : values) {
    if (value->placement) free_placement(*value->placement);
  }
}

void Process::free_placement_now(const store::Placement& placement) {
  free_placement(placement);
}

TransferStats Process::transfer_stats() {
  const Locked locked(lock_);
  transfers_.publications = publications_.size();
  return transfers_;
}

// The worker that held them is gone; what it stored (not what it shared in place) lives on in our arena.
void Process::rehome(ProcessIndex holder, const std::string& reason) {
  std::vector<Entry*> affected;
  objects_.for_each([&](Entry& entry) {
    if (entry.id.owner == self_ && entry.payload && !entry.payload->is_inline() &&
        entry.payload->placement->holder == holder) {
      affected.push_back(&entry);
    }
  });
  for (Entry* entry : affected) {
    const auto& old = *entry->payload;
    const auto lost = [&](const std::string& why) {
      objects_.replace(*entry, make_failure(ErrorKind::kObjectLost,
                                            (entry->name != nullptr ? *entry->name : std::string("an object")) +
                                                ": its value lay in a process that is gone (" + reason + ")" + why));
    };
    if (old.placement->direct) {
      lost("; a direct tensor lives as long as its producer");
      continue;
    }
    auto arena = peers_->arena_of(holder);
    if (!arena) {
      lost("");
      continue;
    }
    std::vector<memory::Range> ranges;
    std::size_t total = 0;
    for (const auto& buffer : old.placement->buffers) {
      if (buffer.range.length > 0) ranges.push_back(buffer.range);
      total += (buffer.range.length + 63) / 64 * 64;
    }
    auto lease = (*arena)->acquire(old.placement->publication, ranges);
    auto block = arena_->allocate(std::max<std::size_t>(total, 1));
    if (!lease || !block) {
      lost("; it could not be copied: " + (lease ? block.status() : lease.status()).message());
      continue;
    }
    const auto base = arena_->offset_of(*block, std::max<std::size_t>(total, 1));
    auto fresh = std::make_shared<Payload>();
    fresh->skeleton = old.skeleton;
    fresh->skeleton_in_buffer = old.skeleton_in_buffer;
    fresh->refs = old.refs;
    fresh->placement = std::make_unique<store::Placement>();
    fresh->placement->holder = self_;
    std::size_t at = 0;
    std::vector<memory::Range> published;
    for (const auto& buffer : old.placement->buffers) {
      if (buffer.range.length > 0) {
        std::memcpy(*block + at, lease->at(buffer.range.offset), buffer.range.length);
        published.push_back({*base + at, buffer.range.length});
      }
      fresh->placement->buffers.push_back({{*base + at, buffer.range.length}, buffer.writable});
      at += (buffer.range.length + 63) / 64 * 64;
    }
    auto id = arena_->publish(published);
    arena_->release(*block);
    if (!id) {
      lost("; it could not be published again: " + id.status().message());
      continue;
    }
    fresh->placement->publication = *id;
    publications_[id->slot] = {*id, {}, self_};
    entry->payload = std::move(fresh);
    ++transfers_.rehomed_objects;
  }
}

// What a dead process held is memory of ours as long as we keep its arena.
void Process::release_lost_arenas() {
  if (lost_holders_.empty()) return;
  std::set<ProcessIndex> needed;
  objects_.for_each([&](Entry& entry) {
    if (entry.payload && !entry.payload->is_inline()) needed.insert(entry.payload->placement->holder);
  });
  std::erase_if(lost_holders_, [&](ProcessIndex holder) {
    if (needed.contains(holder)) return false;
    peers_->forget_arena(holder);
    return true;
  });
}

}  // namespace beeline::runtime
