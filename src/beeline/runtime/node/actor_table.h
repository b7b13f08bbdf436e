// All that the daemon knows about actors: plain data and the transitions between their states, so that a journal can
// record the one and replay the other. No I/O, no processes: the daemon asks it what follows from what happened.
//
//   pending -> starting -> alive          (placed and given to a worker; __init__ finished)
//   starting, alive -> restarting -> starting
//   any -> dead, which is final
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "beeline/base/status.h"
#include "beeline/runtime/control.h"

namespace beeline::runtime::node {

struct ActorRecord {
  control::CreateActor create;  // spec, meta and env are dropped at death
  ProcessIndex owner = 0;       // the process that created it
  JobId job = 0;                // of its creator
  control::ActorState state = control::ActorState::kPending;
  ProcessIndex process = 0;  // 0 unless starting or alive
  std::int32_t pid = 0;
  std::uint32_t incarnation = 0;
  std::int32_t restarts_left = 0;  // -1: without bound
  control::DeathCause cause = control::DeathCause::kNone;
  std::string message;
  Bytes error;
  // It ends on purpose: its worker's end is no failure, and for this reason.
  control::DeathCause leaving = control::DeathCause::kNone;
  std::set<ProcessIndex> watchers;

  [[nodiscard]] bool is_dead() const { return state == control::ActorState::kDead; }
  [[nodiscard]] control::ActorUpdate update() const;
};

class ActorTable {
 public:
  // Dead actors that are remembered for those who ask later.
  static constexpr std::size_t kRememberedDead = 4096;

  // kAlreadyExists when the name is taken in its namespace. The owner watches.
  Result<ActorRecord*> create(control::CreateActor create, ProcessIndex owner);

  ActorRecord* find(ActorId actor);
  ActorRecord* find(const std::string& name_space, const std::string& name);

  // Transitions. False, and nothing changes, when the actor is not in a state where this can happen (the news is
  // about an earlier incarnation, say).
  bool start(ActorId actor, ProcessIndex process, std::int32_t pid);
  bool ready(ActorId actor, std::uint32_t incarnation);
  // The worker it lived in has ended: restarting or dead afterwards.
  bool lost(ActorId actor, const std::string& why);
  // It will end on purpose: at its worker's end it is dead for this reason, whatever restarts are left.
  bool leave(ActorId actor, control::DeathCause cause);
  bool die(ActorId actor, control::DeathCause cause, std::string message, Bytes error = {});

  // Watchers of an actor that has not been created yet are kept until it is.
  void watch(ActorId actor, ProcessIndex process);
  // The process has ended: it watches nothing. Returns the living actors that it owned and that are not detached.
  std::vector<ActorId> forget_process(ProcessIndex process);
  // Takes the watchers of the actors that `process` never came to create.
  std::map<ActorId, std::set<ProcessIndex>> take_unborn_of(ProcessIndex process);

  [[nodiscard]] std::vector<std::pair<std::string, std::string>> names(const std::string& name_space, bool all) const;
  [[nodiscard]] bool any_of_job(JobId job) const;  // the living
  [[nodiscard]] bool any_detached() const { return !detached_.empty(); }
  [[nodiscard]] const std::map<ActorId, ActorRecord>& all() const { return actors_; }

  // For the journal: who has changed since this was asked last, and taking back what was written.
  std::set<ActorId> take_changed() { return std::exchange(changed_, {}); }
  void restore(ActorId actor, ActorRecord record);

  static ProcessIndex creator_of(ActorId actor) { return static_cast<ProcessIndex>(actor >> 32); }

 private:
  std::map<ActorId, ActorRecord> actors_;
  std::map<std::pair<std::string, std::string>, ActorId> names_;  // of the living
  std::set<ActorId> detached_;                                    // the living
  std::map<ActorId, std::set<ProcessIndex>> unborn_watchers_;
  std::deque<ActorId> dead_;  // oldest first
  std::set<ActorId> changed_;
};

}  // namespace beeline::runtime::node
