#include "beeline/memory/peer_arena.h"

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "beeline/os/fork_count.h"
#include "beeline/os/memory_calls.h"
#include "beeline/os/pagemap.h"

namespace beeline::memory {
namespace {

// A range from this size on is worth being watched: each may split a mapping in the kernel.
constexpr std::size_t kWatchBytes = std::size_t{1} << 20;

Status stale(PublicationId id) {
  return Status(Code::kStale, "publication " + std::to_string(id.slot) + "." + std::to_string(id.generation) +
                                  " is there no more: its owner has undone it, or let go of what keeps it");
}

}  // namespace

Lease::Lease(Lease&& other) noexcept
    : peer_(std::move(other.peer_)), id_(other.id_), segments_(std::move(other.segments_)) {}

Lease& Lease::operator=(Lease&& other) noexcept {
  if (this != &other) {
    done_reading();
    peer_ = std::move(other.peer_);
    id_ = other.id_;
    segments_ = std::move(other.segments_);
  }
  return *this;
}

std::byte* Lease::at(std::uint64_t offset) const {
  const auto after =
      std::upper_bound(segments_.begin(), segments_.end(), offset,
                       [](std::uint64_t value, const Segment& segment) { return value < segment.start; });
  if (after == segments_.begin()) return nullptr;
  const Segment& segment = *std::prev(after);
  return offset < segment.end ? segment.data + (offset - segment.start) : nullptr;
}

bool Lease::done_reading() {
  if (peer_ == nullptr) return false;
  const bool awaited = peer_->end(*this);
  peer_.reset();
  segments_.clear();
  return awaited;
}

Result<std::shared_ptr<PeerArena>> PeerArena::attach(os::Fd data, os::Fd control, std::uint32_t holder) {
  if (holder >= kMaxHolders) {
    return Status(Code::kInvalidArgument, "holder index " + std::to_string(holder) + " is out of range");
  }
  BEELINE_ASSIGN(const std::uint64_t data_size, os::sealed_size(data, "arena"));
  BEELINE_ASSIGN(const std::uint64_t control_size, os::sealed_size(control, "arena's control file"));
  if (control_size < sizeof(ControlTable)) return Status(Code::kCorrupt, "the arena's control file is too short");

  std::shared_ptr<PeerArena> peer(new PeerArena());
  BEELINE_ASSIGN(peer->control_,
                 os::Mapping::map(control.get(), 0, control_size, os::Access::kReadWrite, os::Sharing::kShared));
  peer->table_ = reinterpret_cast<ControlTable*>(peer->control_.data());
  const ControlHeader& header = peer->table_->header;
  const std::uint64_t capacity = header.capacity_bytes;
  if (header.magic != kControlMagic || header.version != kControlVersion || header.holders != kMaxHolders ||
      header.publications != kMaxPublications) {
    return Status(Code::kCorrupt, "the arena's control file is of another version or is none");
  }
  if (capacity == 0 || capacity % os::kPageSize != 0 || capacity > data_size) {
    return Status(Code::kCorrupt,
                  "the arena claims " + std::to_string(capacity) + " bytes, its file has " + std::to_string(data_size));
  }
  BEELINE_ASSIGN(peer->main_, os::Mapping::map(data.get(), 0, capacity, os::Access::kReadWrite, os::Sharing::kPrivate));
  peer->data_ = std::move(data);
  peer->holder_ = holder;
  peer->fork_count_ = os::fork_count();
  return peer;
}

PeerArena::~PeerArena() {
  if (table_ == nullptr || forked()) return;
  for (const auto& [slot, hold] : holds_) {
    table_->slots[slot].reading.clear(holder_);
    table_->slots[slot].held.clear(holder_);
  }
  for (const Ended& ended : ended_) {
    for (const auto& segment : ended.segments) {
      if (segment.own_mapping) os::unmap(segment.data, segment.end - segment.start);
    }
  }
}

bool PeerArena::forked() const {
  return fork_count_ != os::fork_count();
}

Status PeerArena::check_ranges(std::span<const Range> ranges) const {
  for (const Range& range : ranges) {
    if (range.offset > main_.size() || range.length > main_.size() - range.offset) {
      return Status(Code::kInvalidArgument, "bytes " + std::to_string(range.offset) + " + " +
                                                std::to_string(range.length) + " are outside the arena of " +
                                                std::to_string(main_.size()) + " bytes");
    }
  }
  return Status::ok();
}

Result<Lease> PeerArena::acquire(PublicationId id, std::span<const Range> ranges) {
  if (forked()) return Status(Code::kUnsupported, "this process was forked from the one that attached the arena");
  if (id.slot >= kMaxPublications) {
    return Status(Code::kInvalidArgument, "publication slot " + std::to_string(id.slot) + " is out of range");
  }
  BEELINE_RETURN_IF_ERROR(check_ranges(ranges));
  if (table_->slots[id.slot].mutated.load() == id.generation) {
    return Status(Code::kMutated, "the producer (pid " + std::to_string(table_->header.producer_pid) +
                                      ") wrote the tensors while others read them; its log names them. Publish with "
                                      "isolation=\"snapshot\", or wait until they are free before writing");
  }

  std::vector<Lease::Segment> segments;
  segments.reserve(ranges.size());
  for (const Range& range : ranges) {
    if (range.length == 0) continue;
    segments.push_back({os::page_floor(range.offset), os::page_ceil(range.offset + range.length), nullptr, false});
  }
  const auto by_start = [](const Lease::Segment& a, const Lease::Segment& b) { return a.start < b.start; };
  if (!std::is_sorted(segments.begin(), segments.end(), by_start)) {
    std::sort(segments.begin(), segments.end(), by_start);
  }
  // Ranges that share pages become one segment; neighbours do not, so that only what overlaps another lease
  // gets a mapping of its own.
  std::size_t kept = 0;
  for (std::size_t i = 1; i < segments.size(); ++i) {
    if (segments[i].start < segments[kept].end) {
      segments[kept].end = std::max(segments[kept].end, segments[i].end);
    } else {
      segments[++kept] = segments[i];
    }
  }
  if (!segments.empty()) segments.resize(kept + 1);

  bool wait_for_clean = false;
  {
    const std::lock_guard guard(mutex_);
    BEELINE_RETURN_IF_ERROR(hold(id));
    // Pages that only wait for cleaning are better cleaned now than mapped and faulted in once more.
    wait_for_clean = std::any_of(segments.begin(), segments.end(), [this](const Lease::Segment& segment) {
      return to_clean_.overlaps(segment.start, segment.end);
    });
  }
  if (wait_for_clean) clean_all();

  Lease lease;
  lease.id_ = id;
  if (Status mapped = map_segments(segments); !mapped) {
    lease.peer_ = shared_from_this();  // ends as any lease does
    return mapped;
  }
  lease.peer_ = shared_from_this();
  lease.segments_ = std::move(segments);
  return lease;
}

Result<const std::byte*> PeerArena::view() {
  if (forked()) return Status(Code::kUnsupported, "this process was forked from the one that attached the arena");
  const std::lock_guard guard(mutex_);
  if (view_.data() == nullptr) {
    BEELINE_ASSIGN(view_, os::Mapping::map(data_.get(), 0, main_.size(), os::Access::kRead, os::Sharing::kShared));
  }
  return static_cast<const std::byte*>(view_.data());
}

Result<PeerArena::View> PeerArena::acquire_view(PublicationId id, Range range) {
  BEELINE_RETURN_IF_ERROR(check_ranges({&range, 1}));
  BEELINE_ASSIGN(auto hold, acquire(id, {}));
  BEELINE_ASSIGN(const std::byte* const all, view());
  return View{std::move(hold), all + range.offset};
}

bool PeerArena::is_published(PublicationId id) const {
  return id.slot < kMaxPublications &&
         table_->slots[id.slot].state.load() == PublicationSlot::pack(id.generation, SlotState::kPublished);
}

// Counts one more lease on the publication; the first one sets this process's bits.
Status PeerArena::hold(PublicationId id) {
  PublicationSlot& slot = table_->slots[id.slot];
  const std::uint64_t published = PublicationSlot::pack(id.generation, SlotState::kPublished);
  const auto found = holds_.find(id.slot);
  if (found != holds_.end()) {
    // Our bit keeps the slot from being reused: another generation can only be a stale or a made-up one.
    if (found->second.generation != id.generation) return stale(id);
    if (found->second.live == 0) slot.reading.set(holder_);
    if (slot.state.load() != published) {
      if (found->second.live == 0) slot.reading.clear(holder_);
      return stale(id);
    }
    ++found->second.live;
    return Status::ok();
  }
  if (slot.state.load() != published) return stale(id);
  // Protocol (a) of lease_table.h: either the producer sees the bit, or the state seen here is retired.
  slot.held.set(holder_);
  slot.reading.set(holder_);
  if (slot.state.load() != published) {
    slot.reading.clear(holder_);
    slot.held.clear(holder_);
    // The producer may have seen the bit: it must look again.
    returned_.push_back(id);
    return stale(id);
  }
  holds_.emplace(id.slot, Hold{id.generation, 1, 0});
  return Status::ok();
}

// Gives every segment its memory; on failure none keeps a mapping.
Status PeerArena::map_segments(std::vector<Lease::Segment>& segments) {
  const std::lock_guard guard(mutex_);
  for (Lease::Segment& segment : segments) {
    if (!taken_.overlaps(segment.start, segment.end)) {
      segment.data = main_.data() + segment.start;
      continue;
    }
    segment.own_mapping = true;
    segment.data = os::map_private(segment.end - segment.start, data_.get(), segment.start);
    if (segment.data != nullptr) continue;
    const int error = errno;
    for (const Lease::Segment& mapped : segments) {
      if (mapped.own_mapping && mapped.data != nullptr) os::unmap(mapped.data, mapped.end - mapped.start);
    }
    return Status::from_errno("map " + std::to_string(segment.end - segment.start) + " bytes of a peer's arena", error);
  }
  for (const Lease::Segment& segment : segments) {
    if (!segment.own_mapping) taken_.insert(segment.start, segment.end);
  }
  return Status::ok();
}

bool PeerArena::end(Lease& lease) {
  if (forked()) return false;
  const std::lock_guard guard(mutex_);
  PublicationSlot& slot = table_->slots[lease.id_.slot];
  Hold& hold = holds_.at(lease.id_.slot);
  if (--hold.live == 0) slot.reading.clear(holder_);
  // As protocol (b) of lease_table.h: either the producer sees the bit cleared, or we see that it retired.
  const bool awaited =
      hold.live == 0 && slot.state.load() == PublicationSlot::pack(lease.id_.generation, SlotState::kRetired);
  if (lease.segments_.empty()) {  // nothing was mapped: nothing is to be cleaned
    drop_if_unused(lease.id_);
    return awaited;
  }
  ++hold.ended;
  for (const Lease::Segment& segment : lease.segments_) {
    if (!segment.own_mapping) to_clean_.insert(segment.start, segment.end);
  }
  ended_.push_back({lease.id_, std::move(lease.segments_)});
  return awaited;
}

void PeerArena::drop_written(const Lease::Segment& segment) {
  const std::size_t size = segment.end - segment.start;
  if (segment.own_mapping) return os::unmap(segment.data, size);
  const bool watched = watched_.contains(segment.start, segment.end);
  const auto dropped =
      watched ? os::Dropped{os::drop_watched_pages(segment.data, size)} : os::drop_written_pages(segment.data, size);
  if (dropped.error != 0) {
    // Locked memory (mlockall) cannot be dropped: the range is mapped anew.
    os::map_private_over(segment.data, size, data_.get(), segment.start);
    watched_.erase(segment.start, segment.end);
  } else if (!watched) {
    // Where little was read, looking at that costs little, and mapping the rest could cost memory.
    if (size < kWatchBytes || dropped.mapped_bytes < size / 2) return;
    if (os::watch_writes(segment.data, size)) watched_.insert(segment.start, segment.end);
  }
}

void PeerArena::clean_all() {
  const std::lock_guard cleaning(clean_mutex_);
  std::vector<Ended> batch;
  {
    const std::lock_guard guard(mutex_);
    batch.swap(ended_);
  }
  for (const Ended& ended : batch) {
    for (const Lease::Segment& segment : ended.segments) drop_written(segment);
  }
  const std::lock_guard guard(mutex_);
  for (const Ended& ended : batch) {
    for (const Lease::Segment& segment : ended.segments) {
      if (segment.own_mapping) continue;
      taken_.erase(segment.start, segment.end);
      to_clean_.erase(segment.start, segment.end);
    }
    Hold& hold = holds_.at(ended.id.slot);
    --hold.ended;
    drop_if_unused(ended.id);
  }
}

void PeerArena::drop_if_unused(PublicationId id) {
  const auto found = holds_.find(id.slot);
  if (found->second.live > 0 || found->second.ended > 0) return;
  holds_.erase(found);
  // Protocol (b) of lease_table.h: either the producer sees the bit cleared, or we see that it retired.
  PublicationSlot& slot = table_->slots[id.slot];
  slot.held.clear(holder_);
  if (slot.state.load() == PublicationSlot::pack(id.generation, SlotState::kRetired)) returned_.push_back(id);
}

std::vector<PublicationId> PeerArena::clean() {
  if (forked()) return {};
  clean_all();
  const std::lock_guard guard(mutex_);
  return std::exchange(returned_, {});
}

bool PeerArena::needs_cleaning() const {
  if (forked()) return false;
  const std::lock_guard guard(mutex_);
  return !ended_.empty() || !returned_.empty();
}

std::size_t PeerArena::live_leases() const {
  const std::lock_guard guard(mutex_);
  std::size_t total = 0;
  for (const auto& [slot, hold] : holds_) total += hold.live;
  return total;
}

}  // namespace beeline::memory
