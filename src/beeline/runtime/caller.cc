#include "beeline/runtime/caller.h"

#include <algorithm>
#include <cstdlib>

#include "beeline/runtime/process.h"

namespace beeline::runtime {
namespace {

using store::Entry;
using store::ErrorKind;
using store::make_failure;
using store::PayloadPtr;

thread_local CallKey executing_call;

constexpr std::uint64_t kMaxLineageBytes = 256u << 20;

// By Ray's name for it.
std::uint64_t max_lineage_bytes() {
  const char* const setting = std::getenv("RAY_max_lineage_bytes");
  return setting != nullptr ? std::strtoull(setting, nullptr, 10) : kMaxLineageBytes;
}

EndedCall ended_call(const OutgoingCall& call) {
  const auto& options = call.options;
  return {.task = call.task,
          .name = options.name,
          .function = options.function_name != nullptr ? options.function_name : options.name,
          .shape = call.shape,
          .actor = call.actor != nullptr ? call.actor->id : 0,
          .parent_task = call.parent.task,
          .parent_caller = call.parent.caller,
          .worker = call.worker,
          .attempt = call.attempt};
}

}  // namespace

PayloadPtr cancelled_before_start(const OutgoingCall& call) {
  return make_failure(ErrorKind::kCancelled, *call.options.name + " was cancelled before it started");
}

CallKey set_executing_call(CallKey call) {
  return std::exchange(executing_call, call);
}

Caller::Caller(Process& process, store::ObjectTable& objects)
    : process_(process), streams_(objects), lineage_(objects, max_lineage_bytes()) {}

OutgoingCall* Caller::make_call(CallOptions options, PayloadPtr args, const std::vector<Entry*>& dependencies,
                                std::vector<Entry*>& returns) {
  auto& objects = process_.objects();
  auto* call = new OutgoingCall;
  call->parent = executing_call;
  call->retries_left = options.retries;
  call->options = std::move(options);
  call->args = std::move(args);
  for (const auto& ref : call->args->refs) objects.hold(ref, true);
  for (Entry* dependency : dependencies) objects.add_hold(*dependency);
  call->dependencies.assign(dependencies.begin(), dependencies.end());
  // A call without returns still has an object, which tells of its end.
  const std::uint32_t count = std::max<std::uint32_t>(1, call->options.return_count);
  for (std::uint32_t i = 0; i < count; ++i) {
    Entry& entry = objects.create(store::ObjectKind::kValue, call->options.name);
    entry.producer = call;
    entry.call_site = call->options.call_site;
    call->returns.push_back(&entry);
    if (i < call->options.return_count) {
      objects.add_hold(entry);
      returns.push_back(&entry);
    }
  }
  call->task = call->returns.front()->id.serial;
  if (call->options.streams()) streams_.open(call->task, call->options.name);
  return call;
}

std::vector<Entry*> Caller::call_actor(ActorTarget& actor, CallOptions options, PayloadPtr args,
                                       const std::vector<Entry*>& dependencies) {
  std::vector<Entry*> returns;
  OutgoingCall* call = make_call(std::move(options), std::move(args), dependencies, returns);
  call->actor = &actor;
  actor.queued.push_back(call);
  const auto state = static_cast<control::ActorState>(actor.latest.state);
  if (actor.known && state == control::ActorState::kDead) {
    pump(actor);
  } else if (actor.known && state == control::ActorState::kRestarting && call->retries_left == 0) {
    // At most once: a call to an actor that is not there now is not kept for later (as Ray).
    actor.queued.pop_back();
    fail(*call, make_failure(ErrorKind::kActorUnavailable,
                             "the actor is restarting (" + actor.latest.message +
                                 "); call again, or set max_task_retries to have calls kept",
                             actor.id, actor.latest.class_name));
  } else {
    pump(actor);
  }
  return returns;
}

ActorTarget& Caller::actor(ActorId id) {
  auto& slot = actors_[id];
  if (!slot) {
    slot = std::make_unique<ActorTarget>();
    slot->id = id;
    process_.tell_daemon(control::Type::kWatchActor, control::WatchActor{id});
  }
  return *slot;
}

ActorTarget* Caller::find_actor(ActorId id) {
  const auto it = actors_.find(id);
  return it == actors_.end() ? nullptr : it->second.get();
}

// ----- sending

void Caller::send(OutgoingCall& call, ProcessIndex to) {
  auto& peers = process_.peers();
  call.sent_to = to;
  call.worker = to;
  call.forwards.clear();
  CallHeader header;
  header.task = call.task;
  header.actor = call.actor != nullptr ? call.actor->id : 0;
  header.function = call.options.function;
  header.attempt = call.attempt;
  header.return_count = static_cast<std::uint16_t>(call.options.return_count);
  header.dependency_count = static_cast<std::uint16_t>(call.dependencies.size());
  header.mode = call.options.mode;
  header.flags = call.options.flags;
  if (call.actor != nullptr) {
    header.group = call.options.group;
  } else {
    header.lease = call.lease;
  }
  if (streams_.contains(call.task) && !call.options.collects()) header.window = call.options.window;
  const std::string& name = call.actor != nullptr ? *call.options.method : *call.options.name;
  header.name_size = static_cast<std::uint16_t>(name.size());

  std::vector<std::pair<ProcessIndex, ForwardRecord>> forwards;
  // A call whose arguments are still to come can wait until a busy receiver looks.
  auto urgency = Urgency::kNow;
  scratch_.clear();
  Writer writer(scratch_);
  writer.write(header);
  writer.append(as_bytes(name));
  for (Entry* dependency : call.dependencies) {
    DependencyHeader record;
    record.id = dependency->id;
    auto* producer = static_cast<OutgoingCall*>(dependency->producer);
    if (dependency->ready() && !process_.is_stale(*dependency)) {
      record.state = DependencyHeader::kAttached;
    } else if (producer == nullptr) {
      // Somebody else's object: the receiver asks its owner. Our own hold keeps it alive meanwhile.
      record.state = DependencyHeader::kSubscribe;
    } else {
      record.state = DependencyHeader::kWillCome;
      urgency = Urgency::kSoon;
      const auto at = std::find(producer->returns.begin(), producer->returns.end(), dependency);
      // Items of streams come here, and their collection is made here.
      const bool goes_by_here = at == producer->returns.end() || producer->options.collects();
      if (producer->sent_to != 0 && !goes_by_here) {
        const auto index = static_cast<std::uint32_t>(at - producer->returns.begin());
        producer->forwards.push_back({index, to});
        ForwardRecord forward;
        forward.task = producer->task;
        forward.id = dependency->id;
        forward.return_index = index;
        forward.consumer = to;
        forward.attempt = producer->attempt;
        forwards.emplace_back(producer->sent_to, forward);
        record.producer = producer->sent_to;
      } else {
        dependency->subscribers.push_back(to);
      }
    }
    writer.write(record);
    if (record.state == DependencyHeader::kAttached) store::encode_payload(*dependency->payload, writer);
  }
  store::encode_payload(*call.args, writer);
  // What an actor is sent once is its alone: calls that wait there need not be here as well.
  const bool is_last = call.actor != nullptr && call.retries_left == 0;
  if (is_last && call.args->refs.empty() && !call.args->placement) call.args.reset();
  // A process that is gone: the daemon's word on the actor, or on_process_lost for a worker, settles the call, which
  // may be no more then.
  const TakenRecord taken{header.task, streams_.taken(header.task)};
  const bool is_sent = peers.send(to, Message::kCall, scratch_, {}, urgency);
  if (is_sent && header.window > 0 && taken.count > 0) peers.send(to, Message::kTaken, view_of(taken));
  // After the call: what tells of a producer's end is told to the consumer behind it.
  for (const auto& [producer, forward] : forwards) {
    if (peers.is_delivered(to)) {
      // It looks for these before it sends results.
      peers.send(producer, Message::kForward, view_of(forward), {}, Urgency::kSoon);
    } else {
      tell_ourselves(forward);
    }
  }
}

// The value could overtake the call that waits for it, and be gone there when that comes: it goes the call's way.
void Caller::tell_ourselves(const ForwardRecord& forward) {
  Entry* entry = process_.objects().find(forward.id);
  auto* producer = entry != nullptr ? static_cast<OutgoingCall*>(entry->producer) : nullptr;
  if (producer == nullptr) return;  // it has ended on the way here, and told those of whom its worker was not
  const auto is_it = [&](const OutgoingCall::Forward& asked) {
    return asked.return_index == forward.return_index && asked.consumer == forward.consumer;
  };
  const auto last = std::find_if(producer->forwards.rbegin(), producer->forwards.rend(), is_it);
  if (last == producer->forwards.rend()) return;
  producer->forwards.erase(std::next(last).base());
  entry->subscribers.push_back(forward.consumer);
}

void Caller::pump(ActorTarget& actor) {
  if (!actor.known) return;
  switch (static_cast<control::ActorState>(actor.latest.state)) {
    case control::ActorState::kPending:
    case control::ActorState::kRestarting:
      return;
    case control::ActorState::kStarting:
    case control::ActorState::kAlive:
      if (actor.condemned) return;
      while (!actor.queued.empty()) {
        OutgoingCall* call = actor.queued.front();
        actor.queued.pop_front();
        actor.in_flight.push_back(*call);
        send(*call, actor.latest.process);
      }
      return;
    case control::ActorState::kDead: {
      auto doomed = std::move(actor.queued);
      actor.queued.clear();
      for (OutgoingCall* call : doomed) fail(*call, death_of(actor, *call->options.name));
      return;
    }
  }
}

PayloadPtr Caller::death_of(const ActorTarget& actor, const std::string& call_name) const {
  const auto& update = actor.latest;
  const auto cause = static_cast<control::DeathCause>(update.cause);
  if (cause == control::DeathCause::kInitFailed) {
    auto payload = std::make_shared<store::Payload>();
    payload->skeleton = std::string(as_text(update.error));
    payload->failure = std::make_unique<store::Failure>(
        store::Failure{ErrorKind::kActorInitFailed, update.message, actor.id, update.class_name});
    return payload;
  }
  const auto kind = cause == control::DeathCause::kUnschedulable   ? ErrorKind::kInfeasible
                    : cause == control::DeathCause::kGroupRemoved  ? ErrorKind::kGroupRemoved
                    : cause == control::DeathCause::kNoEnvironment ? ErrorKind::kNoEnvironment
                                                                   : ErrorKind::kActorDied;
  return make_failure(kind, call_name + ": " + update.message, actor.id, update.class_name);
}

// ----- endings

Status Caller::on_result(ProcessIndex from, Reader& reader) {
  const auto header = reader.read<ResultHeader>();
  std::vector<PayloadPtr> values;
  for (std::uint32_t i = 0; i < header.return_count; ++i) {
    BEELINE_ASSIGN(auto value, store::decode_payload(reader));
    values.push_back(std::move(value));
  }
  if (!reader.ok()) return {Code::kCorrupt, "a result that ends early"};
  if (header.leaving != 0) on_leaving(from);
  OutgoingCall* call = find_call(from, header.task, header.attempt);
  if (call == nullptr) {
    ++stale_results_;
    refuse_values(from, values, header.refs_token);
    return Status::ok();
  }
  if (call->shape != nullptr) {
    auto& mean = call->shape->mean_ns;
    const auto took = static_cast<double>(header.execution_ns);
    // Slow calls count at once, so that nothing queues behind them; quick ones bring the mean down gradually.
    mean = took > mean ? took : mean * 0.7 + took * 0.3;
  }
  const bool failed = !values.empty() && values.front()->is_error();
  if (failed && header.retryable != 0 && !call->cancelled && retry(*call, *values.front())) return Status::ok();
  const auto forwards = std::move(call->forwards);
  const auto returns = call->returns;
  complete(*call, std::move(values));
  for (std::size_t i = header.forwarded; i < forwards.size(); ++i) {
    Entry* late = returns[forwards[i].return_index];
    process_.send_object_to(forwards[i].consumer, *late);
  }
  for (Entry* held : returns) process_.objects().drop_hold(*held);
  if (header.refs_token != 0) process_.peers().send(from, Message::kRefsTaken, view_of(header.refs_token));
  return Status::ok();
}

OutgoingCall* Caller::find_call(ProcessIndex from, std::uint64_t task, std::uint32_t attempt) {
  Entry* entry = process_.objects().find({process_.self(), store::ObjectKind::kValue, task});
  auto* call = entry != nullptr ? static_cast<OutgoingCall*>(entry->producer) : nullptr;
  return call != nullptr && call->attempt == attempt && call->sent_to == from ? call : nullptr;
}

void Caller::refuse_values(ProcessIndex from, const std::vector<PayloadPtr>& values, std::uint64_t refs_token) {
  for (const auto& value : values) {
    if (value->placement) process_.free_placement_now(*value->placement);
  }
  if (refs_token != 0) process_.peers().send(from, Message::kRefsTaken, view_of(refs_token));
}

// Takes the call out of its target's list.
void Caller::unlink(OutgoingCall& call) {
  if (call.sent_to == 0) return;
  if (call.actor != nullptr) {
    call.actor->in_flight.erase(call);
  } else if (const auto it = call.shape->leases.find(call.lease); it != call.shape->leases.end()) {
    it->second.in_flight.erase(call);
  }
  call.sent_to = 0;
}

// On return the holds on call.returns are the caller's to drop.
void Caller::complete(OutgoingCall& call, std::vector<PayloadPtr> values) {
  auto& objects = process_.objects();
  if (values.empty() || !values.front()->is_error()) {
    history_.finished() = ended_call(call);
  } else {
    history_.failed(ended_call(call), *values.front());
  }
  unlink(call);
  if (values.empty()) values.push_back(std::make_shared<store::Payload>());
  const bool failed = values.front()->is_error();
  if (call.options.collects() && !failed && !call.returns.front()->ready()) {
    values = {process_.collect(streams_.items(call.task))};
  }
  for (Entry* entry : call.returns) entry->producer = nullptr;
  for (std::size_t i = 0; i < call.returns.size(); ++i) {
    const PayloadPtr& value = values[i < values.size() ? i : 0];
    if (!call.returns[i]->ready()) {
      objects.set_ready(*call.returns[i], value);
    } else if (i < values.size() && value->placement) {
      process_.free_placement_now(*value->placement);  // made again for the sake of another return
    }
  }
  if (call.options.streams()) streams_.end(call, failed ? values.front() : nullptr);
  lineage_.keep(call, failed);
  Entry* const awaited = item_awaited_in_vain(call);
  if (call.options.collects()) streams_.drop(call.task);
  for (Entry* dependency : call.dependencies) objects.drop_hold(*dependency);
  process_.release_args(call.args);
  Shape* shape = call.shape;
  delete &call;
  if (awaited != nullptr) process_.subscribe(*awaited);
  if (shape != nullptr) pump(*shape);
}

void Caller::fail(OutgoingCall& call, const PayloadPtr& failure) {
  const auto returns = call.returns;
  const auto forwards = std::move(call.forwards);
  complete(call, {failure});
  for (const auto& forward : forwards) process_.send_object_to(forward.consumer, *returns[forward.return_index]);
  for (Entry* held : returns) process_.objects().drop_hold(*held);
}

// A new attempt: its worker is asked afresh, and consumers that the last one was to tell are told by us.
void Caller::start_over(OutgoingCall& call) {
  ++call.attempt;
  call.yielded = 0;
  for (const auto& forward : call.forwards) {
    call.returns[forward.return_index]->subscribers.push_back(forward.consumer);
  }
  call.forwards.clear();
}

// Submits the call again if it may be; the next attempt's consumers are told by us.
bool Caller::retry(OutgoingCall& call, const store::Payload& error) {
  if (call.retries_left == 0) return false;
  if (call.retries_left > 0) --call.retries_left;
  history_.failed(ended_call(call), error);
  unlink(call);
  start_over(call);
  queue(call);
  return true;
}

void Caller::queue(OutgoingCall& call) {
  if (call.actor != nullptr) {
    call.actor->queued.push_back(&call);
    pump(*call.actor);
  } else {
    call.shape->queued.push_back(&call);
    pump(*call.shape);
  }
}

void Caller::make_again(Entry& lost) {
  if (lost.ready() || lost.producer != nullptr) return;
  OutgoingCall* call = lineage_.restart(lost).release();
  reopen_stream(*call);
  queue(*call);
}

void Caller::note_lost_attempt(const OutgoingCall& call, ErrorKind kind, const std::string& reason) {
  history_.failed(ended_call(call), *make_failure(kind, *call.options.name + ": " + reason));
}

void Caller::on_actor_update(const control::ActorUpdate& update) {
  ActorTarget* actor = find_actor(update.actor);
  if (actor == nullptr) return;
  const auto before = actor->known ? actor->latest : control::ActorUpdate{};
  const bool was_known = actor->known;
  actor->known = true;
  actor->latest = update;
  const auto state = static_cast<control::ActorState>(update.state);
  const bool lost_process = was_known && before.process != 0 &&
                            (update.process != before.process || update.incarnation != before.incarnation ||
                             state == control::ActorState::kDead || state == control::ActorState::kRestarting);
  if (lost_process || state == control::ActorState::kDead) {
    // Results that arrived before the end count; what is left was not finished.
    auto unfinished = std::move(actor->in_flight);
    std::deque<OutgoingCall*> again;
    while (OutgoingCall* call = unfinished.pop_front()) {
      call->sent_to = 0;
      const bool may_retry = state != control::ActorState::kDead && call->retries_left != 0 && !call->cancelled;
      if (!may_retry) {
        if (state == control::ActorState::kDead) {
          fail(*call, death_of(*actor, *call->options.name));
        } else {
          fail(*call, make_failure(ErrorKind::kActorUnavailable,
                                   *call->options.name + ": the actor died while it ran the call (" + update.message +
                                       ") and is being restarted; whether the call took effect is unknown. Call "
                                       "again, or set max_task_retries",
                                   actor->id, update.class_name));
        }
        continue;
      }
      if (call->retries_left > 0) --call->retries_left;
      note_lost_attempt(*call, ErrorKind::kActorUnavailable, update.message);
      start_over(*call);
      again.push_back(call);
    }
    // Before those that were not sent yet: the order of submission holds.
    actor->queued.insert(actor->queued.begin(), again.begin(), again.end());
  }
  if (state == control::ActorState::kDead && actor->creation_args) {
    process_.release_args(std::exchange(actor->creation_args, nullptr));
    for (Entry* held : actor->creation_holds) process_.objects().drop_hold(*held);
    actor->creation_holds.clear();
  }
  pump(*actor);
}

bool Caller::cancel(Entry& entry, bool force, bool recursive) {
  auto* call = static_cast<OutgoingCall*>(entry.producer);
  if (call == nullptr || entry.ready()) return false;
  cancel(*call, force, recursive);
  return true;
}

void Caller::cancel(OutgoingCall& call, bool force, bool recursive) {
  call.cancelled = true;
  if (call.sent_to == 0) {
    auto& queue = call.actor != nullptr ? call.actor->queued : call.shape->queued;
    std::erase(queue, &call);
    return fail(call, cancelled_before_start(call));
  }
  CancelRecord record;
  record.task = call.task;
  record.force = force ? 1 : 0;
  record.recursive = recursive ? 1 : 0;
  process_.peers().send(call.sent_to, Message::kCancel, view_of(record));
}

void Caller::cancel_children(const CallKey& parent, bool force) {
  std::vector<Entry*> children;
  const auto collect = [&](const auto& calls) {
    for (OutgoingCall* call : calls) {
      if (call->parent == parent) children.push_back(call->returns.front());
    }
  };
  for (auto& [id, actor] : actors_) {
    collect(actor->queued);
    collect(actor->in_flight);
  }
  for (auto& shape : shapes_) {
    collect(shape->queued);
    for (auto& [id, lease] : shape->leases) collect(lease.in_flight);
  }
  for (Entry* child : children) process_.objects().add_hold(*child);
  for (Entry* child : children) {
    // Its first return may be there: the call runs for the sake of another value then.
    if (auto* call = static_cast<OutgoingCall*>(child->producer)) cancel(*call, force, true);
    process_.objects().drop_hold(*child);
  }
}

void Caller::fail_everything(const PayloadPtr& failure) {
  std::vector<OutgoingCall*> all;
  for (auto& [id, actor] : actors_) {
    all.insert(all.end(), actor->queued.begin(), actor->queued.end());
    all.insert(all.end(), actor->in_flight.begin(), actor->in_flight.end());
    actor->queued.clear();
    actor->in_flight.clear();
  }
  for (auto& shape : shapes_) {
    all.insert(all.end(), shape->queued.begin(), shape->queued.end());
    for (auto& [id, lease] : shape->leases) {
      all.insert(all.end(), lease.in_flight.begin(), lease.in_flight.end());
    }
    shape->queued.clear();
    shape->leases.clear();
    shape->requested.clear();
  }
  shape_of_lease_.clear();
  for (OutgoingCall* call : all) {
    call->sent_to = 0;
    fail(*call, failure);
  }
}

}  // namespace beeline::runtime
