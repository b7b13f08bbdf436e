#include "beeline/runtime/executor.h"

#include <algorithm>
#include <utility>

#include "beeline/runtime/process.h"

namespace beeline::runtime {
namespace {

using store::Entry;
using store::ErrorKind;
using store::PayloadPtr;

}  // namespace

void IncomingCall::on_ready(Entry& entry) {
  (void)entry;
  if (--unresolved == 0) executor->resolved(*this);
}

Status Executor::on_call(ProcessIndex from, Reader& reader) {
  auto owned = std::make_unique<IncomingCall>();
  IncomingCall& call = *owned;
  call.executor = this;
  call.caller = from;
  call.header = reader.read<CallHeader>();
  call.name = std::string(as_text(reader.read_bytes(call.header.name_size)));
  const Key key{from, call.header.task};
  if (!reader.ok() || !calls_.try_emplace(key, std::move(owned)).second) {
    return {Code::kCorrupt, "a call that ends early or is there already"};
  }
  // One more than there are arguments, until all is read: an argument that fails at once must not start the call.
  call.unresolved = 1;
  if (const auto status = read_arguments(call, reader); !status) {
    release(call);
    return status;
  }
  if ((blocked_ > 0 || leaving_) && call.header.actor == 0) {
    bounce(call);
    return Status::ok();
  }
  if (call.header.function != 0 && !functions_.contains(call.header.function)) {
    ++call.unresolved;
    auto& waiting = awaiting_function_[call.header.function];
    waiting.push_back(key);
    if (waiting.size() == 1) process_.peers().send(from, Message::kFunctionRequest, view_of(call.header.function));
  }
  if (is_assigned(call)) {
    take_place(call);
  } else {
    unassigned_.push_back(&call);
  }
  return Status::ok();
}

// Whether this process was told of what the call is for: its actor, or the lease it came on.
bool Executor::is_assigned(const IncomingCall& call) const {
  return call.header.actor != 0 ? is_actor_ : call.caller == lessee_ && call.header.lease == lease_;
}

// Lets in the calls that waited for what has just been assigned, in the order in which they came.
void Executor::admit() {
  for (IncomingCall* call : std::exchange(unassigned_, {})) {
    if (is_assigned(*call)) {
      take_place(*call);
    } else {
      unassigned_.push_back(call);
    }
  }
}

// All is known of the call but, perhaps, the values of arguments.
void Executor::take_place(IncomingCall& call) {
  if (ordered_ && call.header.actor != 0) lanes_[call.caller].push_back(&call);
  if (--call.unresolved == 0) resolved(call);
}

void Executor::become_actor(bool ordered, const std::vector<std::uint32_t>& limits) {
  is_actor_ = true;
  ordered_ = ordered;
  for (const auto limit : limits) groups_.push_back({.limit = limit, .admitted = 0, .waiting = {}});
  admit();
}

void Executor::serve_lease(ProcessIndex lessee, LeaseId lease) {
  lessee_ = lessee;
  lease_ = lease;
  leaving_ = false;  // the lessee that was to know of it is gone
  admit();
}

Status Executor::read_arguments(IncomingCall& call, Reader& reader) {
  auto& objects = process_.objects();
  for (std::uint32_t i = 0; i < call.header.dependency_count; ++i) {
    const auto record = reader.read<DependencyHeader>();
    if (!reader.ok()) break;
    std::shared_ptr<store::Payload> attached;
    if (record.state == DependencyHeader::kAttached) {
      BEELINE_ASSIGN(attached, store::decode_payload(reader));
    }
    // The caller holds it until we answer, so the owner need not know of us.
    Entry* entry = objects.hold(record.id, false);
    if (entry == nullptr) return {Code::kCorrupt, "an argument names an object of this process that is gone"};
    call.dependencies.push_back(entry);
    if (entry->ready()) continue;
    if (attached) {
      objects.set_ready(*entry, std::move(attached));
      continue;
    }
    ++call.unresolved;
    objects.watch(*entry, call);
    const bool was_early = early_.erase(record.id) > 0;
    if (record.state == DependencyHeader::kSubscribe || was_early || process_.peers().is_gone(record.producer)) {
      process_.subscribe(*entry);
    }
  }
  BEELINE_ASSIGN(call.args, store::decode_payload(reader));
  if (!reader.ok()) return {Code::kCorrupt, "a call that ends early"};
  for (const auto& ref : call.args->refs) {
    if (Entry* entry = objects.hold(ref, true)) call.held.push_back(entry);
  }
  return Status::ok();
}

void Executor::resolved(IncomingCall& call) {
  if (ordered_ && call.header.actor != 0) {
    advance(call.caller);
  } else {
    make_runnable(call);
  }
}

// Calls at the head of a caller's lane that have all their arguments may run.
void Executor::advance(ProcessIndex caller) {
  const auto it = lanes_.find(caller);
  if (it == lanes_.end()) return;
  auto& lane = it->second;
  while (!lane.empty() && lane.front()->unresolved == 0) {
    IncomingCall* call = lane.front();
    lane.pop_front();
    make_runnable(*call);
  }
  if (lane.empty()) lanes_.erase(it);
}

// Null where nothing limits the call but who takes it.
Executor::Group* Executor::group_of(const IncomingCall& call) {
  if (groups_.empty()) return nullptr;
  return &groups_[call.header.group < groups_.size() ? call.header.group : 0];
}

// The call's place goes to the next one that waits for it.
void Executor::leave_group(IncomingCall& call) {
  if (!std::exchange(call.in_group, false)) return;
  Group& group = *group_of(call);
  --group.admitted;
  if (group.waiting.empty()) return;
  IncomingCall* next = group.waiting.front();
  group.waiting.pop_front();
  make_runnable(*next);
}

void Executor::make_runnable(IncomingCall& call) {
  if (Group* group = group_of(call)) {
    if (group->admitted == group->limit) {
      group->waiting.push_back(&call);
      return;
    }
    ++group->admitted;
    call.in_group = true;
  }
  call.queued = true;
  runnable_.push_back(&call);
  if (on_runnable) on_runnable();
}

IncomingCall* Executor::take() {
  if (runnable_.empty()) return nullptr;
  IncomingCall* call = runnable_.front();
  runnable_.pop_front();
  call->queued = false;
  call->started = true;
  call->started_at = Clock::now();
  ++running_;
  return call;
}

void Executor::finish(IncomingCall& call, std::vector<PayloadPtr> results, bool retryable) {
  auto& peers = process_.peers();
  ResultHeader header;
  header.task = call.header.task;
  header.attempt = call.header.attempt;
  header.return_count = static_cast<std::uint16_t>(results.size());
  header.retryable = retryable ? 1 : 0;
  header.leaving = leaving_ ? 1 : 0;
  if (call.started) {
    const auto took = Nanos(Clock::now() - call.started_at).count();
    header.execution_ns = static_cast<std::uint64_t>(took);
    executed_.add() = {.task = header.task,
                       .caller = call.caller,
                       .attempt = header.attempt,
                       .started_ns = Nanos(call.started_at.time_since_epoch()).count(),
                       .took_ns = took};
  }
  std::vector<store::ObjectId> refs;
  for (const auto& result : results) refs.insert(refs.end(), result->refs.begin(), result->refs.end());
  if (!refs.empty()) header.refs_token = process_.pin_for(call.caller, refs);

  Bytes message;
  Writer writer(message);
  writer.write(header);
  for (const auto& result : results) store::encode_payload(*result, writer);
  // Consumers first: they wait for it, the owner only records it. A retried failure is told to nobody but the owner.
  if (!retryable) {
    bool reached = true;
    for (const auto& forward : call.forwards) {
      const auto& result = results.size() > forward.return_index ? results[forward.return_index] : results.front();
      Bytes object;
      Writer object_writer(object);
      object_writer.write(forward.id);
      store::encode_payload(*result, object_writer);
      if (forward.consumer == process_.self()) {
        if (Entry* entry = process_.objects().find(forward.id)) process_.objects().set_ready(*entry, result);
      } else {
        reached = peers.send(forward.consumer, Message::kObject, object) && reached;
      }
      // From the first that was not reached the owner tells them.
      if (reached) ++header.forwarded;
    }
    std::memcpy(message.data(), &header, sizeof header);
  }
  const bool delivered = peers.send(call.caller, Message::kResult, message);
  if (!delivered) {
    // The owner is gone: nobody will ever free what was published for it.
    for (const auto& result : results) {
      if (result->placement) process_.free_placement_now(*result->placement);
    }
    process_.unpin(header.refs_token);
  }
  if (call.started) --running_;
  release(call);
}

bool Executor::send_item(IncomingCall& call, const PayloadPtr& item) {
  ItemHeader header;
  header.task = call.header.task;
  header.index = call.yielded++;
  header.attempt = call.header.attempt;
  if (!item->refs.empty()) header.refs_token = process_.pin_for(call.caller, item->refs);
  Bytes message;
  Writer writer(message);
  writer.write(header);
  store::encode_payload(*item, writer);
  if (process_.peers().send(call.caller, Message::kItem, message)) return true;
  if (item->placement) process_.free_placement_now(*item->placement);
  process_.unpin(header.refs_token);
  return false;
}

void Executor::on_taken(ProcessIndex from, const TakenRecord& record) {
  const auto it = calls_.find(Key{from, record.task});
  if (it == calls_.end()) return;
  IncomingCall& call = *it->second;
  if (record.count == TakenRecord::kAll) {
    call.is_unwanted = true;
  } else {
    call.taken = std::max(call.taken, record.count);
  }
  if (call.started && on_room) on_room(call);
}

// Takes a call that has not started out of whatever it waits in.
void Executor::withdraw(IncomingCall& call) {
  std::erase(runnable_, &call);
  std::erase(unassigned_, &call);
  if (Group* group = group_of(call)) std::erase(group->waiting, &call);
  if (const auto lane = lanes_.find(call.caller); lane != lanes_.end()) std::erase(lane->second, &call);
}

void Executor::release(IncomingCall& call) {
  leave_group(call);
  auto& objects = process_.objects();
  for (Entry* dependency : call.dependencies) {
    if (call.unresolved > 0) objects.unwatch(*dependency, call);
    objects.drop_hold(*dependency);
  }
  for (Entry* held : call.held) objects.drop_hold(*held);
  const Key key{call.caller, call.header.task};
  // It may come again, and must then wait for its function once.
  if (const auto it = awaiting_function_.find(call.header.function); it != awaiting_function_.end()) {
    std::erase(it->second, key);
  }
  calls_.erase(key);
}

void Executor::set_blocked(bool blocked) {
  blocked_ = blocked ? blocked_ + 1 : blocked_ - 1;
  if (blocked) bounce_unstarted();
}

void Executor::leave() {
  leaving_ = true;
  bounce_unstarted();
}

void Executor::bounce_unstarted() {
  std::vector<IncomingCall*> waiting;
  for (auto& [key, call] : calls_) {
    if (!call->started && call->header.actor == 0) waiting.push_back(call.get());
  }
  for (IncomingCall* call : waiting) bounce(*call);
}

void Executor::bounce(IncomingCall& call) {
  withdraw(call);
  process_.peers().send(call.caller, Message::kRejected, view_of(call.header.task));
  release(call);
}

void Executor::on_forward(const ForwardRecord& record) {
  // Whoever asks is the call's owner; a call that is over is told by the owner itself.
  const auto it = calls_.find(Key{record.id.owner, record.task});
  if (it == calls_.end() || it->second->header.attempt != record.attempt) return;
  it->second->forwards.push_back(record);
  process_.peers().connect(record.consumer);
}

void Executor::on_cancel_message(ProcessIndex from, const CancelRecord& record) {
  const auto it = calls_.find(Key{from, record.task});
  if (it == calls_.end()) return;
  IncomingCall& call = *it->second;
  call.cancelled.store(true);
  if (call.started) {
    if (record.recursive != 0) process_.cancel_children({from, record.task}, record.force != 0);
    if (on_cancel) on_cancel(call, record.force != 0);
    return;
  }
  withdraw(call);
  const auto failure =
      store::make_failure(ErrorKind::kCancelled, call.name + " was cancelled before it started", call.header.actor);
  finish(call, {failure}, false);
  advance(from);
}

void Executor::on_function(std::uint64_t key, std::string blob) {
  functions_[key] = std::make_shared<const std::string>(std::move(blob));
  const auto it = awaiting_function_.find(key);
  if (it == awaiting_function_.end()) return;
  const auto waiting = std::move(it->second);
  awaiting_function_.erase(it);
  for (const auto& call_key : waiting) {
    const auto call = calls_.find(call_key);
    if (call != calls_.end() && --call->second->unresolved == 0) resolved(*call->second);
  }
}

control::TaskState Executor::state_of(const IncomingCall& call) const {
  using control::TaskState;
  const bool is_function = call.header.actor == 0;
  if (call.started) return is_function && blocked_ > 0 ? TaskState::kRunningInGet : TaskState::kRunning;
  // One is for the assignment that is to come.
  if (!is_assigned(call)) return call.unresolved > 1 ? TaskState::kPendingArguments : TaskState::kSent;
  if (call.unresolved > 0) return TaskState::kPendingArguments;
  return is_function ? TaskState::kSent : TaskState::kWaitsForTurn;
}

std::shared_ptr<const std::string> Executor::function(std::uint64_t key) const {
  const auto it = functions_.find(key);
  return it == functions_.end() ? nullptr : it->second;
}

void Executor::on_process_lost(ProcessIndex process) {
  std::vector<IncomingCall*> orphans;
  for (auto& [key, call] : calls_) {
    if (key.caller != process) continue;
    call->caller_gone.store(true);
    if (!call->started) {
      orphans.push_back(call.get());
    } else if (call->streams() && on_room) {
      on_room(*call);  // one that pauses hears of it
    }
  }
  for (IncomingCall* call : orphans) {
    withdraw(*call);
    release(*call);
  }
  lanes_.erase(process);
  std::erase_if(early_, [&](const store::ObjectId& id) { return id.owner == process; });
  // Functions that it may have been asked for and others wait for as well: one of them is asked.
  for (auto it = awaiting_function_.begin(); it != awaiting_function_.end();) {
    auto& [key, waiting] = *it;
    std::erase_if(waiting, [&](const Key& call) { return call.caller == process; });
    if (waiting.empty()) {
      it = awaiting_function_.erase(it);
      continue;
    }
    process_.peers().send(waiting.front().caller, Message::kFunctionRequest, view_of(key));
    ++it;
  }
}

}  // namespace beeline::runtime
