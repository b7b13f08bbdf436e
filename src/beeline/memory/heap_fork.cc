// fork() keeps its meaning for memory that is served from a shared file: before the fork every allocated
// block is mapped privately over the same file, so that parent and child copy on write. The file's pages are
// then what the child started from: they are neither reused nor punched before every such child has ended or
// called exec, which the end of a close-on-exec pipe tells.
#include <pthread.h>

#include <cerrno>
#include <mutex>

#include "beeline/memory/heap.h"

namespace beeline::memory {
namespace {

constexpr int kMaxHeaps = 16;
constexpr std::uint32_t kForever = 0xffffffffu;
os::ForkableLock heaps_lock;
Heap* heaps[kMaxHeaps] = {};
bool handlers_registered = false;

}  // namespace

int Heap::register_heap(Heap* heap) {
  const std::lock_guard guard(heaps_lock);
  if (!handlers_registered) {
    if (const int error = ::pthread_atfork(prepare_fork, after_fork_in_parent, after_fork_in_child)) return error;
    handlers_registered = true;
  }
  for (Heap*& slot : heaps) {
    if (slot != nullptr) continue;
    slot = heap;
    return 0;
  }
  return EMFILE;
}

void Heap::unregister_heap(Heap* heap) {
  const std::lock_guard guard(heaps_lock);
  for (Heap*& slot : heaps) {
    if (slot == heap) slot = nullptr;
  }
}

// Holds every allocator lock until the fork is over, so that the child's copy of the records is whole.
void Heap::prepare_fork() {
  heaps_lock.lock();
  for (Heap* heap : heaps) {
    if (heap == nullptr) continue;
    heap->lock_.lock();
    if (heap->is_active()) heap->freeze_live_blocks();
  }
}

void Heap::after_fork_in_parent() {
  for (Heap* heap : heaps) {
    if (heap == nullptr) continue;
    if (heap->fork_write_end_ >= 0) os::close_fd(heap->fork_write_end_);
    heap->fork_write_end_ = -1;
    heap->lock_.unlock();
  }
  heaps_lock.unlock();
}

// The child keeps the memory it started with and serves itself from elsewhere. It keeps the write end of its
// pipe open for as long as it lives.
void Heap::after_fork_in_child() {
  for (Heap* heap : heaps) {
    if (heap == nullptr) continue;
    heap->active_.store(false);
    for (std::uint32_t i = 0; i < heap->fork_children_count_; ++i) os::close_fd(heap->fork_children_[i].read_end);
    heap->fork_children_count_ = 0;
    heap->fork_write_end_ = -1;
    heap->lock_.unlock();
  }
  heaps_lock.unlock();
}

void Heap::freeze_live_blocks() {
  reap_fork_children();
  ++forks_;
  // Without a pipe the end of this child cannot be told: its blocks stay frozen for good.
  std::uint32_t last = kForever;
  int read_end = -1;
  if (fork_children_count_ < kMaxForkChildren && os::make_pipe(read_end, fork_write_end_) == 0) {
    fork_children_[fork_children_count_++] = {forks_, read_end};
    last = forks_;
  }

  std::uint64_t run = 0;  // [run, run_end) is to be mapped privately, in one call
  std::uint64_t run_end = 0;
  const auto map_run = [&] {
    if (run_end > run) os::map_private_over(base() + run, run_end - run, fd_, run);
  };
  const auto pages = static_cast<std::uint32_t>(capacity_ / os::kPageSize);
  for (std::uint32_t page = 0; page < pages;) {
    Block& block = blocks_[record_at(page)];
    page += block.pages;
    if (block.state != State::kLive) continue;
    if (block.last_fork == 0) {
      const std::uint64_t start = std::uint64_t{block.page} * os::kPageSize;
      const std::uint64_t end = start + std::uint64_t{block.pages} * os::kPageSize;
      if (start != run_end) {
        map_run();
        run = start;
      }
      run_end = end;
      block.first_fork = forks_;
    }
    if (block.last_fork != kForever) block.last_fork = last;
  }
  map_run();
}

void Heap::reap_fork_children() {
  for (std::uint32_t i = 0; i < fork_children_count_;) {
    if (os::pipe_ended(fork_children_[i].read_end)) {
      os::close_fd(fork_children_[i].read_end);
      fork_children_[i] = fork_children_[--fork_children_count_];
    } else {
      ++i;
    }
  }
}

// Whether a child that may see the block's pages still runs.
bool Heap::frozen(const Block& block) {
  if (block.last_fork == 0) return false;
  if (block.last_fork == kForever) return true;
  for (std::uint32_t i = 0; i < fork_children_count_; ++i) {
    if (fork_children_[i].fork >= block.first_fork && fork_children_[i].fork <= block.last_fork) return true;
  }
  return false;
}

}  // namespace beeline::memory
