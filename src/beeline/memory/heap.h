// The allocator over one memfd: page-aligned blocks by size class, freed blocks reused warm. Its records lie
// outside the memory it hands out. It never calls malloc and throws nothing, because the preload library
// serves malloc from it; failures are errno values or null.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "beeline/memory/page_index.h"
#include "beeline/memory/size_classes.h"
#include "beeline/os/lock.h"
#include "beeline/os/memory_calls.h"

namespace beeline::memory {

struct HeapStats {
  std::uint64_t capacity_bytes = 0;
  std::uint64_t quota_bytes = 0;
  std::uint64_t used_bytes = 0;       // blocks that are allocated, pinned, or frozen by a fork
  std::uint64_t warm_free_bytes = 0;  // free, and still backed by memory
  std::uint64_t pinned_bytes = 0;     // part of used_bytes
  std::uint64_t blocks = 0;           // allocated blocks
  std::uint64_t fork_children = 0;    // children of fork() that may still use frozen blocks
  std::uint64_t allocations = 0;      // blocks ever given out
};

// Thread-safe. Usable in static storage: constant initialization, trivial destructor, open() before use.
class Heap {
 public:
  constexpr Heap() = default;

  // Makes the memfd and maps it. Zero, or errno. Once per Heap until close().
  int open(std::uint64_t capacity_bytes, std::uint64_t quota_bytes);
  // Unmaps everything: all memory that was handed out ends.
  void close();

  // Whether allocate() may be called: opened, and not in a child of fork().
  [[nodiscard]] bool is_active() const {
    // Acquire: pairs with the release in open(), which publishes base_, size_ and the records.
    return active_.load(std::memory_order_acquire);
  }
  [[nodiscard]] bool contains(const void* data) const {
    // Acquire: as in is_active(); the range stays valid in a forked child.
    const auto base = base_.load(std::memory_order_acquire);
    return base != nullptr && static_cast<const std::byte*>(data) >= base &&
           static_cast<const std::byte*>(data) < base + capacity_;
  }

  // A block of at least `size` bytes (> 0), aligned to `alignment` (a power of two, at most 2 MiB), at least to
  // the page, and to 2 MiB from 2 MiB up. Null when quota or address space is exhausted. The content is undefined.
  std::byte* allocate(std::size_t size, std::size_t alignment = os::kPageSize);
  // Ends the caller's hold on the block that starts at `data`; false when none does. The memory is reused
  // once no pin and no forked child needs it. In a forked child nothing happens.
  bool release(void* data);
  // Grows (or keeps) the block in place so that `size` bytes fit; false leaves it as it was.
  bool grow(void* data, std::size_t size);
  // Bytes of the allocated block that starts at `data`; 0 when none does.
  [[nodiscard]] std::size_t usable_size(const void* data) const;

  // Offset of [data, data + size) in the file, when it lies wholly in one allocated block and the file holds
  // its content; -1 otherwise (also for a block frozen by fork() whose pages were written since).
  [[nodiscard]] std::int64_t offset_of(const void* data, std::size_t size) const;
  // Pins the allocated block around [offset, offset + size); gives the block's own offset, or -1.
  std::int64_t pin(std::uint64_t offset, std::uint64_t size);
  // Undoes one pin() by the block's own offset.
  void unpin(std::uint64_t block_offset);

  // Whether what is written to a pinned block since a fork() shows in this process alone, and no more in the file.
  [[nodiscard]] bool is_private(std::uint64_t block_offset) const;

  // Gives the memory of idle free blocks back to the system, largest first, until at most `keep_bytes` of it are left;
  // returns the bytes.
  std::uint64_t trim(std::uint64_t keep_bytes = 0);
  // From now on; what is allocated already stays.
  void set_quota(std::uint64_t quota_bytes);
  [[nodiscard]] HeapStats stats() const;
  [[nodiscard]] int fd() const { return fd_; }
  [[nodiscard]] std::byte* base() const { return base_.load(std::memory_order_relaxed); }  // after is_active()
  [[nodiscard]] std::uint64_t capacity() const { return capacity_; }
  [[nodiscard]] std::uint64_t quota() const { return std::uint64_t{quota_pages_} * os::kPageSize; }

