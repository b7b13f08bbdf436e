#include "beeline/runtime/node/actor_table.h"

#include <algorithm>
#include <utility>

namespace beeline::runtime::node {

using control::ActorState;
using control::DeathCause;

control::ActorUpdate ActorRecord::update() const {
  control::ActorUpdate update;
  update.actor = create.actor;
  update.state = static_cast<std::uint8_t>(state);
  update.process = process;
  update.incarnation = incarnation;
  update.restarts_left = restarts_left;
  update.cause = static_cast<std::uint8_t>(cause);
  update.message = message;
  update.error = error;
  update.pid = pid;
  update.class_name = create.class_name;
  update.name = create.name;
  return update;
}

Result<ActorRecord*> ActorTable::create(control::CreateActor create, ProcessIndex owner) {
  const ActorId actor = create.actor;
  if (actors_.contains(actor)) {
    return Status(Code::kAlreadyExists, "actor " + std::to_string(actor) + " exists already");
  }
  const std::pair key(create.name_space, create.name);
  if (!create.name.empty() && names_.contains(key)) {
    return Status(Code::kAlreadyExists, "the name '" + create.name + "' is taken in namespace '" + create.name_space +
                                            "': use another one, or get_actor() to reach the actor that has it");
  }
  ActorRecord record;
  record.owner = owner;
  record.restarts_left = create.max_restarts;
  record.watchers.insert(owner);
  if (const auto waiting = unborn_watchers_.find(actor); waiting != unborn_watchers_.end()) {
    record.watchers.merge(waiting->second);
    unborn_watchers_.erase(waiting);
  }
  if (!create.name.empty()) names_[key] = actor;
  if (create.detached) detached_.insert(actor);
  record.create = std::move(create);
  changed_.insert(actor);
  return &actors_.emplace(actor, std::move(record)).first->second;
}

ActorRecord* ActorTable::find(ActorId actor) {
  const auto found = actors_.find(actor);
  return found == actors_.end() ? nullptr : &found->second;
}

ActorRecord* ActorTable::find(const std::string& name_space, const std::string& name) {
  const auto found = names_.find({name_space, name});
  return found == names_.end() ? nullptr : find(found->second);
}

bool ActorTable::start(ActorId actor, ProcessIndex process, std::int32_t pid) {
  auto* record = find(actor);
  if (record == nullptr) return false;
  if (record->state != ActorState::kPending && record->state != ActorState::kRestarting) return false;
  changed_.insert(actor);
  record->state = ActorState::kStarting;
  record->process = process;
  record->pid = pid;
  return true;
}

bool ActorTable::ready(ActorId actor, std::uint32_t incarnation) {
  auto* record = find(actor);
  if (record == nullptr || record->state != ActorState::kStarting || record->incarnation != incarnation) return false;
  changed_.insert(actor);
  record->state = ActorState::kAlive;
  return true;
}

bool ActorTable::lost(ActorId actor, const std::string& why) {
  auto* record = find(actor);
  if (record == nullptr || record->process == 0 || record->is_dead()) return false;
  if (record->leaving != DeathCause::kNone) return die(actor, record->leaving, why);
  if (record->restarts_left == 0) {
    const auto restarts = record->incarnation;
    return die(actor, DeathCause::kWorkerDied,
               why + (restarts == 0 ? ""
                                    : ", after " + std::to_string(restarts) + " restarts (max_restarts=" +
                                          std::to_string(record->create.max_restarts) + ")"));
  }
  changed_.insert(actor);
  if (record->restarts_left > 0) --record->restarts_left;
  ++record->incarnation;
  record->state = ActorState::kRestarting;
  record->process = 0;
  record->pid = 0;
  record->message = why;
  return true;
}

bool ActorTable::leave(ActorId actor, DeathCause cause) {
  auto* record = find(actor);
  if (record == nullptr || record->is_dead()) return false;
  changed_.insert(actor);
  record->leaving = cause;
  return true;
}

bool ActorTable::die(ActorId actor, DeathCause cause, std::string message, Bytes error) {
  auto* record = find(actor);
  if (record == nullptr || record->is_dead()) return false;
  changed_.insert(actor);
  record->state = ActorState::kDead;
  record->process = 0;
  record->restarts_left = 0;
  record->cause = cause;
  record->message = std::move(message);
  record->error = std::move(error);
  if (!record->create.name.empty()) names_.erase({record->create.name_space, record->create.name});
  detached_.erase(actor);
  record->create.spec = {};
  record->create.handle_meta = {};
  record->create.env.clear();
  dead_.push_back(actor);
  if (dead_.size() > kRememberedDead) {
    changed_.insert(dead_.front());
    actors_.erase(dead_.front());
    dead_.pop_front();
  }
  return true;
}

void ActorTable::restore(ActorId actor, ActorRecord record) {
  if (record.is_dead()) {
    dead_.push_back(actor);
  } else {
    const auto& create = record.create;
    if (!create.name.empty()) names_[{create.name_space, create.name}] = actor;
    if (create.detached) detached_.insert(actor);
  }
  actors_.insert_or_assign(actor, std::move(record));
}

void ActorTable::watch(ActorId actor, ProcessIndex process) {
  if (auto* record = find(actor); record != nullptr) {
    record->watchers.insert(process);
  } else {
    unborn_watchers_[actor].insert(process);
  }
}

std::vector<ActorId> ActorTable::forget_process(ProcessIndex process) {
  std::vector<ActorId> orphans;
  for (auto& [actor, record] : actors_) {
    record.watchers.erase(process);
    if (record.owner == process && !record.create.detached && !record.is_dead()) orphans.push_back(actor);
  }
  for (auto& [actor, watchers] : unborn_watchers_) watchers.erase(process);
  return orphans;
}

std::map<ActorId, std::set<ProcessIndex>> ActorTable::take_unborn_of(ProcessIndex process) {
  std::map<ActorId, std::set<ProcessIndex>> unborn;
  const auto first = unborn_watchers_.lower_bound(static_cast<ActorId>(process) << 32);
  const auto last = unborn_watchers_.lower_bound((static_cast<ActorId>(process) + 1) << 32);
  unborn.insert(first, last);
  unborn_watchers_.erase(first, last);
  return unborn;
}

bool ActorTable::any_of_job(JobId job) const {
  return std::any_of(actors_.begin(), actors_.end(),
                     [job](const auto& entry) { return entry.second.job == job && !entry.second.is_dead(); });
}

std::vector<std::pair<std::string, std::string>> ActorTable::names(const std::string& name_space, bool all) const {
  std::vector<std::pair<std::string, std::string>> found;
  for (const auto& [key, actor] : names_) {
    if (all || key.first == name_space) found.push_back(key);
  }
  return found;
}

}  // namespace beeline::runtime::node
