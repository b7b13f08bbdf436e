#include "beeline/transfer/regions.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <utility>

namespace beeline::transfer {
namespace {

using memory::PublicationId;
using memory::Range;
using transport::Region;

// By offset, with those that touch as one.
std::vector<Range> merged(std::vector<Range> extents) {
  std::sort(extents.begin(), extents.end(), [](const Range& a, const Range& b) { return a.offset < b.offset; });
  std::size_t kept = 0;
  for (std::size_t i = 1; i < extents.size(); ++i) {
    Range& last = extents[kept];
    if (extents[i].offset <= last.offset + last.length) {
      last.length = std::max(last.length, extents[i].offset + extents[i].length - last.offset);
    } else {
      extents[++kept] = extents[i];
    }
  }
  if (!extents.empty()) extents.resize(kept + 1);
  return extents;
}

Status stale(PublicationId id) {
  return {Code::kStale, "publication " + std::to_string(id.slot) + "." + std::to_string(id.generation) +
                            " is none, or its owner has undone it"};
}

}  // namespace

Registration::~Registration() {
  if (home_ != nullptr) home_->undo(*this);
}

void Registration::begin_write() const {
  for (const Region& region : regions_) home_->arena_->begin_write(region.id);
}

void Registration::end_write() const {
  for (const Region& region : regions_) home_->arena_->end_write(region.id);
}

std::shared_ptr<Regions> Regions::make(std::shared_ptr<memory::Arena> arena,
                                       std::shared_ptr<const transport::Transports> transports) {
  return std::shared_ptr<Regions>(new Regions(std::move(arena), std::move(transports)));
}

Result<std::shared_ptr<Registration>> Regions::add(std::span<const Piece> pieces, std::shared_ptr<void> keep_alive,
                                                   memory::Arena::Content content) {
  std::vector<std::size_t> inside;
  std::vector<std::vector<std::size_t>> outside;  // by device
  std::vector<std::uint64_t> offsets(pieces.size());
  const auto add_outside = [&](std::size_t i) {
    const auto same = std::ranges::find_if(
        outside, [&](const auto& group) { return pieces[group.front()].device == pieces[i].device; });
    same != outside.end() ? same->push_back(i) : outside.push_back({i});
  };
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (pieces[i].size == 0) continue;
    const auto offset = pieces[i].device.is_host() ? arena_->offset_of(pieces[i].data, pieces[i].size) : std::nullopt;
    if (offset) inside.push_back(i);
    if (!offset) add_outside(i);
    offsets[i] = offset.value_or(reinterpret_cast<std::uintptr_t>(pieces[i].data));
  }
  // Pieces without bytes lie anywhere.
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (pieces[i].size > 0) continue;
    if (!inside.empty()) inside.push_back(i);
    if (inside.empty()) add_outside(i);
  }
  const std::uint64_t hash = XXH3_64bits(pieces.data(), pieces.size() * sizeof(Piece));
  const bool is_shared = outside.empty() && content == memory::Arena::Content::kAsWritten;
  if (is_shared) {
    if (auto found = find(hash, pieces)) return found;
  }
  std::shared_ptr<Registration> registration(new Registration());
  registration->pieces_.assign(pieces.begin(), pieces.end());
  registration->positions_.resize(pieces.size());
  registration->home_ = shared_from_this();
  if (!inside.empty()) BEELINE_RETURN_IF_ERROR(add_region(*registration, inside, offsets, content));
  if (!outside.empty()) registration->keep_alive_ = std::move(keep_alive);
  for (const auto& group : outside) BEELINE_RETURN_IF_ERROR(add_region(*registration, group, {}, content));
  const std::lock_guard guard(mutex_);
  for (const Region& region : registration->regions()) known_[region.id.slot].registration = registration;
  if (is_shared) cache_.emplace(hash, registration);
  return registration;
}

