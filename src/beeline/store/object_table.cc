#include "beeline/store/object_table.h"

#include <algorithm>

namespace beeline::store {

Entry& ObjectTable::create(ObjectKind kind, const std::string* name) {
  std::uint32_t index = 0;
  if (!free_slots_.empty()) {
    index = free_slots_.back();
    free_slots_.pop_back();
  } else {
    index = static_cast<std::uint32_t>(slots_.size());
    slots_.emplace_back();
  }
  Slot& slot = slots_[index];
  slot.used = true;
  ++slot.generation;
  slot.entry.id = {self_, kind, std::uint64_t{slot.generation} << 32 | index};
  slot.entry.local = 1;
  slot.entry.name = name;
  ++own_count_;
  return slot.entry;
}

Entry* ObjectTable::find(const ObjectId& id) {
  if (id.owner != self_) {
    const auto it = foreign_.find(id);
    return it == foreign_.end() ? nullptr : it->second.get();
  }
  const auto index = static_cast<std::uint32_t>(id.serial);
  if (index >= slots_.size()) return nullptr;
  Slot& slot = slots_[index];
  return slot.used && slot.entry.id == id ? &slot.entry : nullptr;
}

Entry* ObjectTable::hold(const ObjectId& id, bool keep) {
  Entry* entry = find(id);
  if (entry == nullptr) {
    if (id.owner == self_) return nullptr;
    auto fresh = std::make_unique<Entry>();
    fresh->id = id;
    entry = fresh.get();
    foreign_.emplace(id, std::move(fresh));
  }
  ++entry->local;
  if (keep && id.owner != self_ && !entry->borrowed) {
    entry->borrowed = true;
    events_.send_borrow(id);
  }
  return entry;
}

void ObjectTable::drop_hold(Entry& entry) {
  BEELINE_CHECK(entry.local > 0, "an object's holds are counted");
  if (--entry.local == 0) doom(entry);
}

void ObjectTable::drop_dependent(Entry& entry) {
  BEELINE_CHECK(entry.dependents > 0, "an object's dependents are counted");
  if (--entry.dependents == 0 && entry.local == 0) doom(entry);
}

void ObjectTable::doom(Entry& entry) {
  if (entry.doomed || !entry.borrowers.empty()) return;
  entry.doomed = true;
  doomed_.push_back(entry.id);
}

void ObjectTable::add_borrower(const ObjectId& id, ProcessIndex process) {
  Entry* entry = find(id);
  if (entry == nullptr) {
    ++late_borrows_;  // freed already: the borrower's fetch will be told so
    return;
  }
  entry->borrowers.push_back(process);
  ++lent_to_[process];
}

void ObjectTable::drop_borrower(const ObjectId& id, ProcessIndex process) {
  Entry* entry = find(id);
  if (entry == nullptr) return;
  const auto it = std::find(entry->borrowers.begin(), entry->borrowers.end(), process);
  if (it == entry->borrowers.end()) return;
  entry->borrowers.erase(it);
  take_back(process, 1);
  was_released_ = true;
  if (entry->local == 0) doom(*entry);
}

void ObjectTable::take_back(ProcessIndex process, std::size_t count) {
  const auto it = lent_to_.find(process);
  if ((it->second -= count) == 0) lent_to_.erase(it);
}

void ObjectTable::drop_process(ProcessIndex process) {
  // Most processes that end hold nothing of ours, and the search ends with the last thing that this one holds.
  for (auto slot = slots_.begin(); slot != slots_.end() && lent_to_.contains(process); ++slot) {
    if (!slot->used) continue;
    const auto count = erase(slot->entry.borrowers, process);
    if (count == 0) continue;
    take_back(process, count);
    was_released_ = true;
    if (slot->entry.local == 0) doom(slot->entry);
  }
}

void ObjectTable::set_ready(Entry& entry, PayloadPtr payload) {
  if (entry.ready()) return;
  entry.payload = std::move(payload);
  for (const auto& ref : entry.payload->refs) hold(ref, true);
  auto watchers = std::move(entry.watchers);
  entry.watchers.clear();
  for (Watcher* watcher : watchers) watcher->on_ready(entry);
  tell_subscribers(entry);
}

void ObjectTable::replace(Entry& entry, PayloadPtr payload) {
  if (!entry.ready()) return set_ready(entry, std::move(payload));
  const PayloadPtr old = std::exchange(entry.payload, std::move(payload));
  for (const auto& ref : entry.payload->refs) hold(ref, true);
  drop_contents(old);
  if (entry.id.owner == self_ && old->placement) events_.free_placement(*old->placement);
  tell_subscribers(entry);
}

void ObjectTable::forget_value(Entry& entry) {
  const PayloadPtr old = std::exchange(entry.payload, nullptr);
  drop_contents(old);
  if (old && old->placement) events_.free_placement(*old->placement);
}

void ObjectTable::tell_subscribers(Entry& entry) {
  for (const auto process : std::exchange(entry.subscribers, {})) events_.send_object(process, entry);
}

void ObjectTable::unwatch(Entry& entry, Watcher& watcher) {
  erase(entry.watchers, &watcher);
}

void ObjectTable::fail_owner(ProcessIndex owner, const std::string& reason) {
  std::vector<Entry*> lost;
  for (auto& [id, entry] : foreign_) {
    if (id.owner == owner && !entry->ready()) lost.push_back(entry.get());
  }
  for (Entry* entry : lost) {
    set_ready(*entry, make_failure(ErrorKind::kOwnerDied,
                                   "the process that owned the object (" + reason +
                                       ") is gone before its value was fetched; fetch it earlier, or let a process "
                                       "that lives longer own it"));
  }
}

void ObjectTable::fail_all_pending(const PayloadPtr& failure) {
  std::vector<Entry*> pending;
  for_each([&](Entry& entry) {
    if (!entry.ready()) pending.push_back(&entry);
  });
  for (Entry* entry : pending) set_ready(*entry, failure);
}

void ObjectTable::reap() {
  // Freeing a value drops the references inside it, which may doom more: the list grows while it is walked.
  for (std::size_t i = 0; i < doomed_.size(); ++i) {
    Entry* entry = find(doomed_[i]);
    if (entry == nullptr || !entry->doomed) continue;
    entry->doomed = false;
    if (entry->held()) continue;
    if (entry->dependents > 0) {
      let_go(*entry);
    } else {
      free_entry(*entry);
    }
  }
  doomed_.clear();
  was_released_ = false;
}

// Only records of how to make other values need it: a small value stays for them, another one can be made again too,
// or is lost to them.
void ObjectTable::let_go(Entry& entry) {
  if (!entry.ready() || (!entry.payload->placement && entry.payload->refs.empty())) return;
  forget_value(entry);
  if (entry.lineage != nullptr || entry.producer != nullptr) return;
  entry.payload = make_failure(ErrorKind::kReconstruction,
                               (entry.name != nullptr ? *entry.name : std::string("an object")) +
                                   ": its value was let go of when nobody referred to it any more, and there is no "
                                   "call that could make it again for what depends on it; keep a reference to it");
}

void ObjectTable::drop_contents(const PayloadPtr& payload) {
  if (!payload) return;
  for (const auto& ref : payload->refs) {
    if (Entry* inner = find(ref); inner != nullptr && inner->local > 0) drop_hold(*inner);
  }
}

void ObjectTable::free_entry(Entry& entry) {
  const ObjectId id = entry.id;
  if (entry.lineage != nullptr) events_.lineage_unneeded(entry);
  const PayloadPtr payload = std::move(entry.payload);
  const bool was_borrowed = entry.borrowed;
  if (id.owner == self_) {
    Slot& slot = slots_[static_cast<std::uint32_t>(id.serial)];
    slot.entry = Entry{};
    slot.used = false;
    free_slots_.push_back(static_cast<std::uint32_t>(id.serial));
    --own_count_;
    if (id.kind == ObjectKind::kActorLife) events_.actor_unreferenced(id);
    if (payload && payload->placement) events_.free_placement(*payload->placement);
  } else {
    foreign_.erase(id);
    if (was_borrowed) events_.send_release(id);
  }
  drop_contents(payload);
}

}  // namespace beeline::store
