// Moving stored values to disk when the arena is full, and opening them there.
#include <algorithm>

#include "beeline/runtime/process.h"

namespace beeline::runtime {
namespace {

// What is freed at least, so that not every publication waits for the disk.
constexpr std::uint64_t kSpillAtLeast = 64u << 20;

}  // namespace

// A block for a copy. Where the arena is full, stored values that nobody reads make room.
Result<std::byte*> Process::allocate(memory::Arena& arena, std::size_t size) {
  for (;;) {
    auto block = arena.allocate(size);
    if (block || block.status().code() != Code::kResourceExhausted) return block;
    if (look_into_mailbox()) block = arena.allocate(size);  // that something was freed may lie there
    if (block || block.status().code() != Code::kResourceExhausted) return block;
    if (size > arena.stats().heap.quota_bytes) return block;  // whatever else were moved
    BEELINE_ASSIGN(const auto freed, make_room(arena, size));
    if (freed == 0) return block;
  }
}

bool Process::look_into_mailbox() {
  Locked locked(lock_);
  if (stopped_ || !mailbox_.has_mail()) return false;
  progress_.poke(locked);
  return true;
}

// Moves stored values to disk, the oldest first, until as many bytes are free; without the state lock while the disk
// works. How many became free: 0 where there is nothing to move.
Result<std::uint64_t> Process::make_room(memory::Arena& arena, std::uint64_t wanted) {
  const auto start = Clock::now();
  std::uint64_t freed = 0;
  Status status;
  remove_spilled();  // what the disk gets back
  {
    const std::lock_guard spilling(spill_mutex_);
    if (const auto block = arena.allocate(wanted)) {
      arena.release(*block);  // others have made room meanwhile
      return wanted;
    }
    const std::uint64_t enough = std::max(wanted, std::min(kSpillAtLeast, arena.stats().heap.quota_bytes / 8));
    while (freed < enough) {
      const auto moved = move_out_oldest(arena);
      if (!moved) status = moved.status();
      if (!moved || *moved == 0) break;
      freed += *moved;
    }
  }
  const Locked locked(lock_);
  transfers_.spill_stalled_ns += static_cast<std::uint64_t>((Clock::now() - start).count());
  if (freed == 0 && !status) return status;
  if (freed > 0 && !std::exchange(said_of_spilling_, true)) notify_program(spilling_notice(arena));
  return freed;
}

std::string Process::spilling_notice(const memory::Arena& arena) const {
  const auto quota = arena.stats().heap.quota_bytes;
  return "The object store of this process is full (" + std::to_string(quota >> 20) +
         " MiB): stored values are being moved to disk, which took " +
         std::to_string(transfers_.spill_stalled_ns / 1'000'000) + " ms for " +
         std::to_string(transfers_.spilled_bytes >> 20) +
         " MiB so far. Drop references that are no longer needed, or raise init(object_store_memory=...). This is said "
         "once; `beeline status` counts on";
}

Result<std::uint64_t> Process::move_out_oldest(memory::Arena& arena) {
  Locked locked(lock_);
  for (std::uint64_t after = 0;;) {
    if (stopped_) return Status(Code::kShutdown, session_error_);
    const auto next = movable_.upper_bound(after);
    if (next == movable_.end()) return std::uint64_t{0};
    after = next->first;
    const auto& chosen = publications_.at(next->second);
    const auto id = chosen.id;
    const auto block = chosen.block;
    if (arena.holds(id).holding > 0 || !arena.keep(id)) continue;
    locked.unlock();
    const auto written =
        spill_->write(self_, id, block.offset, {arena.at(block.offset), static_cast<std::size_t>(block.length)});
    locked.lock();
    const auto it = publications_.find(id.slot);
    const bool is_wanted = it != publications_.end() && it->second.id == id && it->second.number == after;
    if (written && is_wanted && arena.move_out(id)) {
      movable_.erase(std::exchange(it->second.number, 0));
      it->second.is_moved_out = true;
      ++transfers_.spilled_objects;
      transfers_.spilled_bytes += block.length;
      return block.length;
    }
    // It was freed meanwhile, or somebody reads it now. Its file goes at once: it may be written again.
    arena.let_go(id);
    if (written) {
      locked.unlock();
      spill_->remove(self_, id);
      locked.lock();
    } else {
      return Status(written).with_context("move a value of " + std::to_string(block.length) +
                                          " bytes to disk, for the arena is full");
    }
  }
}

// The state lock is held: the disk is not waited for.
void Process::forget_spilled(ProcessIndex holder, memory::PublicationId id) {
  spilled_in_vain_.emplace_back(holder, id);
  progress_.request_chores();
}

void Process::remove_spilled() {
  std::vector<std::pair<ProcessIndex, memory::PublicationId>> files;
  {
    const Locked locked(lock_);
    files.swap(spilled_in_vain_);
  }
  for (const auto& [holder, id] : files) spill_->remove(holder, id);
}

Result<Opened> Process::open_moved_out(const store::Placement& placement, Deadline deadline) {
  BEELINE_ASSIGN(auto file, spill_->open(placement.holder, placement.publication, deadline));
  auto kept = std::make_shared<Spill::Opened>(std::move(file));
  Opened opened;
  std::uint64_t bytes = 0;
  for (const auto& buffer : placement.buffers) {
    std::byte* data = buffer.range.length > 0 ? kept->at(buffer.range.offset, buffer.range.length) : nullptr;
    if (buffer.range.length > 0 && data == nullptr) return Status(Code::kCorrupt, "a buffer outside its file");
    opened.buffers.emplace_back(data, buffer.range.length);
    bytes += buffer.range.length;
  }
  opened.lease = std::move(kept);
  const Locked locked(lock_);
  ++transfers_.restored_objects;
  transfers_.restored_bytes += bytes;
  return opened;
}

}  // namespace beeline::runtime