 private:
  enum class State : std::uint8_t { kFree, kLive, kReleased };  // kReleased: waits for pins or forked children
  static constexpr std::uint32_t kNone = 0xffffffffu;

  // All blocks tile the file: a record per block, found by the block's first page.
  struct Block {
    std::uint32_t page = 0;
    std::uint32_t pages = 0;
    std::uint32_t warm = 0;  // of a free block: how many of its first pages may be backed by memory
    std::uint32_t pins = 0;
    std::uint32_t previous = kNone;  // in its free list, or in the list of released blocks
    std::uint32_t next = kNone;
    std::uint32_t first_fork = 0;  // forks that froze the block: [first_fork, last_fork]; 0 for none
    std::uint32_t last_fork = 0;
    State state = State::kFree;
  };
  // Free blocks by class, with a bit per class that has any.
  struct Lists {
    std::uint32_t heads[kSizeClasses] = {};
    std::uint64_t present[kSizeClasses / 64] = {};
  };
  struct Fit {
    std::uint32_t block = kNone;
    std::uint32_t skip = 0;  // pages before the aligned start
  };
  struct ForkChild {
    std::uint32_t fork = 0;
    int read_end = -1;
  };
  static constexpr std::uint32_t kMaxForkChildren = 256;

  // All private functions need lock_.
  std::uint32_t new_record();
  void forget_record(std::uint32_t index);
  [[nodiscard]] std::uint32_t record_at(std::uint32_t page) const;
  [[nodiscard]] std::uint32_t find_start(const void* data) const;
  void add_free(std::uint32_t page, std::uint32_t pages, std::uint32_t warm);
  void link_free(std::uint32_t index);
  void unlink_free(std::uint32_t index);
  Lists& list_of(const Block& block, std::uint32_t& size_class);
  [[nodiscard]] Fit fit_in(const Lists& lists, std::uint32_t pages, std::uint32_t alignment, bool warm) const;
  [[nodiscard]] Fit fit_mixed(std::uint32_t pages, std::uint32_t alignment) const;
  std::byte* take(Fit fit, std::uint32_t pages);
  bool make_room(std::uint64_t cold_pages);
  std::uint64_t punch_free_blocks(std::uint64_t enough_pages);
  void finish_if_idle(std::uint32_t index);
  void finish_released();
  [[nodiscard]] bool frozen(const Block& block);
  void reap_fork_children();

  // fork(): see heap_fork.cc.
  static void prepare_fork();
  static void after_fork_in_parent();
  static void after_fork_in_child();
  static int register_heap(Heap* heap);
  static void unregister_heap(Heap* heap);
  void freeze_live_blocks();

  mutable os::ForkableLock lock_;
  std::atomic<bool> active_{false};
  std::atomic<std::byte*> base_{nullptr};
  std::uint64_t capacity_ = 0;
  int fd_ = -1;

  void* metadata_ = nullptr;
  std::size_t metadata_size_ = 0;
  Block* blocks_ = nullptr;
  std::uint32_t* block_of_page_ = nullptr;  // valid at first pages of blocks only
  PageIndex starts_;
  std::uint32_t max_blocks_ = 0;
  std::uint32_t records_used_ = 0;
  std::uint32_t spare_record_ = kNone;

  Lists warm_;  // by warm pages
  Lists cold_;  // without warm pages, by size
  std::uint32_t released_ = kNone;
  std::uint32_t quota_pages_ = 0;
  std::uint64_t used_pages_ = 0;
  std::uint64_t warm_free_pages_ = 0;
  std::uint64_t pinned_pages_ = 0;
  std::uint64_t live_blocks_ = 0;
  std::uint64_t allocations_ = 0;

  std::uint32_t forks_ = 0;
  std::uint32_t fork_children_count_ = 0;
  int fork_write_end_ = -1;
  ForkChild fork_children_[kMaxForkChildren] = {};
};

}  // namespace beeline::memory
