// A consumer's view of another process's arena: one private mapping of all of it, kept; leases on its
// publications; and the cleaning that lets go of what the consumer wrote.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "beeline/base/status.h"
#include "beeline/memory/interval_set.h"
#include "beeline/memory/lease_table.h"
#include "beeline/memory/region.h"
#include "beeline/os/fd.h"

namespace beeline::memory {

class PeerArena;

// This process's hold on one publication, with its bytes, which may be written: the pages written become
// this process's own. Moves, does not copy. One thread at a time; the bytes are ordinary memory.
class Lease {
 public:
  Lease() = default;
  Lease(Lease&& other) noexcept;
  Lease& operator=(Lease&& other) noexcept;
  ~Lease() { done_reading(); }

  [[nodiscard]] bool is_live() const { return peer_ != nullptr; }
  [[nodiscard]] PublicationId id() const { return id_; }
  // Where the byte at `offset` of the arena lies; null when no leased range holds it. A range of the lease
  // is contiguous from there.
  [[nodiscard]] std::byte* at(std::uint64_t offset) const;
  // Marks the bytes as no longer read, and queues the lease for PeerArena::clean(). True if the producer has retired
  // the publication already and may wait for the word that this brings. The memory must not be touched afterwards.
  // Repeatable.
  bool done_reading();

 private:
  friend class PeerArena;
  // Whole pages [start, end) of the arena, at `data`; either in the kept mapping or in one of its own.
  struct Segment {
    std::uint64_t start = 0;
    std::uint64_t end = 0;
    std::byte* data = nullptr;
    bool own_mapping = false;
  };
  std::shared_ptr<PeerArena> peer_;
  PublicationId id_;
  std::vector<Segment> segments_;  // by start, disjoint
};

// Thread-safe. Belongs to the process that attached: in a child of fork() nothing is acquired, and leases
// that end there tell nobody.
class PeerArena : public std::enable_shared_from_this<PeerArena> {
 public:
  // `holder` is this process's index from the producer's add_holder(). kCorrupt when the files are not an
  // arena's or are not sealed against shrinking.
  static Result<std::shared_ptr<PeerArena>> attach(os::Fd data, os::Fd control, std::uint32_t holder);
  ~PeerArena();
  PeerArena(const PeerArena&) = delete;
  PeerArena& operator=(const PeerArena&) = delete;

  // kStale when the publication was retired or its slot reused; kInvalidArgument for ranges outside the arena.
  // Costs no copy and no page fault. Ranges are normalised to pages. Without ranges it is a hold alone, for whoever
  // copies out of view() or by other means; it needs no cleaning.
  Result<Lease> acquire(PublicationId id, std::span<const Range> ranges);

  // Drops the pages written through leases that have ended, and gives up those holds. Off the critical path: 0.1 s
  // per GiB the first time that a range was read, 0.5 ms from then on (28 ms where the kernel cannot watch). Returns
  // the publications that their producer has retired meanwhile: it waits to be told, so that it sweeps.
  std::vector<PublicationId> clean();
  // Whether clean() has anything to do.
  [[nodiscard]] bool needs_cleaning() const;

  // The producer's bytes as they are now, for copying out of; valid as long as this object. A mapping of its own,
  // shared and read-only: what leases wrote into theirs does not show here. Only bytes under a lease are worth reading.
  Result<const std::byte*> view();
  // As acquire(), of one range and read-only: its bytes in view(). It needs no cleaning.
  struct View {
    Lease hold;
    const std::byte* data = nullptr;
  };
  Result<View> acquire_view(PublicationId id, Range range);
  // A connection to the producer that stays open as long as this object: by its end it knows that no lease is left.
  void keep_open(os::Fd connection) { connection_ = std::move(connection); }
  // Whether the publication may still be leased: after a copy under a lease this tells that nothing was reused
  // meanwhile.
  [[nodiscard]] bool is_published(PublicationId id) const;

  // Whether its bytes lie elsewhere: see Arena::move_out().
  [[nodiscard]] bool is_moved_out(PublicationId id) const {
    return id.slot < kMaxPublications &&
           table_->slots[id.slot].state.load() == PublicationSlot::pack(id.generation, SlotState::kMovedOut);
  }

  // Whether view() and leases show no more what its owner writes: PublicationSlot::detached.
  [[nodiscard]] bool is_detached(PublicationId id) const {
    const std::uint64_t detached = table_->slots[id.slot % kMaxPublications].detached.load(std::memory_order_acquire);
    return detached != 0 && detached == id.generation;
  }

  // The producer's writes in place (PublicationSlot::writes): before bytes are copied, and afterwards. A copy is whole
  // when none goes on before, and the number is the same.
  [[nodiscard]] std::uint64_t writes_before(PublicationId id) const {
    return table_->slots[id.slot].writes.load(std::memory_order_acquire);
  }
  [[nodiscard]] std::uint64_t writes_after(PublicationId id) const {
    // Pairs with the fence of Arena::begin_write().
    std::atomic_thread_fence(std::memory_order_acquire);
    return table_->slots[id.slot].writes.load(std::memory_order_acquire);  // bytes may be read next, too
  }

  [[nodiscard]] std::uint64_t capacity_bytes() const { return main_.size(); }
  [[nodiscard]] std::size_t live_leases() const;

 private:
  friend class Lease;
  // What this process holds of one publication.
  struct Hold {
    std::uint32_t generation = 0;
    std::uint32_t live = 0;   // leases
    std::uint32_t ended = 0;  // leases that wait for clean()
  };
  struct Ended {
    PublicationId id;
    std::vector<Lease::Segment> segments;
  };

  PeerArena() = default;
  [[nodiscard]] bool forked() const;
  Status check_ranges(std::span<const Range> ranges) const;
  Status map_segments(std::vector<Lease::Segment>& segments);
  bool end(Lease& lease);
  void clean_all();
  void drop_written(const Lease::Segment& segment);
  // These need mutex_.
  Status hold(PublicationId id);
  void drop_if_unused(PublicationId id);

  os::Fd connection_;  // the last to go
  std::uint64_t fork_count_ = 0;
  std::uint32_t holder_ = 0;
  os::Fd data_;
  os::Mapping main_;
  os::Mapping view_;  // needs mutex_ until it is there
  os::Mapping control_;
  ControlTable* table_ = nullptr;

  std::mutex clean_mutex_;  // before mutex_; held while pages are being dropped
  IntervalSet watched_;     // of main_: os::watch_writes() took them; needs clean_mutex_
  mutable std::mutex mutex_;
  std::unordered_map<std::uint32_t, Hold> holds_;  // by slot
  IntervalSet taken_;                              // of main_: pages of live leases and of those that wait for clean()
  IntervalSet to_clean_;                           // part of taken_: of ended leases
  std::vector<Ended> ended_;
  std::vector<PublicationId> returned_;  // what the next clean() reports
};

}  // namespace beeline::memory
