#include "beeline/runtime/lineage.h"

#include <algorithm>

namespace beeline::runtime {
namespace {

using store::Entry;
using store::PayloadPtr;
using store::Remaking;

// A value that is here, and refers to nothing, cannot be lost.
bool may_be_lost(const PayloadPtr& value) {
  return !value->is_error() && (value->placement || !value->refs.empty());
}

Remaking remaking_of(const OutgoingCall& call) {
  if (call.options.streams()) return Remaking::kStream;
  if (call.options.retries == 0) return Remaking::kNoRetries;
  if (call.retries_left == 0) return Remaking::kRetriesUsed;
  // They were published for this call, and go with it.
  if (call.args->placement) return Remaking::kLargeArguments;
  return Remaking::kKept;
}

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
    case Remaking::kStream:
      return "items of a stream are not made again";
    case Remaking::kEvicted:
      return "what was known of its call was dropped to save memory; raise RAY_max_lineage_bytes";
  }
  return {};
}

template <typename Visit>
void Lineage::for_each_own(const Record& record, Visit&& visit) {
  const auto visit_all = [&](const std::vector<store::ObjectId>& ids) {
    for (const auto& id : ids) {
      if (objects_.owns(id)) visit(*objects_.find(id));
    }
  };
  visit_all(record.dependencies);
  visit_all(record.call.args->refs);
}

void Lineage::keep(const OutgoingCall& call, const std::vector<PayloadPtr>& values) {
  if (std::none_of(values.begin(), values.end(), may_be_lost)) return;
  const Remaking remaking = remaking_of(call);
  for (Entry* made : call.returns) made->remaking = remaking;
  if (remaking != Remaking::kKept) return;

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
  for (Entry* made : call.returns) made->lineage = &record;
  for (const Entry* dependency : call.dependencies) record.dependencies.push_back(dependency->id);
  for_each_own(record, [&](Entry& needed) { objects_.add_dependent(needed); });
  record.bytes = sizeof(Record) + call.args->size_bytes() +
                 (call.dependencies.size() + call.args->refs.size()) * sizeof(store::ObjectId) +
                 call.returns.size() * sizeof(Entry*);
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
    // One that is gone gets a stand-in, which goes at the call's end.
    if (made == nullptr) {
      made = &objects_.create(store::ObjectKind::kValue, call->options.name);
    } else {
      objects_.add_hold(*made);
    }
    made->lineage = nullptr;
    made->producer = call.get();
  }
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
  if (std::all_of(returns.begin(), returns.end(), [](const Entry* made) { return made == nullptr; })) drop(record);
}

void Lineage::evict_oldest() {
  ++evicted_;
  Record& record = records_.front();
  for (Entry* made : record.call.returns) {
    if (made == nullptr) continue;
    made->lineage = nullptr;
    made->remaking = Remaking::kEvicted;
    if (!made->ready()) {
      objects_.set_ready(*made, store::make_failure(store::ErrorKind::kReconstruction,
                                                    name_of(*made) + ": its value is lost; " + why_not(*made)));
    }
  }
  drop(record);
}

void Lineage::drop(Record& record) {
  for_each_own(record, [&](Entry& needed) { objects_.drop_dependent(needed); });
  bytes_ -= record.bytes;
  records_.erase(record.position);
}

}  // namespace beeline::runtime
