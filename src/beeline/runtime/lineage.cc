#include "beeline/runtime/lineage.h"

#include <algorithm>

namespace beeline::runtime {
namespace {

using store::Entry;
using store::Remaking;

// A value that is here, and refers to nothing, cannot be lost. One that is not there yet, or not any more, can.
bool is_elsewhere(const Entry& entry) {
  if (!entry.ready()) return true;
  return !entry.payload->is_error() && (entry.payload->placement || !entry.payload->refs.empty());
}

// About what a record takes for each item of a stream.
constexpr std::uint64_t kItemBytes = 64;

const std::string& name_of(const Entry& entry) {
  static const std::string unnamed = "an object";
  return entry.name != nullptr ? *entry.name : unnamed;
}

}  // namespace

std::string Lineage::why_not(const Entry& entry) {
  switch (entry.remaking) {
    case Remaking::kNoCall:
      return "no call made it that could run again";
    case Remaking::kKept:
      return "its call runs again";
    case Remaking::kNoRetries:
      return "its call runs at most once; with max_retries (of a method: max_task_retries) it would run again";
    case Remaking::kRetriesUsed:
      return "its call has run as often as max_retries (of a method: max_task_retries) allows";
    case Remaking::kLargeArguments:
      return "its call cannot run again, for large arguments that were passed by value are not kept; put() them and "
             "keep the reference";
    case Remaking::kEvicted:
      return "what was known of its call was dropped to save memory; raise RAY_max_lineage_bytes";
  }
  return {};
}

template <typename Visit>
void Lineage::for_each_own(const Record& record, Visit&& visit) {
  const auto visit_all = [&](const auto& ids) {
    for (const auto& id : ids) {
      if (objects_.owns(id)) visit(*objects_.find(id));
    }
  };
  visit_all(record.dependencies);
  visit_all(record.call.args->refs);
}

std::vector<Entry*> Lineage::may_be_lost(const OutgoingCall& call) {
  std::vector<Entry*> made;
  if (std::any_of(call.returns.begin(), call.returns.end(), [](const Entry* entry) { return is_elsewhere(*entry); })) {
    made.assign(call.returns.begin(), call.returns.end());
  }
  call.items.for_each(objects_, [&](std::uint64_t, Entry& item) {
    if (is_elsewhere(item)) made.push_back(&item);
  });
  return made;
}

void Lineage::keep(const OutgoingCall& call, bool failed) {
  const std::vector<Entry*> made = may_be_lost(call);
  if (made.empty()) return;
  Remaking remaking = call.remaking();
  if (failed && remaking == Remaking::kKept) remaking = Remaking::kNoCall;
  for (Entry* entry : made) entry->remaking = remaking;
  if (remaking != Remaking::kKept) {
    for (Entry* entry : made) fail_lost(*entry);
    return;
  }

  Record& record = records_.emplace_back();
  record.position = std::prev(records_.end());
  record.call.options = call.options;
  record.call.parent = call.parent;
  record.call.args = call.args;
  record.call.attempt = call.attempt;
  record.call.retries_left = call.retries_left;
  record.call.actor = call.actor;
  record.call.shape = call.shape;
  record.call.returns = call.returns;
  record.call.items = call.items;
  record.users = made.size();
  for (Entry* entry : made) entry->lineage = &record;
  // What tells of a stream's end is not lost. The next run has another one.
  for (Entry*& entry : record.call.returns) {
    if (entry->lineage == nullptr) entry = nullptr;
  }
  for (const Entry* dependency : call.dependencies) record.dependencies.push_back(dependency->id);
  for_each_own(record, [&](Entry& needed) { objects_.add_dependent(needed); });
  record.bytes = sizeof(Record) + call.args->size_bytes() +
                 (call.dependencies.size() + call.args->refs.size()) * sizeof(store::ObjectId) +
                 call.returns.size() * sizeof(Entry*) + call.items.size() * kItemBytes;
  bytes_ += record.bytes;
  while (bytes_ > max_bytes_) evict_oldest();
}

std::unique_ptr<OutgoingCall> Lineage::restart(Entry& lost) {
  Record& record = *static_cast<Record*>(lost.lineage);
  auto call = std::make_unique<OutgoingCall>(std::move(record.call));
  ++restarted_;
  ++call->attempt;
  if (call->retries_left > 0) --call->retries_left;
  for (Entry*& made : call->returns) {
    // One that is gone gets a stand-in, which goes at the call's end. Nobody wants the collection of the items then.
    if (made == nullptr) {
      made = &objects_.create(store::ObjectKind::kValue, call->options.name);
      if (call->options.streams()) call->options.flags &= static_cast<std::uint8_t>(~kCallCollects);
    } else {
      objects_.add_hold(*made);
    }
    made->lineage = nullptr;
    made->producer = call.get();
  }
  call->items.for_each(objects_, [&](std::uint64_t, Entry& item) {
    item.lineage = nullptr;
    item.producer = call.get();
  });
  call->task = call->returns.front()->id.serial;
  for (const auto& id : record.dependencies) call->dependencies.push_back(objects_.hold(id, true));
  for (const auto& id : call->args->refs) objects_.hold(id, true);
  record.call.args = call->args;  // names what drop() goes through
  drop(record);
  return call;
}

void Lineage::forget(Entry& entry) {
  Record& record = *static_cast<Record*>(entry.lineage);
  entry.lineage = nullptr;
  auto& returns = record.call.returns;
  std::replace(returns.begin(), returns.end(), &entry, static_cast<Entry*>(nullptr));
  if (--record.users == 0) drop(record);
}

// Who waits for a value that does not come again is told so.
void Lineage::fail_lost(Entry& entry) {
  if (entry.ready()) return;
  objects_.set_ready(entry, store::make_failure(store::ErrorKind::kReconstruction,
                                                name_of(entry) + ": its value is lost; " + why_not(entry)));
}

void Lineage::evict_oldest() {
  ++evicted_;
  Record& record = records_.front();
  const auto evict = [&](Entry& entry) {
    if (entry.lineage != &record) return;
    entry.lineage = nullptr;
    entry.remaking = Remaking::kEvicted;
    fail_lost(entry);
  };
  for (Entry* made : record.call.returns) {
    if (made != nullptr) evict(*made);
  }
  record.call.items.for_each(objects_, [&](std::uint64_t, Entry& item) { evict(item); });
  drop(record);
}

void Lineage::drop(Record& record) {
  for_each_own(record, [&](Entry& needed) { objects_.drop_dependent(needed); });
  bytes_ -= record.bytes;
  records_.erase(record.position);
}

}  // namespace beeline::runtime
