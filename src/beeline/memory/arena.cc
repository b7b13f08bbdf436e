#include "beeline/memory/arena.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

namespace beeline::memory {
namespace {

std::uint64_t machine_memory() {
  return static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(::sysconf(_SC_PAGE_SIZE));
}

const beeline_heap_abi* preloaded_heap() {
  const auto* abi = static_cast<const beeline_heap_abi*>(::dlsym(RTLD_DEFAULT, kHeapAbiSymbol));
  if (abi == nullptr || abi->version != kHeapAbiVersion || abi->table_bytes != sizeof(beeline_heap_abi)) return nullptr;
  return abi;
}

// The heap behind malloc is one per process, and so is the arena over it: open, or parked until the next open().
std::mutex malloc_arena_mutex;
bool malloc_arena_is_open = false;
std::weak_ptr<Arena> malloc_arena;
Arena* parked_arena = nullptr;

}  // namespace

// Before a fork every publication whose readers are to see what is written later is marked: the heap maps its blocks
// privately then. No publication is made until that is done, whichever thread forks.
class Arena::Forks {
 public:
  static void add(Arena& arena) {
    static const int error = ::pthread_atfork(prepare, end, end);
    BEELINE_CHECK(error == 0, "there is memory for a handler of fork()");
    const std::lock_guard guard(mutex());
    arenas().push_back(&arena);
  }
  static void remove(Arena& arena) {
    const std::lock_guard guard(mutex());
    std::erase(arenas(), &arena);
  }

 private:
  // Handlers run in the reverse order of their registration: this one, which is registered after the heap's, before it.
  static void prepare() {
    mutex().lock();
    for (Arena* arena : arenas()) {
      arena->mutex_.lock();
      arena->detach_written();
    }
  }
  static void end() {
    for (Arena* arena : arenas()) arena->mutex_.unlock();
    mutex().unlock();
  }