std::shared_ptr<Registration> Regions::find(std::uint64_t hash, std::span<const Piece> pieces) {
  // May be the last to let go of some: not under the lock, which undoing takes.
  std::vector<std::shared_ptr<Registration>> candidates;
  const std::lock_guard guard(mutex_);
  const auto [begin, end] = cache_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    const auto& candidate = candidates.emplace_back(it->second.lock());
    if (candidate == nullptr || !std::ranges::equal(candidate->pieces_, pieces)) continue;
    ++reused_;
    return candidate;
  }
  return nullptr;
}

Status Regions::add_region(Registration& registration, std::span<const std::size_t> indices,
                           std::span<const std::uint64_t> arena_offsets, memory::Arena::Content content) {
  const auto& pieces = registration.pieces_;
  std::byte* first = nullptr;
  std::byte* last = nullptr;
  for (const std::size_t i : indices) {
    if (pieces[i].size == 0) continue;
    if (first == nullptr || pieces[i].data < first) first = pieces[i].data;
    last = std::max(last, pieces[i].data + pieces[i].size);
  }
  Region region;
  region.device = pieces[indices.front()].device;
  region.address = reinterpret_cast<std::uintptr_t>(first);
  region.length = static_cast<std::uint64_t>(last - first);
  std::vector<Range> extents;
  std::vector<Range> published;
  for (const std::size_t i : indices) {
    // A piece without bytes lies anywhere.
    const std::uint64_t offset = pieces[i].size > 0 ? static_cast<std::uint64_t>(pieces[i].data - first) : 0;
    registration.positions_[i] = {static_cast<std::uint32_t>(registration.regions_.size()), offset};
    if (pieces[i].size == 0) continue;
    extents.push_back({offset, pieces[i].size});
    if (!arena_offsets.empty()) published.push_back({arena_offsets[i], pieces[i].size});
    if (!arena_offsets.empty() && offset == 0) region.arena_offset = arena_offsets[i];
  }
  BEELINE_ASSIGN(region.id, arena_->publish(published, content));
  registration.regions_.push_back(region);
  registration.extents_.push_back(merged(std::move(extents)));
  const std::lock_guard guard(mutex_);
  known_[region.id.slot] = {region.id.generation, {}, first, region.length, registration.extents_.back(),
                            region.device,        {}, false};
  count();
  return Status::ok();
}

void Regions::count_in(transport::SharedCount registrations) {
  registrations_ = std::move(registrations);
}

void Regions::count() {
  // Relaxed: a number on its own.
  if (registrations_ != nullptr) registrations_->store(known_.size(), std::memory_order_relaxed);
}

void Regions::undo(Registration& registration) {
  if (fork_count_ != os::fork_count()) return;  // the parent's; another thread may have held the lock at the fork
  Waiting waiting;
  std::vector<PublicationId> exported;
  {
    const std::lock_guard guard(mutex_);
    for (const Region& region : registration.regions_) {
      const auto found = known_.find(region.id.slot);
      if (found != known_.end() && found->second.generation == region.id.generation) {
        if (found->second.is_exported) exported.push_back(region.id);
        known_.erase(found);
      }
      waiting.ids.push_back(region.id);
    }
    std::erase_if(cache_, [](const auto& entry) { return entry.second.expired(); });
    count();
  }
  // Before the memory can be anything else.
  for (const PublicationId id : exported) {
    for (const auto& transport : *transports_) {
      if (transport::Exporter* const exporter = transport->exporter()) exporter->withdraw(id);
    }
  }
  for (const PublicationId id : waiting.ids) arena_->retire(id);
  waiting.keep_alive = std::move(registration.keep_alive_);
  {
    const std::lock_guard guard(mutex_);
    waiting_.push_back(std::move(waiting));
  }
  sweep();
}

