#include "beeline/memory/heap.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <mutex>

#include "beeline/os/pagemap.h"

namespace beeline::memory {
namespace {

using Guard = std::lock_guard<os::ForkableLock>;

constexpr std::size_t kLargePage = std::size_t{2} << 20;
constexpr std::uint64_t kLargePages = kLargePage / os::kPageSize;
constexpr std::uint32_t kMaxBlocks = 1u << 22;
constexpr int kScannedPerClass = 16;

std::uint32_t skip_to(std::uint32_t page, std::uint32_t alignment) {
  return (alignment - page % alignment) % alignment;
}

}  // namespace

int Heap::open(std::uint64_t capacity_bytes, std::uint64_t quota_bytes) {
  const Guard guard(lock_);
  if (base() != nullptr) return EALREADY;
  capacity_bytes = (capacity_bytes + kLargePage - 1) / kLargePage * kLargePage;
  const std::uint64_t pages = capacity_bytes / os::kPageSize;
  if (pages == 0 || pages >= (std::uint64_t{1} << 31)) return EINVAL;

  max_blocks_ = static_cast<std::uint32_t>(std::min<std::uint64_t>(pages + 1, kMaxBlocks));
  const auto page_count = static_cast<std::uint32_t>(pages);
  const std::size_t index_bytes = PageIndex::words_for(page_count) * sizeof(std::uint64_t);
  metadata_size_ = index_bytes + max_blocks_ * sizeof(Block) + pages * sizeof(std::uint32_t);
  auto* const memory = static_cast<std::byte*>(os::reserve_memory(metadata_size_));
  if (memory == nullptr) return ENOMEM;
  std::byte* const at = os::reserve_address_space(capacity_bytes, kLargePage);
  const int fd = os::raw_memfd("beeline-arena", capacity_bytes);
  int error = at == nullptr ? ENOMEM : fd < 0 ? -fd : os::map_shared_over(at, capacity_bytes, fd, 0);
  if (error == 0) error = register_heap(this);
  if (error != 0) {
    if (at != nullptr) os::unmap(at, capacity_bytes);
    if (fd >= 0) os::close_fd(fd);
    os::unmap(memory, metadata_size_);
    return error;
  }
  if (os::shared_huge_pages_available()) os::advise_huge_pages(at, capacity_bytes);

  metadata_ = memory;
  starts_.init(reinterpret_cast<std::uint64_t*>(memory), page_count);
  blocks_ = reinterpret_cast<Block*>(memory + index_bytes);
  block_of_page_ = reinterpret_cast<std::uint32_t*>(memory + index_bytes + max_blocks_ * sizeof(Block));
  std::fill(std::begin(warm_.heads), std::end(warm_.heads), kNone);
  std::fill(std::begin(cold_.heads), std::end(cold_.heads), kNone);
  capacity_ = capacity_bytes;
  fd_ = fd;
  quota_pages_ = static_cast<std::uint32_t>(std::min(quota_bytes, capacity_bytes) / os::kPageSize);
  add_free(0, page_count, 0);
  // Release: pair with the acquires in contains() and is_active().
  base_.store(at, std::memory_order_release);
  active_.store(true, std::memory_order_release);
  return 0;
}

void Heap::close() {
  unregister_heap(this);
  const Guard guard(lock_);
  if (base() == nullptr) return;
  active_.store(false);
  for (std::uint32_t i = 0; i < fork_children_count_; ++i) os::close_fd(fork_children_[i].read_end);
  fork_children_count_ = 0;
  os::unmap(base_.exchange(nullptr), capacity_);
  os::unmap(metadata_, metadata_size_);
  os::close_fd(fd_);
  fd_ = -1;
}

std::byte* Heap::allocate(std::size_t size, std::size_t alignment) {
  if (!is_active() || size == 0 || size > capacity_ || alignment > kLargePage) return nullptr;
  if (size >= kLargePage) alignment = std::max(alignment, kLargePage);
  const auto pages = class_ceil(static_cast<std::uint32_t>(os::page_ceil(size) / os::kPageSize));
  const auto align = static_cast<std::uint32_t>(std::max<std::size_t>(alignment / os::kPageSize, 1));

  const Guard guard(lock_);
  if (!is_active()) return nullptr;
  Fit fit = fit_in(warm_, pages, align, true);
  if (fit.block == kNone) {
    finish_released();
    fit = fit_in(warm_, pages, align, true);
  }
  if (fit.block != kNone) return take(fit, pages);

  fit = fit_mixed(pages, align);
  if (fit.block == kNone) fit = fit_in(cold_, pages, align, false);
  if (fit.block != kNone) {
    const Block& block = blocks_[fit.block];
    const std::uint32_t warm = block.warm > fit.skip ? std::min(block.warm - fit.skip, pages) : 0;
    if (used_pages_ + warm_free_pages_ + (pages - warm) <= quota_pages_) return take(fit, pages);
  }
  // Idle warm memory of other sizes stands in the way: punching it also lets free neighbours merge.
  if (!make_room(pages)) return nullptr;
  fit = fit_mixed(pages, align);
  if (fit.block == kNone) fit = fit_in(cold_, pages, align, false);
  if (fit.block == kNone) {
    punch_free_blocks(~std::uint64_t{0});
    fit = fit_in(cold_, pages, align, false);
  }
  return fit.block == kNone ? nullptr : take(fit, pages);
}

bool Heap::release(void* data) {
  if (!is_active()) return false;
  const Guard guard(lock_);
  const std::uint32_t index = find_start(data);
  if (index == kNone || blocks_[index].state != State::kLive) return false;
  Block& block = blocks_[index];
  block.state = State::kReleased;
  --live_blocks_;
  block.previous = kNone;
  block.next = released_;
  if (released_ != kNone) blocks_[released_].previous = index;
  released_ = index;
  finish_if_idle(index);
  return true;
}

bool Heap::grow(void* data, std::size_t size) {
  if (!is_active() || size > capacity_) return false;
  const auto pages = static_cast<std::uint32_t>(os::page_ceil(size) / os::kPageSize);
  const Guard guard(lock_);
  const std::uint32_t index = find_start(data);
  if (index == kNone || blocks_[index].state != State::kLive) return false;
  if (pages <= blocks_[index].pages) return true;
  // A frozen block is mapped privately, its neighbour is not.
  if (blocks_[index].last_fork != 0) return false;
  const std::uint32_t after = blocks_[index].page + blocks_[index].pages;
  if (std::uint64_t{after} * os::kPageSize >= capacity_) return false;
  const std::uint32_t next = record_at(after);
  const std::uint32_t need = class_ceil(pages) - blocks_[index].pages;
  if (blocks_[next].state != State::kFree || blocks_[next].pages < need) return false;
  const std::uint32_t warm = std::min(blocks_[next].warm, need);
  if (used_pages_ + warm_free_pages_ + (need - warm) > quota_pages_) return false;

  const Block taken = blocks_[next];
  unlink_free(next);
  starts_.erase(taken.page);
  forget_record(next);
  warm_free_pages_ -= taken.warm;
  if (taken.pages > need) add_free(taken.page + need, taken.pages - need, taken.warm - warm);
  blocks_[index].pages += need;
  used_pages_ += need;
  if (blocks_[index].pins > 0) pinned_pages_ += need;
  return true;
}

std::size_t Heap::usable_size(const void* data) const {
  if (!contains(data)) return 0;
  const Guard guard(lock_);
  const std::uint32_t index = find_start(data);
  return index == kNone || blocks_[index].state != State::kLive ? 0 : std::size_t{blocks_[index].pages} * os::kPageSize;
}

std::int64_t Heap::offset_of(const void* data, std::size_t size) const {
  if (!is_active() || !contains(data)) return -1;
  const auto offset = static_cast<std::uint64_t>(static_cast<const std::byte*>(data) - base());
  if (size > capacity_ - offset) return -1;
  {
    const Guard guard(lock_);
    const std::uint32_t start = starts_.at_or_before(static_cast<std::uint32_t>(offset / os::kPageSize));
    const Block& block = blocks_[block_of_page_[start]];
    const std::uint64_t end = (std::uint64_t{block.page} + block.pages) * os::kPageSize;
    if (block.state != State::kLive || offset + size > end) return -1;
    if (block.last_fork == 0) return static_cast<std::int64_t>(offset);
  }
  // Mapped privately since a fork: the file holds the content of exactly those pages that nobody wrote.
  const std::uint64_t first = os::page_floor(offset);
  const std::uint64_t last = os::page_ceil(offset + size);
  return os::any_page_written(base() + first, last - first) ? -1 : static_cast<std::int64_t>(offset);
}

std::int64_t Heap::pin(std::uint64_t offset, std::uint64_t size) {
  if (!is_active() || offset >= capacity_ || size > capacity_ - offset) return -1;
  const Guard guard(lock_);
  Block& block = blocks_[block_of_page_[starts_.at_or_before(static_cast<std::uint32_t>(offset / os::kPageSize))]];
  const std::uint64_t end = (std::uint64_t{block.page} + block.pages) * os::kPageSize;
  if (block.state != State::kLive || offset + size > end) return -1;
  if (block.pins++ == 0) pinned_pages_ += block.pages;
  return static_cast<std::int64_t>(std::uint64_t{block.page} * os::kPageSize);
}

void Heap::unpin(std::uint64_t block_offset) {
  if (!is_active()) return;
  const Guard guard(lock_);
  const std::uint32_t index = record_at(static_cast<std::uint32_t>(block_offset / os::kPageSize));
  Block& block = blocks_[index];
  if (--block.pins > 0) return;
  pinned_pages_ -= block.pages;
  if (block.state == State::kReleased) finish_if_idle(index);
}

bool Heap::is_private(std::uint64_t block_offset) const {
  if (!is_active()) return true;
  const Guard guard(lock_);
  return blocks_[record_at(static_cast<std::uint32_t>(block_offset / os::kPageSize))].last_fork != 0;
}

std::uint64_t Heap::trim(std::uint64_t keep_bytes) {
  if (!is_active()) return 0;
  const Guard guard(lock_);
  finish_released();
  const std::uint64_t keep_pages = keep_bytes / os::kPageSize;
  if (warm_free_pages_ <= keep_pages) return 0;
  return punch_free_blocks(warm_free_pages_ - keep_pages) * os::kPageSize;
}

void Heap::set_quota(std::uint64_t quota_bytes) {
  const Guard guard(lock_);
  quota_pages_ = static_cast<std::uint32_t>(std::min(quota_bytes, capacity_) / os::kPageSize);
}

HeapStats Heap::stats() const {
  const Guard guard(lock_);
  return {.capacity_bytes = capacity_,
          .quota_bytes = quota(),
          .used_bytes = used_pages_ * os::kPageSize,
          .warm_free_bytes = warm_free_pages_ * os::kPageSize,
          .pinned_bytes = pinned_pages_ * os::kPageSize,
          .blocks = live_blocks_,
          .fork_children = fork_children_count_,
          .allocations = allocations_};
}

std::uint32_t Heap::new_record() {
  if (spare_record_ != kNone) {
    const std::uint32_t index = spare_record_;
    spare_record_ = blocks_[index].next;
    return index;
  }
  return records_used_ < max_blocks_ ? records_used_++ : kNone;
}

void Heap::forget_record(std::uint32_t index) {
  blocks_[index].next = spare_record_;
  spare_record_ = index;
}

std::uint32_t Heap::record_at(std::uint32_t page) const {
  return block_of_page_[page];
}

std::uint32_t Heap::find_start(const void* data) const {
  if (!contains(data)) return kNone;
  const auto offset = static_cast<std::uint64_t>(static_cast<const std::byte*>(data) - base());
  if (offset % os::kPageSize != 0) return kNone;
  const auto page = static_cast<std::uint32_t>(offset / os::kPageSize);
  return starts_.at_or_before(page) == page ? block_of_page_[page] : kNone;
}

// Adds a free block, merged with free neighbours where the result has its warm pages in front.
void Heap::add_free(std::uint32_t page, std::uint32_t pages, std::uint32_t warm) {
  warm_free_pages_ += warm;
  if (std::uint64_t{page + pages} * os::kPageSize < capacity_) {
    const std::uint32_t index = record_at(page + pages);
    const Block next = blocks_[index];
    if (next.state == State::kFree && (warm == pages || next.warm == 0)) {
      unlink_free(index);
      starts_.erase(next.page);
      forget_record(index);
      pages += next.pages;
      warm += next.warm;
    }
  }
  if (page > 0) {
    const std::uint32_t index = record_at(starts_.at_or_before(page - 1));
    const Block previous = blocks_[index];
    if (previous.state == State::kFree && (previous.warm == previous.pages || warm == 0)) {
      unlink_free(index);
      blocks_[index].pages = previous.pages + pages;
      blocks_[index].warm = previous.warm + warm;
      link_free(index);
      return;
    }
  }
  const std::uint32_t index = new_record();
  Block& block = blocks_[index];
  block = Block{};
  block.page = page;
  block.pages = pages;
  block.warm = warm;
  starts_.insert(page);
  block_of_page_[page] = index;
  link_free(index);
}

Heap::Lists& Heap::list_of(const Block& block, std::uint32_t& size_class) {
  size_class = class_of(block.warm > 0 ? block.warm : block.pages);
  return block.warm > 0 ? warm_ : cold_;
}

void Heap::link_free(std::uint32_t index) {
  Block& block = blocks_[index];
  std::uint32_t size_class = 0;
  Lists& lists = list_of(block, size_class);
  block.previous = kNone;
  block.next = lists.heads[size_class];
  if (block.next != kNone) blocks_[block.next].previous = index;
  lists.heads[size_class] = index;
  lists.present[size_class / 64] |= std::uint64_t{1} << (size_class % 64);
}

void Heap::unlink_free(std::uint32_t index) {
  const Block& block = blocks_[index];
  std::uint32_t size_class = 0;
  Lists& lists = list_of(block, size_class);
  if (block.next != kNone) blocks_[block.next].previous = block.previous;
  if (block.previous != kNone) {
    blocks_[block.previous].next = block.next;
  } else {
    lists.heads[size_class] = block.next;
    if (block.next == kNone) lists.present[size_class / 64] &= ~(std::uint64_t{1} << (size_class % 64));
  }
}

// The first fitting block from the smallest class up, most recently freed first. A class that is larger by
// the alignment always fits, so looking at a few of each class below it loses little.
Heap::Fit Heap::fit_in(const Lists& lists, std::uint32_t pages, std::uint32_t alignment, bool warm) const {
  for (std::uint32_t size_class = class_of(pages); size_class < kSizeClasses; ++size_class) {
    const std::uint64_t present = lists.present[size_class / 64] >> (size_class % 64);
    if (present == 0) {
      size_class |= 63;
      continue;
    }
    size_class += static_cast<std::uint32_t>(std::countr_zero(present));
    int scanned = 0;
    for (std::uint32_t index = lists.heads[size_class]; index != kNone && scanned < kScannedPerClass;
         index = blocks_[index].next, ++scanned) {
      const Block& block = blocks_[index];
      const std::uint32_t skip = skip_to(block.page, alignment);
      if (std::uint64_t{skip} + pages <= (warm ? block.warm : block.pages)) return {index, skip};
    }
  }
  return {};
}

// A free block whose warm pages do not suffice, but all its pages do: the one with the most warm pages.
Heap::Fit Heap::fit_mixed(std::uint32_t pages, std::uint32_t alignment) const {
  for (std::uint32_t size_class = kSizeClasses; size_class-- > 0;) {
    int scanned = 0;
    for (std::uint32_t index = warm_.heads[size_class]; index != kNone && scanned < kScannedPerClass;
         index = blocks_[index].next, ++scanned) {
      const Block& block = blocks_[index];
      const std::uint32_t skip = skip_to(block.page, alignment);
      if (std::uint64_t{skip} + pages <= block.pages) return {index, skip};
    }
  }
  return {};
}

// Cuts `pages` out of a free block. Null when the records are exhausted.
std::byte* Heap::take(Fit fit, std::uint32_t pages) {
  // At most two more free blocks and the live one; add_free() must not run out half-way.
  if (spare_record_ == kNone && records_used_ + 3 > max_blocks_) return nullptr;
  const Block whole = blocks_[fit.block];
  unlink_free(fit.block);
  starts_.erase(whole.page);
  forget_record(fit.block);
  warm_free_pages_ -= whole.warm;

  const std::uint32_t index = new_record();
  Block& block = blocks_[index];
  block = Block{};
  block.page = whole.page + fit.skip;
  block.pages = pages;
  block.state = State::kLive;
  starts_.insert(block.page);
  block_of_page_[block.page] = index;
  used_pages_ += pages;
  ++live_blocks_;
  ++allocations_;

  const std::uint32_t page = block.page;
  const std::uint32_t used = fit.skip + pages;
  if (whole.pages > used) {
    add_free(page + pages, whole.pages - used, whole.warm > used ? whole.warm - used : 0);
  }
  if (fit.skip > 0) add_free(whole.page, fit.skip, std::min(whole.warm, fit.skip));
  return base() + std::uint64_t{page} * os::kPageSize;
}

// Whether `cold_pages` more may be touched, after giving back idle memory if that is needed.
bool Heap::make_room(std::uint64_t cold_pages) {
  if (used_pages_ + cold_pages > quota_pages_) return false;
  const std::uint64_t room = quota_pages_ - used_pages_ - cold_pages;
  if (warm_free_pages_ > room) punch_free_blocks(warm_free_pages_ - room);
  return warm_free_pages_ <= room;
}

// Punches free blocks, largest first and each from its end, until `enough_pages` went (in large pages, which stay
// whole); returns how many did.
std::uint64_t Heap::punch_free_blocks(std::uint64_t enough_pages) {
  std::uint64_t punched = 0;
  for (std::uint32_t size_class = kSizeClasses; size_class-- > 0 && punched < enough_pages;) {
    while (warm_.heads[size_class] != kNone && punched < enough_pages) {
      const std::uint32_t index = warm_.heads[size_class];
      const Block block = blocks_[index];
      const std::uint64_t wanted = std::min<std::uint64_t>(enough_pages - punched, block.warm);
      const auto pages = static_cast<std::uint32_t>(
          std::min<std::uint64_t>((wanted + kLargePages - 1) / kLargePages * kLargePages, block.warm));
      const std::uint32_t kept = block.warm - pages;
      if (os::punch_hole(fd_, std::uint64_t{block.page + kept} * os::kPageSize, std::uint64_t{pages} * os::kPageSize) !=
          0) {
        return punched;
      }
      unlink_free(index);
      starts_.erase(block.page);
      forget_record(index);
      warm_free_pages_ -= block.warm;
      punched += pages;
      add_free(block.page, block.pages, kept);
    }
  }
  return punched;
}

// Frees a released block that nothing needs any more.
void Heap::finish_if_idle(std::uint32_t index) {
  const Block block = blocks_[index];
  const std::uint64_t offset = std::uint64_t{block.page} * os::kPageSize;
  if (block.pins > 0 || frozen(block)) return;
  if (block.last_fork != 0 &&
      os::map_shared_over(base() + offset, std::uint64_t{block.pages} * os::kPageSize, fd_, offset) != 0) {
    return;
  }
  if (block.next != kNone) blocks_[block.next].previous = block.previous;
  if (block.previous != kNone) {
    blocks_[block.previous].next = block.next;
  } else {
    released_ = block.next;
  }
  used_pages_ -= block.pages;
  starts_.erase(block.page);
  forget_record(index);
  add_free(block.page, block.pages, block.pages);
}

void Heap::finish_released() {
  if (fork_children_count_ > 0) reap_fork_children();
  for (std::uint32_t index = released_; index != kNone;) {
    const std::uint32_t next = blocks_[index].next;
    finish_if_idle(index);
    index = next;
  }
}

}  // namespace beeline::memory
