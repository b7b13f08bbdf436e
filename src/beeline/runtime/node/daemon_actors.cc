// The daemon's part that carries out what happens to actors.
#include <algorithm>
#include <utility>

#include "beeline/runtime/node/daemon.h"

namespace beeline::runtime::node {
namespace {

using control::ActorState;
using control::DeathCause;
using control::Type;

// How long a worker that was told to exit may take.
constexpr auto kDismissWait = std::chrono::seconds(1);
// An actor whose worker ends again and again before __init__ has finished is restarted ever more slowly.
constexpr auto kRestartDelay = std::chrono::milliseconds(100);
constexpr std::uint32_t kMaxRestartDelays = 10;

// Of an actor that cannot be placed.
DeathCause cause_of(const Status& status) {
  return status.code() == Code::kNotFound ? DeathCause::kGroupRemoved : DeathCause::kUnschedulable;
}

}  // namespace

std::string Daemon::label_of(const control::CreateActor& create) {
  return create.class_name.empty() ? "actor" : create.class_name;
}

ActorRecord* Daemon::find_actor(ActorId actor) {
  if (auto* record = actors_.find(actor); record != nullptr || draining_) return record;
  if (Connection* creator = find(ActorTable::creator_of(actor))) {
    draining_ = true;
    read_frames(*creator);
    draining_ = false;
  }
  return actors_.find(actor);
}

void Daemon::announce(ActorId actor) {
  const auto* record = actors_.find(actor);
  if (record == nullptr) return;
  const Bytes frame = control::encode(Type::kActorUpdate, record->update());
  for (const ProcessIndex watcher : record->watchers) {
    if (Connection* connection = find(watcher)) send(*connection, frame);
  }
}

void Daemon::create_actor(Connection& from, control::CreateActor message) {
  const ActorId actor = message.actor;
  control::Reply reply{message.request, 0, {}};
  const auto answer = [&](const Status& status) {
    reply.code = static_cast<std::uint8_t>(status.code());
    reply.message = status.message();
    send(from.index, Type::kReply, reply);
  };
  if (ActorTable::creator_of(actor) != from.index) {
    return answer({Code::kInvalidArgument, "the actor's id does not carry its creator's index"});
  }
  // Asked once more because the daemon that had made it could not say so.
  if (reply.request != 0 && actors_.find(actor) != nullptr) return answer(Status::ok());
  const auto created = actors_.create(std::move(message), from.index);
  if (!created.is_ok()) {
    answer(created.status());
    // Who creates without waiting for the answer learns it as the actor's end.
    control::ActorUpdate update;
    update.actor = actor;
    update.state = static_cast<std::uint8_t>(ActorState::kDead);
    update.cause = static_cast<std::uint8_t>(DeathCause::kUnschedulable);
    update.message = created.status().message();
    if (actors_.find(actor) == nullptr) send(from.index, Type::kActorUpdate, update);
    return;
  }
  ++counters_["actors_created"];
  (*created)->job = from.job;
  expect_group(from, (*created)->create.scheduling.group);
  const auto* record = actors_.find(actor);
  // What was read on the way may have ended it.
  if (record == nullptr || record->is_dead()) return answer(Status::ok());
  const auto& create = record->create;
  auto& demand = add_demand(from.job);
  demand.request.scheduling = create.scheduling;
  const auto status = scheduler_.request(demand.id, create.resources, create.creation_resources, create.scheduling);
  answer(status);
  if (!status.is_ok()) {
    demands_.erase(demand.id);
    return end_actor(actor, cause_of(status), status.message());
  }
  demand.actor = actor;
  demand_of_actor_[actor] = demand.id;
}

void Daemon::place_actor(ActorId actor) {
  const auto* record = actors_.find(actor);
  if (record == nullptr || record->state != ActorState::kRestarting) return;
  auto& demand = add_demand(record->job);
  demand.actor = actor;
  demand.request.scheduling = record->create.scheduling;
  demand_of_actor_[actor] = demand.id;
  const auto status = scheduler_.request(demand.id, record->create.resources, record->create.creation_resources,
                                         record->create.scheduling);
  // It fitted once, but its node or its placement group may be gone.
  if (!status.is_ok()) end_actor(actor, cause_of(status), status.message());
}

void Daemon::assign_actor(Demand& demand, Worker& worker) {
  const bool started = actors_.start(demand.actor, worker.index, worker.pid);
  BEELINE_CHECK(started, "an actor that does not wait for a worker was given one");
  const auto& record = *actors_.find(demand.actor);
  logs_.label(worker.token, label_of(record.create));
  send(worker.index, Type::kAssignActor, assignment(demand, record));
  announce(demand.actor);
}

control::AssignActor Daemon::assignment(const Demand& demand, const ActorRecord& record) const {
  control::AssignActor assign;
  assign.actor = demand.actor;
  assign.incarnation = record.incarnation;
  assign.spec = record.create.spec;
  assign.accelerators = demand.allocation->share.accelerators;
  assign.env = record.create.env;
  assign.name = record.create.name;
  assign.name_space = record.create.name_space;
  assign.resources = record.create.resources;
  assign.place = demand.place(record.create.scheduling);
  return assign;
}

void Daemon::watch_actor(ProcessIndex from, ActorId actor) {
  if (const auto* record = find_actor(actor)) {
    actors_.watch(actor, from);
    return send(from, Type::kActorUpdate, record->update());
  }
  if (find(ActorTable::creator_of(actor)) != nullptr) return actors_.watch(actor, from);
  control::ActorUpdate update;
  update.actor = actor;
  update.state = static_cast<std::uint8_t>(ActorState::kDead);
  update.cause = static_cast<std::uint8_t>(DeathCause::kOwnerDied);
  update.message = "it is not known (any more): the process that created it has ended";
  send(from, Type::kActorUpdate, update);
}

void Daemon::kill_actor(const control::KillActor& message) {
  const auto* record = find_actor(message.actor);
  if (record == nullptr || record->is_dead()) return;
  const auto demand = demand_of_actor_.find(message.actor);
  const WorkerToken worker = demand == demand_of_actor_.end() ? 0 : demands_.at(demand->second).worker;
  const auto cause = static_cast<DeathCause>(message.cause);
  if (cause == DeathCause::kOutOfScope) {
    // What has been asked of it is done first.
    actors_.leave(message.actor, cause);
    if (worker == 0) return end_actor(message.actor, cause, "all references to it are gone");
    if (Connection* connection = find(record->process))
      send(*connection, control::encode(Type::kExit, control::Empty{}));
    return;
  }
  if (message.no_restart) {
    return end_actor(message.actor, DeathCause::kKilled, "it was killed by kill() (ray.kill in a Ray program)");
  }
  if (worker != 0) pool_.kill(worker);
}

void Daemon::actor_ready(Connection& from, const control::ActorReady& message) {
  const auto* record = actors_.find(message.actor);
  if (record == nullptr || record->process != from.index || record->incarnation != message.incarnation) return;
  if (!message.failed) {
    if (actors_.ready(message.actor, message.incarnation)) announce(message.actor);
    return;
  }
  if (!actors_.die(message.actor, DeathCause::kInitFailed, message.message, message.error)) return;
  announce(message.actor);
  dismiss(from.worker);
}

void Daemon::actor_exited(Connection& from, const control::ActorExited& message) {
  const auto* record = actors_.find(message.actor);
  if (record == nullptr || record->process != from.index) return;
  const auto cause = static_cast<DeathCause>(message.cause);
  actors_.leave(message.actor, cause == DeathCause::kOutOfScope ? cause : DeathCause::kExited);
}

void Daemon::end_actor(ActorId actor, DeathCause cause, const std::string& message) {
  if (!actors_.die(actor, cause, message)) return;
  announce(actor);
  const auto found = demand_of_actor_.find(actor);
  if (found == demand_of_actor_.end()) return;
  const DemandId demand = found->second;
  if (const WorkerToken worker = demands_.at(demand).worker; worker != 0) {
    pool_.kill(worker);  // what it held is free once its process is gone
  } else {
    withdraw(demand);
  }
}

void Daemon::actor_worker_ended(const Demand& demand, const std::string& how) {
  const ActorId actor = demand.actor;
  const auto* record = actors_.find(actor);
  const bool was_alive = record != nullptr && record->state == ActorState::kAlive;
  if (!actors_.lost(actor, how)) return;
  announce(actor);
  if (record->state != ActorState::kRestarting) return;
  ++counters_["actor_restarts"];
  if (was_alive) return place_actor(actor);
  loop_.after(kRestartDelay * std::min(record->incarnation, kMaxRestartDelays), [this, actor] { place_actor(actor); });
}

void Daemon::dismiss(WorkerToken token) {
  const auto* worker = pool_.find(token);
  if (worker == nullptr) return;
  send(worker->index, Type::kExit, control::Empty{});
  loop_.after(kDismissWait, [this, token] { pool_.kill(token); });
}

}  // namespace beeline::runtime::node
