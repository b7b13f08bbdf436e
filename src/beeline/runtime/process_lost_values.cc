// Values that lay in a process which is gone: copied here, made again, or lost.
#include <algorithm>
#include <utility>

#include "beeline/runtime/process.h"

namespace beeline::runtime {

using store::ErrorKind;
using store::make_failure;

WaitOutcome Process::wait_lost(Entry& entry, const store::PayloadPtr& known, Deadline deadline) {
  Locked locked(lock_);
  const ProcessIndex holder = known->placement->holder;
  if (!stopped_ && !peers_->has_link(holder) && !peers_->is_gone(holder)) peers_->connect(holder);
  return progress_.wait(locked, deadline, [&] { return entry.payload != known || peers_->is_gone(holder); });
}

WaitOutcome Process::ask_again(Entry& entry, const store::PayloadPtr& known, Deadline deadline) {
  Locked locked(lock_);
  const auto is_settled = [&] {
    return entry.payload != known || !is_stale(entry) || (entry.id.owner != self_ && peers_->is_gone(entry.id.owner));
  };
  if (is_settled()) return WaitOutcome::kDone;
  if (entry.id.owner != self_) peers_->send(entry.id.owner, Message::kSubscribe, view_of(entry.id));
  return wait_giving_way(locked, deadline, is_settled);
}

// A producer that is gone may have said that it told us a value while that was still waiting for room in our ring:
// whoever owns what is awaited here tells it again.
void Process::ask_owners() {
  std::vector<Entry*> awaited;
  objects_.for_each([&](Entry& entry) {
    if (entry.id.owner != self_ && !entry.ready() && !entry.watchers.empty()) awaited.push_back(&entry);
  });
  for (Entry* entry : awaited) subscribe(*entry);
}

bool Process::is_stale(const Entry& entry) const {
  if (!entry.ready() || !entry.payload->needs_holder()) return false;
  // What rehome() has left to its transport is told to whoever asks.
  if (entry.id.owner == self_ && entry.payload->placement->way == store::Way::kProgramTransport) return false;
  return peers_->is_gone(entry.payload->placement->holder);
}

// The worker that held them is gone; what it stored (not what it shared in place) will live on in our arena.
void Process::rehome(ProcessIndex holder, const std::string& reason) {
  std::vector<Entry*> affected;
  objects_.for_each([&](Entry& entry) {
    if (entry.id.owner == self_ && entry.payload && entry.payload->needs_holder() &&
        entry.payload->placement->holder == holder) {
      affected.push_back(&entry);
    }
  });
  for (Entry* entry : affected) {
    if (entry->payload->placement->way == store::Way::kProgramTransport) {
      // Its transport may find the tensors all the same, or says why not.
      if (may_be_made_again(*entry)) lose(*entry, reason, "");
      continue;
    }
    auto paths = paths_to(holder);
    if (entry->payload->placement->direct) {
      lose(*entry, reason, "a direct tensor lives as long as its producer");
    } else if (!paths) {
      lose(*entry, reason, "");
    } else {
      to_rehome_.push_back({entry->id, entry->payload, *paths, reason});
    }
  }
  if (!to_rehome_.empty()) progress_.request_chores();
}

void Process::say_of_remaking(const Entry& entry) {
  if (std::exchange(said_of_remaking_, true)) return;
  notify_program((entry.name != nullptr ? *entry.name : std::string("a call")) +
                 " runs again: its value was lost with the process that held it, or let go of and is needed to make "
                 "another one again. This is said once; `beeline status` counts on");
}

// Its call may be on the way of running again already, or its stream of being given again.
bool Process::may_be_made_again(const Entry& entry) {
  return entry.lineage != nullptr || entry.producer != nullptr;
}

// Who asks for it next, or has asked already, has it made again, if that can be.
void Process::lose(Entry& entry, const std::string& reason, const std::string& more) {
  ++transfers_.lost_objects;
  if (may_be_made_again(entry)) {
    objects_.forget_value(entry);
    if (!entry.subscribers.empty()) subscribe(entry);
    return;
  }
  objects_.replace(entry, make_failure(ErrorKind::kReconstruction,
                                       (entry.name != nullptr ? *entry.name : std::string("an object")) +
                                           ": its value lay in a process that is gone (" + reason +
                                           (more.empty() ? ")" : "); " + more) + "; " + Lineage::why_not(entry)));
}

// On the helper thread: copying takes long. Until then we alone can open such a value, and nobody else is told it.
void Process::copy_lost_values() {
  for (;;) {
    LostValue lost;
    std::shared_ptr<memory::Arena> arena;
    {
      const Locked locked(lock_);
      if (stopped_ || to_rehome_.empty()) return;
      lost = std::move(to_rehome_.back());
      to_rehome_.pop_back();
      arena = arena_;
    }
    auto copy = copy_here(*arena, *lost.holder, *lost.value);
    const Locked locked(lock_);
    if (stopped_) return;
    Entry* entry = objects_.find(lost.id);
    const bool wanted = entry != nullptr && entry->payload == lost.value;
    if (copy) {
      add_publication(*(*copy)->placement, {}, true);
      // Others may know the old place alone: its file, if there is one, stays as long as the object.
      publications_.at((*copy)->placement->publication.slot).inherited = {lost.value->placement->holder,
                                                                          lost.value->placement->publication};
      if (!wanted) retire((*copy)->placement->publication);
    }
    if (wanted && copy) {
      inheriting_ = lost.value->placement->publication;
      objects_.replace(*entry, std::move(*copy));
      inheriting_.reset();
      ++transfers_.rehomed_objects;
    } else if (wanted) {
      lose(*entry, lost.reason, "it could not be copied: " + copy.status().message());
    }
    if (to_rehome_.empty()) release_lost_arenas();
    progress_.notify();
  }
}

// What a dead process held is memory of ours as long as we keep its arena.
void Process::release_lost_arenas() {
  if (lost_holders_.empty()) return;
  std::set<ProcessIndex> needed;
  objects_.for_each([&](Entry& entry) {
    if (entry.payload && !entry.payload->is_inline()) needed.insert(entry.payload->placement->holder);
  });
  std::erase_if(lost_holders_, [&](ProcessIndex holder) {
    if (needed.contains(holder)) return false;
    mapped_.forget(holder);
    peers_->forget_arena(holder);
    return true;
  });
}

}  // namespace beeline::runtime
