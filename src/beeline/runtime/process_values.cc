// Large values: publishing them, opening what others published, and what becomes of them.
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "beeline/memory/copy.h"
#include "beeline/runtime/process.h"

namespace beeline::runtime {
namespace {

using store::Payload;

constexpr std::uint64_t kWarmReserve = 64u << 20;
// How often a value is looked for that is being moved out of its arena, or stays there after all.
constexpr int kMoveAttempts = 100;

thread_local bool cleaning_waits = false;

bool overlap(const std::vector<Extent>& extents, Extent range) {
  return std::any_of(extents.begin(), extents.end(), [&](Extent extent) {
    return extent.data() < range.data() + range.size() && range.data() < extent.data() + extent.size();
  });
}

struct LaidOut {
  std::unique_ptr<store::Placement> placement;
  std::uint64_t bytes_in_place = 0;
  std::uint64_t copied_bytes = 0;
  bool has_copies = false;
};

using Allocate = FunctionRef<Result<std::byte*>(std::size_t size)>;

// Publishes the buffers: where they are, if that is wanted and lies in the arena, else as copies in one block.
Result<LaidOut> lay_out(memory::Arena& arena, Allocate allocate, ProcessIndex holder,
                        std::span<const SourceBuffer> buffers, bool in_place) {
  constexpr std::size_t kAlign = 64;
  LaidOut laid;
  std::vector<memory::Range> ranges(buffers.size());
  std::vector<std::size_t> to_copy;
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    if (in_place && buffers[i].size > 0) {
      if (const auto offset = arena.offset_of(buffers[i].data, buffers[i].size)) {
        ranges[i] = {*offset, buffers[i].size};
        laid.bytes_in_place += buffers[i].size;
        continue;
      }
    }
    to_copy.push_back(i);
    laid.copied_bytes += (buffers[i].size + kAlign - 1) / kAlign * kAlign;
  }
  laid.has_copies = !to_copy.empty();
  std::byte* copies = nullptr;
  if (laid.has_copies) {
    const auto size = std::max<std::size_t>(laid.copied_bytes, 1);
    BEELINE_ASSIGN(copies, allocate(size));
    const auto base = arena.offset_of(copies, size);
    BEELINE_CHECK(base.has_value(), "a block that was just allocated lies in the arena");
    std::size_t at = 0;
    for (const auto i : to_copy) {
      if (buffers[i].size > 0) memory::copy_bytes(copies + at, buffers[i].data, buffers[i].size);
      ranges[i] = {*base + at, buffers[i].size};
      at += (buffers[i].size + kAlign - 1) / kAlign * kAlign;
    }
  }
  std::vector<memory::Range> published;
  for (const auto& range : ranges) {
    if (range.length > 0) published.push_back(range);
  }
  auto id = arena.publish(published);
  if (copies != nullptr) arena.release(copies);
  if (!id) return std::move(id).status().with_context("publish " + std::to_string(buffers.size()) + " buffers");
  laid.placement = std::make_unique<store::Placement>();
  laid.placement->holder = holder;
  laid.placement->publication = *id;
  for (std::size_t i = 0; i < buffers.size(); ++i) laid.placement->buffers.push_back({ranges[i], buffers[i].writable});
  return laid;
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
                                                           std::vector<Extent> referred, const Transport& transport) {
  std::shared_ptr<memory::Arena> arena;
  {
    const Locked locked(lock_);
    if (stopped_) return Status(Code::kShutdown, session_error_);
    arena = arena_;
  }
  const auto allocated = [&](std::size_t size) { return allocate(*arena, size); };
  auto laid = lay_out(*arena, allocated, self_, buffers, mode == Mode::kLive);
  if (!laid) return laid.status();
  laid->placement->direct = mode != Mode::kStored;

  const Locked locked(lock_);
  if (!arena_) return Status(Code::kShutdown, session_error_);
  add_publication(*laid->placement, std::move(referred), mode == Mode::kStored);
  if (transport.way != store::Way::kArena) mark_by_transport(*laid->placement, transport);
  progress_.expect_lull();
  if (laid->has_copies) {
    ++transfers_.copied_objects;
    transfers_.copied_bytes += laid->copied_bytes;
  }
  if (laid->bytes_in_place > 0) {
    ++transfers_.mapped_objects;
    transfers_.mapped_bytes += laid->bytes_in_place;
  }
  return std::move(laid->placement);
}

// The same value, with its bytes in this process's arena.
Result<store::PayloadPtr> Process::copy_here(memory::Arena& arena, transfer::Paths& from, const Payload& value) {
  BEELINE_ASSIGN(const auto opened, open_buffers(from, *value.placement, Deadline::never()));
  std::vector<SourceBuffer> sources;
  for (std::size_t i = 0; i < opened.buffers.size(); ++i) {
    sources.push_back({opened.buffers[i].data(), opened.buffers[i].size(), value.placement->buffers[i].writable});
  }
  const auto allocated = [&](std::size_t size) { return allocate(arena, size); };
  BEELINE_ASSIGN(auto laid, lay_out(arena, allocated, self_, sources, false));
  auto copy = std::make_shared<Payload>();
  copy->skeleton = value.skeleton;
  copy->skeleton_in_buffer = value.skeleton_in_buffer;
  copy->refs = value.refs;
  copy->placement = std::move(laid.placement);
  return store::PayloadPtr(std::move(copy));
}

void Process::add_publication(const store::Placement& placement, std::vector<Extent> referred, bool is_movable) {
  const auto id = placement.publication;
  Publication publication{.id = id, .referred = std::move(referred), .owner = self_};
  publication.is_direct = placement.direct;
  publication.buffers = static_cast<std::uint32_t>(placement.buffers.size());
  for (const auto& buffer : placement.buffers) publication.bytes += buffer.range.length;
  publication.since = Clock::now();
  if (is_movable) {
    // A copy: all of it lies in one block.
    std::uint64_t start = UINT64_MAX, end = 0;
    for (const auto& buffer : placement.buffers) {
      if (buffer.range.length == 0) continue;
      start = std::min(start, buffer.range.offset);
      end = std::max(end, buffer.range.offset + buffer.range.length);
    }
    if (start < end) {
      publication.block = {start, end - start};
      publication.number = next_movable_++;
      movable_[publication.number] = id.slot;
    }
  }
  publications_[id.slot] = std::move(publication);
}

// What is published is what the transport fetches, not what says how.
void Process::mark_by_transport(store::Placement& placement, const Transport& transport) {
  placement.way = transport.way;
  auto& publication = publications_.at(placement.publication.slot);
  publication.transport = transport.name;
  publication.is_direct = true;
  publication.buffers = static_cast<std::uint32_t>(publication.referred.size());
  publication.bytes = 0;
  for (const auto& extent : publication.referred) publication.bytes += extent.size();
  publication.since = Clock::now();
}

std::unique_ptr<store::Placement> Process::publish_inline(std::vector<Extent> referred, const Transport& transport) {
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
  publications_[id.slot] = {.id = id, .referred = std::move(referred), .owner = self_};
  if (transport.way != store::Way::kArena) mark_by_transport(*placement, transport);
  return placement;
}

Result<MappedPeers::PathsPtr> Process::paths_to(ProcessIndex process) {
  if (auto known = mapped_.find(process)) return known;
  if (process != self_) {
    BEELINE_ASSIGN(auto arena, peers_->arena_of(process));
    return mapped_.add(process, std::move(arena));
  }
  BEELINE_ASSIGN(const auto holder, arena_->add_holder(::getpid()));
  BEELINE_ASSIGN(auto data, os::duplicate(arena_->data_fd()));
  BEELINE_ASSIGN(auto table, os::duplicate(arena_->control_fd()));
  BEELINE_ASSIGN(auto arena, memory::PeerArena::attach(std::move(data), std::move(table), holder));
  return mapped_.add(process, std::move(arena));
}

std::string Process::name_for_people() const {
  if (is_driver_) return "driver";
  if (!assignment_.actor) return "worker " + std::to_string(self_);
  const auto& actor = *assignment_.actor;
  return "actor " + std::to_string(actor.actor) + (actor.name.empty() ? "" : " (" + actor.name + ")");
}

Result<Opened> Process::open(const store::Placement& placement, Deadline deadline) {
  MappedPeers::PathsPtr paths;
  {
    Locked locked(lock_);
    if (stopped_) return Status(Code::kShutdown, session_error_);
    const ProcessIndex holder = placement.holder;
    if (holder != self_ && !peers_->has_link(holder) && !peers_->is_gone(holder)) {
      peers_->connect(holder);
      const auto outcome =
          progress_.wait(locked, deadline, [&] { return peers_->has_link(holder) || peers_->is_gone(holder); });
      if (outcome == WaitOutcome::kTimedOut) {
        return Status(Code::kDeadlineExceeded,
                      "process " + std::to_string(holder) + ", which holds the value, did not answer");
      }
      if (outcome == WaitOutcome::kInterrupted) return Status(Code::kInterrupted, "interrupted by a signal");
    }
    auto found = paths_to(holder);
    if (!found && holder == self_) return found.status();
    if (!found) {
      return Status(Code::kPeerLost, "process " + std::to_string(holder) +
                                         ", which held the value, is gone: " + found.status().message());
    }
    paths = std::move(*found);
  }
  BEELINE_ASSIGN(auto opened, open_buffers(*paths, placement, deadline));
  const Locked locked(lock_);
  ++transfers_.fetched_objects;
  for (const auto& buffer : placement.buffers) transfers_.fetched_bytes += buffer.range.length;
  return opened;
}

// The bytes of each buffer: in the holder's arena, or in the file that it has moved them to.
Result<Opened> Process::open_buffers(transfer::Paths& from, const store::Placement& placement, Deadline deadline) {
  const auto& arena = from.facts().arena;
  std::vector<memory::Range> ranges;
  for (const auto& buffer : placement.buffers) {
    if (buffer.range.length > 0) ranges.push_back(buffer.range);
  }
  for (int attempt = 0;; ++attempt) {
    if (arena->is_moved_out(placement.publication)) {
      auto opened = open_moved_out(placement, deadline);
      if (opened.status().code() != Code::kNotFound) return opened;
      // Not moved after all, because somebody took a lease meanwhile; or freed.
      if (attempt < kMoveAttempts) continue;
      return Status(Code::kStale, opened.status().message());
    }
    auto lease = from.map(placement.publication, ranges);
    if (!lease && lease.status().code() == Code::kStale && attempt < kMoveAttempts) {
      // It was about to be moved when it was looked at: it lies there now, or stays after all.
      if (arena->is_moved_out(placement.publication) || arena->is_published(placement.publication)) continue;
    }
    if (!lease) return lease.status();
    auto* const held = new memory::Lease(std::move(*lease));
    Opened opened;
    opened.lease = std::shared_ptr<memory::Lease>(held, [this](memory::Lease* ended) {
      const bool awaited = ended->done_reading();
      delete ended;
      lease_ended(awaited);
    });
    for (const auto& buffer : placement.buffers) {
      std::byte* data = buffer.range.length > 0 ? held->at(buffer.range.offset) : nullptr;
      if (buffer.range.length > 0 && data == nullptr) return Status(Code::kCorrupt, "a buffer outside its publication");
      opened.buffers.emplace_back(data, buffer.range.length);
    }
    return opened;
  }
}

void Process::lease_ended(bool awaited) {
  if (awaited) leases_awaited_.store(true);
  leases_to_clean_.store(true);
  if (cleaning_waits) return;
  const Locked locked(lock_);
  request_cleaning();
}

bool Process::set_cleaning_waits(bool waits) {
  return std::exchange(cleaning_waits, waits);
}

void Process::request_cleaning() {
  if (!leases_to_clean_.load()) return;
  progress_.request_chores(leases_awaited_.exchange(false) ? Urgency::kNow : Urgency::kSoon);
}

void Process::clean_leases() {
  if (!leases_to_clean_.exchange(false)) return;
  std::vector<std::pair<ProcessIndex, MappedPeers::PathsPtr>> mapped;
  {
    const Locked locked(lock_);
    if (stopped_) return;
    mapped.assign(mapped_.all().begin(), mapped_.all().end());
  }
  for (const auto& [process, paths] : mapped) {
    const auto retired = paths->facts().arena->clean();
    if (retired.empty()) continue;
    const Locked locked(lock_);
    if (stopped_) return;
    if (process == self_) {
      arena_->sweep();
      settle_publications();
      continue;
    }
    for (const auto& id : retired) {
      peers_->send(process, Message::kLeaseReturned, view_of(id), {}, Urgency::kSoon);
    }
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
  movable_.erase(std::exchange(it->second.number, 0));
  if (it->second.is_moved_out) forget_spilled(self_, id);
  if (const auto [holder, old] = std::exchange(it->second.inherited, {}); holder != 0) forget_spilled(holder, old);
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
  transfers_.remade_calls = caller_.lineage().restarted;
  return transfers_;
}

// What this process holds and has moved, by name.
control::Counts Process::usage() {
  const auto objects = objects_.stats();
  const auto lineage = caller_.lineage();
  const auto arena = arena_ ? arena_->stats() : memory::Arena::Stats{};
  return {{"objects_owned", objects.own},
          {"objects_borrowed", objects.foreign},
          {"publications", publications_.size()},
          {"arena_used_bytes", arena.heap.used_bytes},
          {"arena_warm_bytes", arena.heap.warm_free_bytes},
          {"arena_quota_bytes", arena.heap.quota_bytes},
          {"mapped_objects", transfers_.mapped_objects},
          {"mapped_bytes", transfers_.mapped_bytes},
          {"copied_objects", transfers_.copied_objects},
          {"copied_bytes", transfers_.copied_bytes},
          {"inline_objects", transfers_.inline_objects},
          {"inline_bytes", transfers_.inline_bytes},
          {"fetched_objects", transfers_.fetched_objects},
          {"fetched_bytes", transfers_.fetched_bytes},
          {"rehomed_objects", transfers_.rehomed_objects},
          {"lost_objects", transfers_.lost_objects},
          {"remade_calls", lineage.restarted},
          {"lineage_records", lineage.records},
          {"lineage_bytes", lineage.bytes},
          {"lineage_evicted", lineage.evicted},
          {"spilled_objects", transfers_.spilled_objects},
          {"spilled_bytes", transfers_.spilled_bytes},
          {"restored_objects", transfers_.restored_objects},
          {"restored_bytes", transfers_.restored_bytes},
          {"spill_stalled_us", transfers_.spill_stalled_ns / 1000},
          {"late_borrows", objects.late_borrows}};
}

void Process::notify_program(std::string notice) {
  notices_.push_back(std::move(notice));
  has_notice_.store(true);
}

std::vector<std::string> Process::take_notices() {
  if (!has_notice_.load(std::memory_order_relaxed) || !has_notice_.exchange(false)) return {};
  const Locked locked(lock_);
  return std::exchange(notices_, {});
}

}  // namespace beeline::runtime
