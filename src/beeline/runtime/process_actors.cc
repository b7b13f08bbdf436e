// Actors as their creators and callers see them, and the side of the worker that becomes one.
#include <algorithm>
#include <utility>

#include "beeline/runtime/process.h"

namespace beeline::runtime {
namespace {

using store::ObjectKind;
using store::PayloadPtr;

}  // namespace

// ----- actors

Result<Process::NewActor> Process::create_actor(control::CreateActor request, PayloadPtr args,
                                                const std::vector<Entry*>& dependencies, std::string_view blob,
                                                BytesView options, bool wait_for_name) {
  Locked locked(lock_);
  if (!session_error_.empty()) return Status(Code::kShutdown, session_error_);
  const ActorId id = std::uint64_t{self_} << 32 | next_actor_++;
  Entry& life = objects_.create(ObjectKind::kActorLife, intern_locked(request.class_name));
  actor_of_life_[life.id.serial] = id;

  Writer writer(request.spec);
  writer.write_string(blob);
  writer.write_block(options);
  writer.write(static_cast<std::uint32_t>(dependencies.size()));
  std::vector<Entry*> holds = dependencies;
  for (Entry* dependency : dependencies) {
    objects_.add_hold(*dependency);
    writer.write(dependency->id);
  }
  store::encode_payload(*args, writer);
  for (const auto& ref : args->refs) objects_.hold(ref, true);
  request.actor = id;
  request.request = wait_for_name ? next_request_++ : 0;
  const auto request_id = request.request;
  if (wait_for_name) {
    ask_daemon(control::Type::kCreateActor, request);
  } else {
    tell_daemon(control::Type::kCreateActor, request);
  }
  ActorTarget& target = caller_.actor(id);
  target.creation_args = std::move(args);
  target.creation_holds = std::move(holds);
  if (wait_for_name) {
    auto reply = await_reply<control::Reply>(locked, request_id);
    const Status failure = !reply             ? reply.status()
                           : reply->code == 0 ? Status::ok()
                                              : Status(static_cast<Code>(reply->code), reply->message);
    if (!failure) {
      // It may still make the actor when it comes to it.
      if (failure.code() == Code::kDeadlineExceeded || failure.code() == Code::kInterrupted) {
        tell_daemon(control::Type::kKillActor,
                    control::KillActor{id, true, static_cast<std::uint8_t>(control::DeathCause::kOutOfScope)});
      }
      actor_of_life_.erase(life.id.serial);
      objects_.drop_hold(life);
      return failure;
    }
  }
  return NewActor{id, &life};
}

Result<Process::ActorSpec> Process::open_spec(BytesView spec) {
  Reader reader(spec);
  ActorSpec opened;
  opened.blob = reader.read_string();
  const auto options = reader.read_block();
  opened.options.assign(options.begin(), options.end());
  const auto count = reader.read<std::uint32_t>();
  std::vector<store::ObjectId> ids;
  for (std::uint32_t i = 0; i < count && reader.ok(); ++i) ids.push_back(reader.read<store::ObjectId>());
  BEELINE_ASSIGN(opened.args, store::decode_payload(reader));
  if (!reader.ok()) return Status(Code::kCorrupt, "an actor's specification ends early");
  const Locked locked(lock_);
  for (const auto& id : ids) {
    Entry* entry = objects_.hold(id, true);
    if (entry == nullptr) return Status(Code::kNotFound, "an argument of the actor's constructor is gone");
    opened.dependencies.push_back(entry);
  }
  for (const auto& ref : opened.args->refs) objects_.hold(ref, true);
  return opened;
}

void Process::release_spec(ActorSpec& spec) {
  const Locked locked(lock_);
  for (Entry* entry : spec.dependencies) objects_.drop_hold(*entry);
  spec.dependencies.clear();
  for (const auto& ref : spec.args->refs) {
    if (Entry* entry = objects_.find(ref)) objects_.drop_hold(*entry);
  }
}

Result<control::ActorInfo> Process::lookup_actor(const std::string& name, const std::string& name_space) {
  Locked locked(lock_);
  const auto request = next_request_++;
  ask_daemon(control::Type::kLookupActor, control::LookupActor{request, name, name_space});
  return await_reply<control::ActorInfo>(locked, request);
}

Result<control::NamedActors> Process::list_actors(const std::string& name_space, bool all) {
  Locked locked(lock_);
  const auto request = next_request_++;
  ask_daemon(control::Type::kListActors, control::ListActors{request, name_space, all});
  return await_reply<control::NamedActors>(locked, request);
}

Result<control::State> Process::node_state(control::GetState request) {
  Locked locked(lock_);
  request.request = next_request_++;
  ask_daemon(control::Type::kGetState, request);
  return await_reply<control::State>(locked, request.request);
}

void Process::kill_actor(ActorId id, bool no_restart) {
  const Locked locked(lock_);
  // The daemon's way is longer than a call's: what is called from here on must not be quicker than the kill.
  if (no_restart) caller_.actor(id).condemned = true;
  tell_daemon(control::Type::kKillActor,
              control::KillActor{id, no_restart, static_cast<std::uint8_t>(control::DeathCause::kKilled)});
}

control::ActorUpdate Process::actor_state(ActorId id) {
  const Locked locked(lock_);
  return caller_.actor(id).latest;
}

// The last handle is gone: the actor finishes what it was asked before and exits.
void Process::actor_unreferenced(const store::ObjectId& life) {
  const auto it = actor_of_life_.find(life.serial);
  if (it == actor_of_life_.end()) return;
  const ActorId id = it->second;
  actor_of_life_.erase(it);
  const ActorTarget& target = caller_.actor(id);
  const auto state = static_cast<control::ActorState>(target.latest.state);
  const bool placed = target.known && target.latest.process != 0 && state != control::ActorState::kDead;
  if (placed && target.queued.empty()) {
    peers_->send(target.latest.process, Message::kTerminate, view_of(id));
  } else if (target.pending_count() == 0) {
    tell_daemon(control::Type::kKillActor,
                control::KillActor{id, true, static_cast<std::uint8_t>(control::DeathCause::kOutOfScope)});
  } else {
    terminate_when_sent_.insert(id);
  }
}

// ----- the worker's side

Process::Next Process::next_call(std::uint64_t seen, IncomingCall*& call, Deadline deadline) {
  Locked locked(lock_);
  bool blocked = false;
  const auto outcome = progress_.wait(
      locked, deadline,
      [&] {
        return executor_.has_runnable() || exiting_ || assignment_.version != seen || has_chores_for_python_ ||
               may_terminate();
      },
      [&] {
        request_cleaning();
        // Functions whose arguments are being made elsewhere: that may need this worker's CPU.
        if (blocked || !executor_.awaits_arguments()) return;
        blocked = true;
        tell_daemon(control::Type::kBlocked, control::Empty{});
      });
  if (blocked) tell_daemon(control::Type::kUnblocked, control::Empty{});
  if (exiting_) return Next::kExit;
  if (assignment_.version != seen) return Next::kAssigned;
  if (std::exchange(has_chores_for_python_, false)) return Next::kInterrupted;
  if (outcome == WaitOutcome::kInterrupted || outcome == WaitOutcome::kTimedOut) return Next::kInterrupted;
  call = executor_.take();
  if (call != nullptr) {
    request_cleaning();
    return Next::kCall;
  }
  return may_terminate() ? Next::kExit : Next::kInterrupted;
}

// Calls that were made before the last handle went away may come from processes that meet us only now.
bool Process::may_terminate() {
  if (stopped_ || !executor_.terminating() || !executor_.idle()) return false;
  // Nobody asked for the end of a worker that leaves: it stays for those who have yet to fetch what it made.
  if (executor_.leaving() && !publications_.empty()) return false;
  peers_->accept_pending();
  return !mailbox_.has_mail() && executor_.idle() && !is_needed_by_others();
}

// Whether other processes hold what this one owns (values, actors), or are about to.
bool Process::is_needed_by_others() {
  if (!pins_.empty()) return true;
  bool needed = false;
  objects_.for_each([&](Entry& entry) { needed |= entry.id.owner == self_ && !entry.borrowers.empty(); });
  return needed;
}

IncomingCall* Process::try_take() {
  Locked locked(lock_);
  progress_.poke(locked);
  return executor_.take();
}

Process::Assignment Process::assignment() {
  const Locked locked(lock_);
  return assignment_;
}

void Process::finish(IncomingCall& call, std::vector<PayloadPtr> results, bool retryable) {
  Locked locked(lock_);
  progress_.poke(locked);  // who else is to be told may have been said meanwhile
  for (const auto& result : results) hand_over(*result, call.caller);
  executor_.finish(call, std::move(results), retryable);
  if (executor_.terminating() || exiting_) progress_.notify();  // it may have been the last
}

void Process::leave() {
  const Locked locked(lock_);
  exiting_ = true;
  progress_.notify();
}

WaitOutcome Process::wait_for_calls(std::size_t left, Deadline deadline) {
  Locked locked(lock_);
  return progress_.wait(locked, deadline, [&] { return executor_.running() <= left; });
}

// What was published for the value ends with its owner.
void Process::hand_over(const store::Payload& value, ProcessIndex owner) {
  if (value.placement) {
    const auto it = publications_.find(value.placement->publication.slot);
    if (it != publications_.end() && it->second.id == value.placement->publication) it->second.owner = owner;
  }
  if (!value.is_inline()) return;
  ++transfers_.inline_objects;
  transfers_.inline_bytes += value.size_bytes();
}

bool Process::send_item(IncomingCall& call, const PayloadPtr& item) {
  const Locked locked(lock_);
  hand_over(*item, call.caller);
  return executor_.send_item(call, item);
}

WaitOutcome Process::wait_for_room(IncomingCall& call, Deadline deadline) {
  Locked locked(lock_);
  if (call.has_room()) return WaitOutcome::kDone;
  return wait_giving_way(locked, deadline, [&] { return call.has_room(); });
}

void Process::actor_ready(bool failed, const std::string& message, BytesView error) {
  Locked locked(lock_);
  control::ActorReady ready;
  ready.actor = assignment_.actor->actor;
  ready.incarnation = assignment_.actor->incarnation;
  ready.failed = failed;
  ready.message = message;
  ready.error.assign(error.begin(), error.end());
  tell_daemon(control::Type::kActorReady, ready);
  if (failed) flush_to_daemon(locked, Deadline::after(std::chrono::seconds(1)));
}

void Process::actor_exited(control::DeathCause cause) {
  Locked locked(lock_);
  tell_daemon(control::Type::kActorExited,
              control::ActorExited{assignment_.actor->actor, static_cast<std::uint8_t>(cause)});
  flush_to_daemon(locked, Deadline::after(std::chrono::seconds(1)));
}

bool Process::exiting() {
  const Locked locked(lock_);
  return exiting_;
}

void Process::unpin(std::uint64_t token) {
  const auto node = pins_.extract(token);
  if (!node) return;
  for (Entry* entry : node.mapped().second) objects_.drop_hold(*entry);
}

std::uint64_t Process::pin_for(ProcessIndex receiver, std::span<const store::ObjectId> refs) {
  if (peers_->is_gone(receiver)) return 0;  // nobody would ever answer
  std::vector<Entry*> pinned;
  for (const auto& ref : refs) {
    if (Entry* entry = objects_.hold(ref, true)) pinned.push_back(entry);
  }
  const auto token = next_pin_++;
  pins_.emplace(token, std::pair(receiver, std::move(pinned)));
  return token;
}

void Process::release_args(const PayloadPtr& args) {
  if (!args) return;
  for (const auto& ref : args->refs) {
    if (Entry* entry = objects_.find(ref)) objects_.drop_hold(*entry);
  }
  if (args->placement) free_placement(*args->placement);
}

}  // namespace beeline::runtime