std::size_t Regions::sweep() {
  arena_->sweep();
  std::vector<Waiting> done;  // ends without the lock
  const std::lock_guard guard(mutex_);
  const auto is_held = [this](const Waiting& waiting) {
    return std::ranges::any_of(waiting.ids, [this](PublicationId id) { return arena_->holds(id).holding > 0; });
  };
  const auto ended = std::partition(waiting_.begin(), waiting_.end(), is_held);
  done.assign(std::make_move_iterator(ended), std::make_move_iterator(waiting_.end()));
  waiting_.erase(ended, waiting_.end());
  return waiting_.size();
}

const Regions::Known* Regions::look_up(PublicationId id) const {
  const auto found = known_.find(id.slot);
  const bool is_it = found != known_.end() && found->second.generation == id.generation;
  return is_it && !found->second.registration.expired() ? &found->second : nullptr;
}

Status Regions::check_writer(const Known& known, std::string_view agent_id) {
  if (known.writers.contains(agent_id)) return Status::ok();
  return {Code::kInvalidArgument, "the region was not granted to this agent: its owner calls grant(ref, to=...) first"};
}

Status Regions::grant(PublicationId id, const std::string& agent_id) {
  const std::lock_guard guard(mutex_);
  if (look_up(id) == nullptr) return stale(id);
  known_.at(id.slot).writers.insert(agent_id);
  return Status::ok();
}

Status Regions::check_grant(PublicationId id, std::uint64_t address, std::uint64_t length,
                            std::string_view agent_id) const {
  const std::lock_guard guard(mutex_);
  const Known* const known = look_up(id);
  if (known == nullptr) return stale(id);
  if (address != reinterpret_cast<std::uintptr_t>(known->data) || length != known->length) {
    return {Code::kInvalidArgument, "the region lies elsewhere: the reference was not made by its owner"};
  }
  return check_writer(*known, agent_id);
}

Regions::GrantedWrite::GrantedWrite(std::shared_ptr<memory::Arena> arena, PublicationId id,
                                    std::shared_ptr<const void> hold)
    : arena_(std::move(arena)), id_(id), hold_(std::move(hold)) {
  arena_->begin_write(id_);
}

void Regions::GrantedWrite::end() {
  if (!std::exchange(has_ended_, true)) arena_->end_write(id_);
}

Result<std::shared_ptr<Regions::GrantedWrite>> Regions::begin_write(PublicationId id, std::uint64_t address,
                                                                    std::uint64_t length, std::string_view agent_id) {
  BEELINE_RETURN_IF_ERROR(check_grant(id, address, length, agent_id));
  BEELINE_ASSIGN(auto held, hold(id, transport::Access::kWrite, agent_id));
  return std::make_shared<GrantedWrite>(arena_, id, std::move(held.hold));
}

Result<Regions::Held> Regions::hold(PublicationId id, transport::Access access, std::string_view agent_id) {
  std::shared_ptr<Registration> registration;  // may be the last to let go of it: not under the lock
  const std::lock_guard guard(mutex_);
  const Known* const known = look_up(id);
  if (known != nullptr) registration = known->registration.lock();
  if (registration == nullptr) return stale(id);
  if (access == transport::Access::kWrite) BEELINE_RETURN_IF_ERROR(check_writer(*known, agent_id));
  return Held{std::move(registration), known->data, known->length, known->device, known->extents, &arena_->writes(id)};
}

Result<Bytes> Regions::export_key(transport::Exporter& exporter, PublicationId id, transport::Access access,
                                  std::string_view agent_id) {
  BEELINE_ASSIGN(const Held held, hold(id, access, agent_id));
  {
    const std::lock_guard guard(mutex_);
    known_.at(id.slot).is_exported = true;  // it is registered as long as it is held
  }
  return exporter.key(id, held, access);
}

Regions::Stats Regions::stats() const {
  const std::lock_guard guard(mutex_);
  Stats stats;
  stats.reused = reused_;
  stats.waiting = waiting_.size();
  for (const auto& [slot, known] : known_) stats.registrations += known.registration.expired() ? 0 : 1;
  return stats;
}

}  // namespace beeline::transfer
