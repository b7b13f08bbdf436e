// This process's shareable memory: blocks that are born in a memfd, their publication to other processes,
// and the bookkeeping of who still holds what.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "beeline/base/status.h"
#include "beeline/memory/heap_abi.h"
#include "beeline/memory/lease_table.h"
#include "beeline/memory/region.h"
#include "beeline/os/fd.h"

namespace beeline::memory {

// Thread-safe. In a child of fork() every call is a harmless failure: the memory stays readable and writable
// there, but is the parent's to manage.
class Arena {
 public:
  struct Options {
    std::uint64_t capacity_bytes = 0;  // of the sparse file; 0: four times the machine's memory
    std::uint64_t quota_bytes = 0;     // of memory it may back; 0: the machine's memory
  };

  // The preload library's arena where it is loaded and willing (activates it), else one of its own. Letting go of it
  // ends publications. Memory of an arena of its own ends then; one that serves malloc stays, with what consumers still
  // hold, and the next open() takes it on under the new quota. While somebody has that one open, others share it.
  static Result<std::shared_ptr<Arena>> open(const Options& options);
  // As open(), for who insists on the quota: kAlreadyExists where others share theirs under another one.
  static Result<std::shared_ptr<Arena>> open_with_quota(std::uint64_t quota_bytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Whether this process's large allocations come from the arena.
  [[nodiscard]] bool serves_malloc() const { return own_heap_ == nullptr; }
  // Why they do not although the preload library is loaded; null when it is not, or when they do.
  [[nodiscard]] const char* stands_aside() const { return stands_aside_; }
  // To hand to consumers: the data is read-only, the control table read-write. Borrowed.
  [[nodiscard]] int data_fd() const { return data_.get(); }
  [[nodiscard]] int control_fd() const { return control_fd_.get(); }
  [[nodiscard]] std::uint64_t capacity_bytes() const { return capacity_bytes_; }

  // A page-aligned block of `size` bytes (> 0), warm where possible; kResourceExhausted past the quota.
  Result<std::byte*> allocate(std::size_t size);
  // The byte at an offset, in this process's own mapping.
  [[nodiscard]] const std::byte* at(std::uint64_t offset) const {
    return static_cast<const std::byte*>(heap_.base(heap_.heap)) + offset;
  }
  // Ends the allocation's own hold; the memory is reused once no publication pins the block.
  void release(std::byte* data);
  // Where [data, data + size) lies in the arena, if wholly inside one allocated block whose content the file
  // holds (after a fork() that is so only for bytes that were not written since). One lock, no allocation.
  [[nodiscard]] std::optional<std::uint64_t> offset_of(const void* data, std::size_t size) const;

  // What readers are to see: the bytes as they are now, or whatever their owner writes there later. Of the second kind
  // the arena says when it cannot be had any more: once this process has forked (PublicationSlot::detached).
  enum class Content { kAsPublished, kAsWritten };
  // Makes the ranges fetchable together, and pins the blocks under them. kInvalidArgument when a range is not
  // inside an allocated block; kResourceExhausted when all publication slots are taken.
  Result<PublicationId> publish(std::span<const Range> ranges, Content content = Content::kAsPublished);
  // No new leases from here on; pins drop when no lease is left. Ignores ids that are not published.
  void retire(PublicationId id);
  // For who moves the bytes of a publication elsewhere, which must not change any more. keep(): they stay where they
  // are until move_out() or let_go(). move_out(): new leases fail from here on (PeerArena::is_moved_out), and the
  // memory is reused. Both return false where it is not published, move_out() also while somebody has a lease: it stays
  // then.
  bool keep(PublicationId id);
  bool move_out(PublicationId id);
  void let_go(PublicationId id);
  // No new leases, because the bytes were written while somebody read them: acquire() fails with kMutated.
  void mark_mutated(PublicationId id);
  // Around writes to published bytes in place: who copies them meanwhile is told that its copy is torn.
  void begin_write(PublicationId id);
  void end_write(PublicationId id);
  // For servers that read on behalf of others: see PublicationSlot. Kept as long as the arena.
  [[nodiscard]] const std::atomic<std::uint64_t>& writes(PublicationId id) const {
    return table_->slots[id.slot].writes;
  }
  // Finishes retired publications whose leases have all come back; returns how many still wait. Called when a
  // consumer says that it returned one, at publish, and when memory is short.
  std::size_t sweep();

  struct Holds {
    std::uint32_t holding = 0;  // consumer processes with a lease
    std::uint32_t reading = 0;  // of those, how many may still read
  };
  // Zeroes for an id that is neither published nor waiting.
  [[nodiscard]] Holds holds(PublicationId id) const;
  struct Holder {
    pid_t pid = 0;
    bool is_reading = false;
  };
  // The processes with a lease, for people: as holds() counts them.
  [[nodiscard]] std::vector<Holder> holders_of(PublicationId id) const;

  // The index of a consumer process in the lease table (dense, < 4096, reused after drop_holder).
  Result<std::uint32_t> add_holder(pid_t pid);
  // The process is gone: all its leases end.
  void drop_holder(std::uint32_t holder);

  struct Stats {
    HeapStats heap;
    std::uint64_t publications = 0;  // published, not retired
    std::uint64_t waiting = 0;       // retired, with a lease still out
    std::uint64_t holders = 0;
  };
  [[nodiscard]] Stats stats() const;
  // Gives idle memory back to the system, but for `keep_bytes` that stay warm; returns the bytes.
  std::uint64_t trim(std::uint64_t keep_bytes = 0);

 private:
  struct Publication {
    std::uint32_t generation = 0;
    SlotState state = SlotState::kFree;
    std::vector<std::uint64_t> blocks;  // pinned, each once
    bool is_kept = false;               // by keep()
    Content content = Content::kAsPublished;
  };

  // fork(): every arena of this process is held still until it is over.
  class Forks;

  Arena() = default;
  Status open_control();
  static void close(Arena* arena);
  void end_publications();
  void drop_ended_holders();
  Status exhausted(std::size_t size) const;
  // These need mutex_.
  void detach_written();
  std::size_t sweep_locked();
  bool finish_if_returned(std::uint32_t slot);
  void stop_leases(std::uint32_t slot);
  void unpin(std::vector<std::uint64_t>& blocks);
  [[nodiscard]] bool is(PublicationId id, SlotState state) const;

  struct HeapMemory;  // a Heap with its lifetime
  std::unique_ptr<HeapMemory> own_heap_;
  beeline_heap_abi heap_{};
  const char* stands_aside_ = nullptr;
  bool is_malloc_arena_ = false;
  std::uint64_t capacity_bytes_ = 0;
  os::Fd data_;
  os::Fd control_fd_;
  os::Mapping control_;
  ControlTable* table_ = nullptr;  // in control_

  mutable std::mutex mutex_;               // guards all below, and every write to slot states
  std::vector<Publication> publications_;  // by slot, as far as ever used
  std::vector<std::uint32_t> free_slots_;
  std::vector<std::uint32_t> waiting_;
  std::vector<std::uint32_t> free_holders_;
  std::uint32_t holders_end_ = 0;  // one past the highest index ever given out
  std::uint64_t published_ = 0;
};

}  // namespace beeline::memory