  // Never destroyed: threads may fork while the process exits.
  static std::mutex& mutex() {
    static auto* const instance = new std::mutex;
    return *instance;
  }
  static std::vector<Arena*>& arenas() {
    static auto* const instance = new std::vector<Arena*>;
    return *instance;
  }
};

struct Arena::HeapMemory {
  Heap heap;
  ~HeapMemory() { heap.close(); }
};

Result<std::shared_ptr<Arena>> Arena::open(const Options& options) {
  std::shared_ptr<Arena> arena(new Arena(), close);
  const std::uint64_t memory = machine_memory();
  const std::uint64_t capacity = options.capacity_bytes > 0 ? options.capacity_bytes : 4 * memory;
  const std::uint64_t quota = options.quota_bytes > 0 ? options.quota_bytes : memory;

  int error = ENOSYS;
  if (const auto* preloaded = preloaded_heap(); preloaded != nullptr) {
    arena->heap_ = *preloaded;
    arena->stands_aside_ = preloaded->stands_aside();
    if (arena->stands_aside_ == nullptr) {
      error = preloaded->activate(preloaded->heap, capacity, quota);
      if (error == EALREADY && preloaded->is_active(preloaded->heap)) error = 0;
    }
    if (error == 0) {
      const std::lock_guard guard(malloc_arena_mutex);
      if (auto open = malloc_arena.lock()) return open;
      if (std::exchange(malloc_arena_is_open, true)) {
        return Status(Code::kAlreadyExists, "the arena that serves malloc in this process is being closed");
      }
      preloaded->set_quota(preloaded->heap, quota);
      if (Arena* const parked = std::exchange(parked_arena, nullptr)) {
        arena.reset(parked, close);
        arena->drop_ended_holders();
        malloc_arena = arena;
        return arena;
      }
      arena->is_malloc_arena_ = true;
      malloc_arena = arena;
    }
  }
  if (error != 0) {
    arena->own_heap_ = std::make_unique<HeapMemory>();
    arena->heap_ = make_heap_abi(arena->own_heap_->heap);
    error = arena->heap_.activate(arena->heap_.heap, capacity, quota);
  }
  if (error != 0) {
    return Status::from_errno("open an arena of " + std::to_string(capacity) + " bytes", error);
  }
  HeapStats stats;
  arena->heap_.stats(arena->heap_.heap, &stats);
  arena->capacity_bytes_ = stats.capacity_bytes;
  BEELINE_RETURN_IF_ERROR(arena->open_control());
  return arena;
}

Result<std::shared_ptr<Arena>> Arena::open_with_quota(std::uint64_t quota_bytes) {
  BEELINE_ASSIGN(auto arena, open({.quota_bytes = quota_bytes}));
  const std::uint64_t quota = arena->stats().heap.quota_bytes;
  if (quota == os::page_floor(std::min(quota_bytes, arena->capacity_bytes()))) return arena;
  return Status(Code::kAlreadyExists, "a quota of " + std::to_string(quota_bytes) +
                                          " bytes: the arena that serves malloc in this process is open already, "
                                          "with a quota of " +
                                          std::to_string(quota) + "; give the quota to who opens it first");
}

Status Arena::open_control() {
  const int data = os::reopen_read_only(heap_.fd(heap_.heap));
  if (data < 0) return Status::from_errno("open the arena read-only", -data);
  data_ = os::Fd(data);
  const std::uint64_t size = os::page_ceil(sizeof(ControlTable));
  BEELINE_ASSIGN(control_fd_, os::make_memfd("beeline-control", size));
  BEELINE_ASSIGN(control_, os::Mapping::map(control_fd_.get(), 0, size, os::Access::kReadWrite, os::Sharing::kShared));
  // The file is zeroes: every slot is free and every bitmap empty.
  table_ = reinterpret_cast<ControlTable*>(control_.data());
  table_->header.version = kControlVersion;
  table_->header.publications = kMaxPublications;
  table_->header.holders = kMaxHolders;
  table_->header.producer_pid = ::getpid();
  table_->header.capacity_bytes = capacity_bytes_;
  table_->header.magic = kControlMagic;
  Forks::add(*this);
  return Status::ok();
}

Arena::~Arena() {
  if (table_ != nullptr) Forks::remove(*this);
}

void Arena::close(Arena* arena) {
  arena->end_publications();
  if (!arena->is_malloc_arena_) {
    delete arena;
    return;
  }
  const std::lock_guard guard(malloc_arena_mutex);
  malloc_arena_is_open = false;
  if (arena->table_ != nullptr) {
    parked_arena = arena;
  } else {
    delete arena;
  }
}

void Arena::end_publications() {
  if (table_ == nullptr || !heap_.is_active(heap_.heap)) return;
  const std::lock_guard guard(mutex_);
  for (std::uint32_t slot = 0; slot < publications_.size(); ++slot) {
    const SlotState state = publications_[slot].state;
    if (state != SlotState::kPublished && state != SlotState::kMovedOut) continue;
    stop_leases(slot);
    waiting_.push_back(slot);
  }
  // What is still leased stays pinned: its readers keep their bytes.
  sweep_locked();
}

Status Arena::exhausted(std::size_t size) const {
  const Stats now = stats();
  return Status(Code::kResourceExhausted,
                "the arena has no room for " + std::to_string(size) + " bytes: quota " +
                    std::to_string(now.heap.quota_bytes) + ", used " + std::to_string(now.heap.used_bytes) +
                    " (published " + std::to_string(now.heap.pinned_bytes) + ", " + std::to_string(now.waiting) +
                    " retired publications wait for their consumers); release tensors, or raise the quota "
                    "(object_store_memory of init)");
}

Result<std::byte*> Arena::allocate(std::size_t size) {
  if (size == 0) return Status(Code::kInvalidArgument, "allocate 0 bytes from an arena");
  void* data = heap_.allocate(heap_.heap, size);
  if (data == nullptr && heap_.is_active(heap_.heap)) {
    sweep();
    data = heap_.allocate(heap_.heap, size);
    if (data == nullptr) return exhausted(size);
  }
  if (data == nullptr)
    return Status(Code::kUnsupported, "this process was forked from the arena's owner: open one of its own");
  return static_cast<std::byte*>(data);
}

void Arena::release(std::byte* data) {
  heap_.release(heap_.heap, data);
}

std::optional<std::uint64_t> Arena::offset_of(const void* data, std::size_t size) const {
  const std::int64_t offset = heap_.offset_of(heap_.heap, data, size);
  return offset < 0 ? std::nullopt : std::optional(static_cast<std::uint64_t>(offset));
}

void Arena::detach_written() {
  if (!heap_.is_active(heap_.heap)) return;
  for (std::uint32_t slot = 0; slot < publications_.size(); ++slot) {
    const Publication& publication = publications_[slot];
    const bool is_followed = publication.content == Content::kAsWritten && !publication.blocks.empty();
    if (is_followed && publication.state == SlotState::kPublished) {
      table_->slots[slot].detached.store(publication.generation);
    }
  }
}

Result<PublicationId> Arena::publish(std::span<const Range> ranges, Content content) {
  if (!heap_.is_active(heap_.heap)) {
    return Status(Code::kUnsupported, "this process was forked from the arena's owner: open one of its own");
  }
  std::vector<std::uint64_t> blocks;
  blocks.reserve(ranges.size());
  const auto unpin_all = [&] {
    for (const std::uint64_t block : blocks) heap_.unpin(heap_.heap, block);
  };
  for (const Range& range : ranges) {
    if (range.length == 0) continue;
    const std::int64_t block = heap_.pin(heap_.heap, range.offset, range.length);
    if (block < 0) {
      unpin_all();
      return Status(Code::kInvalidArgument, "publish bytes " + std::to_string(range.offset) + " + " +
                                                std::to_string(range.length) + ": not inside an allocated block");
    }
    blocks.push_back(static_cast<std::uint64_t>(block));
  }

  const std::lock_guard guard(mutex_);
  sweep_locked();
  std::uint32_t slot = 0;
  if (!free_slots_.empty()) {
    slot = free_slots_.back();
    free_slots_.pop_back();
  } else if (publications_.size() < kMaxPublications) {
    slot = static_cast<std::uint32_t>(publications_.size());
    publications_.emplace_back();
  } else {
    unpin_all();
    return Status(Code::kResourceExhausted, "publish: all " + std::to_string(kMaxPublications) +
                                                " publications are in use; release references to published tensors");
  }
  Publication& publication = publications_[slot];
  ++publication.generation;
  publication.state = SlotState::kPublished;
  publication.blocks = std::move(blocks);
  publication.content = content;
  ++published_;
  const bool is_private = std::ranges::any_of(
      publication.blocks, [this](std::uint64_t block) { return heap_.is_private(heap_.heap, block); });
  if (content == Content::kAsWritten && is_private) table_->slots[slot].detached.store(publication.generation);
  table_->slots[slot].writes.store(0);
  table_->slots[slot].state.store(PublicationSlot::pack(publication.generation, SlotState::kPublished));
  return PublicationId{slot, publication.generation};
}

bool Arena::is(PublicationId id, SlotState state) const {
  return id.slot < publications_.size() && publications_[id.slot].generation == id.generation &&
         publications_[id.slot].state == state;
}

void Arena::unpin(std::vector<std::uint64_t>& blocks) {
  for (const std::uint64_t block : blocks) heap_.unpin(heap_.heap, block);
  blocks.clear();
}

bool Arena::keep(PublicationId id) {
  if (!heap_.is_active(heap_.heap)) return false;
  const std::lock_guard guard(mutex_);
  if (!is(id, SlotState::kPublished)) return false;
  return !std::exchange(publications_[id.slot].is_kept, true);
}

void Arena::let_go(PublicationId id) {
  if (!heap_.is_active(heap_.heap)) return;
  const std::lock_guard guard(mutex_);
  if (id.slot >= publications_.size() || publications_[id.slot].generation != id.generation) return;
  publications_[id.slot].is_kept = false;
  sweep_locked();
}

bool Arena::move_out(PublicationId id) {
  if (!heap_.is_active(heap_.heap)) return false;
  const std::lock_guard guard(mutex_);
  if (!is(id, SlotState::kPublished)) return false;
  PublicationSlot& shared = table_->slots[id.slot];
  // Protocol (a) of lease_table.h: either the reader's bit shows here, or the reader sees that it is moved out.
  shared.state.store(PublicationSlot::pack(id.generation, SlotState::kMovedOut));
  if (shared.held.count(holders_end_) > 0) {
    shared.state.store(PublicationSlot::pack(id.generation, SlotState::kPublished));
    return false;
  }
  Publication& publication = publications_[id.slot];
  publication.state = SlotState::kMovedOut;
  publication.is_kept = false;
  --published_;
  unpin(publication.blocks);
  return true;
}

void Arena::retire(PublicationId id) {
  if (!heap_.is_active(heap_.heap)) return;
  const std::lock_guard guard(mutex_);
  if (!is(id, SlotState::kPublished) && !is(id, SlotState::kMovedOut)) return;
  stop_leases(id.slot);
  if (!finish_if_returned(id.slot)) waiting_.push_back(id.slot);
}

void Arena::stop_leases(std::uint32_t slot) {
  Publication& publication = publications_[slot];
  if (publication.state == SlotState::kPublished) --published_;
  publication.state = SlotState::kRetired;
  table_->slots[slot].state.store(PublicationSlot::pack(publication.generation, SlotState::kRetired));
}

bool Arena::finish_if_returned(std::uint32_t slot) {
  PublicationSlot& shared = table_->slots[slot];
  Publication& publication = publications_[slot];
  if (publication.is_kept || shared.held.count(holders_end_) > 0) return false;
  shared.state.store(PublicationSlot::pack(publication.generation, SlotState::kFree));
  publication.state = SlotState::kFree;
  unpin(publication.blocks);
  free_slots_.push_back(slot);
  return true;
}

std::size_t Arena::sweep() {
  if (!heap_.is_active(heap_.heap)) return 0;
  const std::lock_guard guard(mutex_);
  return sweep_locked();
}

std::size_t Arena::sweep_locked() {
  std::erase_if(waiting_, [this](std::uint32_t slot) { return finish_if_returned(slot); });
  return waiting_.size();
}

void Arena::mark_mutated(PublicationId id) {
  if (!heap_.is_active(heap_.heap)) return;
  const std::lock_guard guard(mutex_);
  if (is(id, SlotState::kPublished)) table_->slots[id.slot].mutated.store(id.generation);
}

void Arena::begin_write(PublicationId id) {
  if (!heap_.is_active(heap_.heap)) return;
  table_->slots[id.slot].writes.fetch_add(1);
  // Pairs with the acquire fence of PeerArena::writes_after(): whoever sees a byte of the write sees that it goes on.
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

void Arena::end_write(PublicationId id) {
  if (!heap_.is_active(heap_.heap)) return;
  // Release: whoever sees that it has ended sees all of its bytes.
  table_->slots[id.slot].writes.fetch_add(PublicationSlot::kOneWrite - 1, std::memory_order_release);
}

Arena::Holds Arena::holds(PublicationId id) const {
  if (!heap_.is_active(heap_.heap)) return {};
  const std::lock_guard guard(mutex_);
  if (!is(id, SlotState::kPublished) && !is(id, SlotState::kRetired)) return {};
  const PublicationSlot& slot = table_->slots[id.slot];
  return {slot.held.count(holders_end_), slot.reading.count(holders_end_)};
}

std::vector<Arena::Holder> Arena::holders_of(PublicationId id) const {
  if (!heap_.is_active(heap_.heap)) return {};
  const std::lock_guard guard(mutex_);
  if (!is(id, SlotState::kPublished) && !is(id, SlotState::kRetired)) return {};
  const PublicationSlot& slot = table_->slots[id.slot];
  std::vector<Holder> found;
  for (std::uint32_t holder = 0; holder < holders_end_; ++holder) {
    const bool is_reading = slot.reading.has(holder);
    if (is_reading || slot.held.has(holder)) found.push_back({table_->header.holder_pids[holder].load(), is_reading});
  }
  return found;
}

Result<std::uint32_t> Arena::add_holder(pid_t pid) {
  const std::lock_guard guard(mutex_);
  std::uint32_t holder = holders_end_;
  if (!free_holders_.empty()) {
    holder = free_holders_.back();
    free_holders_.pop_back();
  } else if (holders_end_ < kMaxHolders) {
    ++holders_end_;
  } else {
    return Status(
        Code::kResourceExhausted,
        "process " + std::to_string(pid) + " is one consumer too many: an arena serves " + std::to_string(kMaxHolders));
  }
  // Of another pid namespace the kernel says 0, which here means that the index is free.
  table_->header.holder_pids[holder].store(pid > 0 ? pid : -1);
  return holder;
}

// Of those who had this arena the last time it was open: processes that are gone, and this process's own view unless
// values that it opened then still live.
void Arena::drop_ended_holders() {
  for (std::uint32_t holder = 0; holder < holders_end_; ++holder) {
    const pid_t pid = table_->header.holder_pids[holder].load();
    if (pid <= 0) continue;
    const bool holds = std::any_of(waiting_.begin(), waiting_.end(),
                                   [&](std::uint32_t slot) { return table_->slots[slot].held.has(holder); });
    if (pid == ::getpid() ? !holds : ::kill(pid, 0) != 0 && errno == ESRCH) drop_holder(holder);
  }
  sweep();
}

void Arena::drop_holder(std::uint32_t holder) {
  if (!heap_.is_active(heap_.heap)) return;
  const std::lock_guard guard(mutex_);
  if (holder >= holders_end_ || table_->header.holder_pids[holder].load() == 0) return;
  for (std::uint32_t slot = 0; slot < publications_.size(); ++slot) {
    table_->slots[slot].held.clear(holder);
    table_->slots[slot].reading.clear(holder);
  }
  table_->header.holder_pids[holder].store(0);
  free_holders_.push_back(holder);
  sweep_locked();
}

Arena::Stats Arena::stats() const {
  Stats stats;
  heap_.stats(heap_.heap, &stats.heap);
  const std::lock_guard guard(mutex_);
  stats.publications = published_;
  stats.waiting = waiting_.size();
  stats.holders = holders_end_ - free_holders_.size();
  return stats;
}

std::uint64_t Arena::trim(std::uint64_t keep_bytes) {
  sweep();
  return heap_.trim(heap_.heap, keep_bytes);
}

}  // namespace beeline::memory
