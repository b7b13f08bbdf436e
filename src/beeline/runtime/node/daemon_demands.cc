// The daemon's part that brings demands (leases, and actors to be placed) together with resources and workers.
#include <algorithm>
#include <utility>

#include "beeline/runtime/node/daemon.h"

namespace beeline::runtime::node {
namespace {

using control::Type;

// Lessees that hold leases are asked again while others wait, ever more rarely.
constexpr Nanos kFirstRecallDelay = std::chrono::milliseconds(10);
constexpr Nanos kLastRecallDelay = std::chrono::seconds(1);

}  // namespace

Flavour Daemon::Demand::flavour(const ActorRecord* record) const {
  if (record != nullptr) return {record->create.wants_torch, record->create.env, job};
  return {request.wants_torch, request.env, job};
}

control::WorkPlace Daemon::Demand::place(const Scheduling& scheduling) const {
  return {allocation->node, scheduling.group, scheduling.capture};
}

Daemon::Demand& Daemon::add_demand(JobId job) {
  const DemandId id = next_demand_++;
  auto& demand = demands_[id];
  demand.id = id;
  demand.job = job;
  changed(Journal::Kind::kDemand, id);
  return demand;
}

void Daemon::request_lease(Connection& from, control::RequestLease message) {
  const LeaseKey key(from.index, message.lease);
  expect_group(from, message.scheduling.group);
  auto& demand = add_demand(from.job);
  const auto status = demand_of_lease_.contains(key)
                          ? Status(Code::kAlreadyExists, "lease " + std::to_string(message.lease) + " exists already")
                          : scheduler_.request(demand.id, message.resources, {}, message.scheduling);
  if (!status.is_ok()) {
    demands_.erase(demand.id);
    return send(from.index, Type::kLeaseFailed,
                control::LeaseFailed{message.lease, static_cast<std::uint8_t>(status.code()), status.message()});
  }
  demand.lease = key;
  demand.request = std::move(message);
  demand_of_lease_[key] = demand.id;
}

void Daemon::return_lease(Connection& from, const control::ReturnLease& message) {
  const auto found = demand_of_lease_.find({from.index, message.lease});
  if (found == demand_of_lease_.end()) return;  // its worker ended meanwhile
  const DemandId id = found->second;
  const WorkerToken worker = demands_.at(id).worker;
  const auto after = static_cast<control::WorkerAfter>(message.worker);
  if (worker != 0 && after == control::WorkerAfter::kBroken) return pool_.kill(worker);
  // What it holds is free once it has ended.
  if (const auto* held = pool_.find(worker); held != nullptr && held->killed) return;
  withdraw(id);
  if (worker == 0) return;
  if (after == control::WorkerAfter::kLeaving) {
    if (auto* left = pool_.find(worker)) left->leaving = true;
    return changed(Journal::Kind::kWorker, worker);
  }
  pool_.give_back(worker);
  logs_.label(worker, {});
}

// Takes the demand back, whatever it has come to; its worker is the caller's to give back or to end.
void Daemon::withdraw(DemandId id) {
  const auto node = demands_.extract(id);
  if (node.empty()) return;
  changed(Journal::Kind::kDemand, id);
  const Demand& demand = node.mapped();
  scheduler_.cancel(id);
  pool_.cancel(id);
  if (demand.allocation) scheduler_.release(*demand.allocation);
  if (demand.worker != 0) demand_of_worker_.erase(demand.worker);
  if (demand.actor != 0) {
    demand_of_actor_.erase(demand.actor);
  } else {
    demand_of_lease_.erase(demand.lease);
  }
}

void Daemon::end_demand(DemandId id, Code code, control::DeathCause cause, const std::string& why) {
  const auto& demand = demands_.at(id);
  const bool had_place = demand.worker != 0;
  if (demand.actor != 0) return end_actor(demand.actor, had_place ? control::DeathCause::kWorkerDied : cause, why);
  if (had_place) return pool_.kill(demand.worker, why);
  send(demand.lease.first, Type::kLeaseFailed,
       control::LeaseFailed{demand.lease.second, static_cast<std::uint8_t>(code), why});
  withdraw(id);
}

void Daemon::place_again(DemandId id) {
  auto& demand = demands_.at(id);
  changed(Journal::Kind::kDemand, id);
  pool_.cancel(id);
  scheduler_.release(*demand.allocation);
  demand.allocation.reset();
  const auto* record = demand.actor == 0 ? nullptr : actors_.find(demand.actor);
  const auto status = record == nullptr
                          ? scheduler_.request(id, demand.request.resources, {}, demand.request.scheduling)
                          : scheduler_.request(id, record->create.resources, record->create.creation_resources,
                                               record->create.scheduling);
  if (!status.is_ok()) end_demand(id, status.code(), control::DeathCause::kUnschedulable, status.message());
}

Daemon::Demand* Daemon::demand_of_worker(WorkerToken worker) {
  const auto found = demand_of_worker_.find(worker);
  return found == demand_of_worker_.end() ? nullptr : &demands_.at(found->second);
}

const Daemon::Demand* Daemon::demand_of_worker(WorkerToken worker) const {
  const auto found = demand_of_worker_.find(worker);
  return found == demand_of_worker_.end() ? nullptr : &demands_.at(found->second);
}

void Daemon::set_blocked(Connection& from, bool blocked) {
  Demand* demand = demand_of_worker(from.worker);
  if (demand == nullptr) return;
  changed(Journal::Kind::kDemand, demand->id);
  demand->blocked = std::max(0, demand->blocked + (blocked ? 1 : -1));
  if (demand->blocked > 0) {
    scheduler_.give_back_cpu(*demand->allocation);
  } else {
    scheduler_.take_cpu_again(*demand->allocation);
  }
}

bool Daemon::place_demands() {
  if (ending_) return false;
  place_groups();
  auto grants = scheduler_.place();
  for (auto& grant : grants) {
    auto& demand = demands_.at(grant.ticket);
    demand.allocation = std::move(grant.allocation);
    changed(Journal::Kind::kDemand, demand.id);
    pool_.want(demand.id, demand.flavour(demand.actor == 0 ? nullptr : actors_.find(demand.actor)));
  }
  return !grants.empty();
}

void Daemon::worker_ready(WantId want, Worker& worker) {
  auto& demand = demands_.at(want);
  demand.worker = worker.token;
  changed(Journal::Kind::kDemand, want);
  demand_of_worker_[worker.token] = want;
  if (demand.actor != 0) {
    assign_actor(demand, worker);
  } else {
    assign_lease(demand, worker);
  }
}

void Daemon::assign_lease(Demand& demand, Worker& worker) {
  logs_.label(worker.token, demand.request.function_name);
  send(worker.index, Type::kAssignLease, assignment(demand));
  send(demand.lease.first, Type::kLeaseGranted,
       control::LeaseGranted{demand.lease.second, worker.index, static_cast<std::int32_t>(worker.pid)});
  ++counters_["leases_granted"];
}

control::AssignLease Daemon::assignment(const Demand& demand) const {
  return {demand.lease.first, demand.lease.second, demand.allocation->share.accelerators, demand.request.resources,
          demand.place(demand.request.scheduling)};
}

void Daemon::worker_failed(WantId want, NoWorker kind, const std::string& why) {
  const auto found = demands_.find(want);
  if (found == demands_.end()) return;  // withdrawn by what was reported before
  const auto& demand = found->second;
  const bool lacks_environment = kind == NoWorker::kNoEnvironment;
  if (demand.actor != 0) {
    return end_actor(demand.actor,
                     lacks_environment ? control::DeathCause::kNoEnvironment : control::DeathCause::kWorkerDied, why);
  }
  const auto code = lacks_environment ? Code::kUnsupported : Code::kSystem;
  send(demand.lease.first, Type::kLeaseFailed,
       control::LeaseFailed{demand.lease.second, static_cast<std::uint8_t>(code), why});
  withdraw(want);
}

void Daemon::worker_ended(const Worker& worker, const std::string& how) {
  look_at_jobs_ = true;
  if (gathering_) end_gathering();
  if (Connection* connection = find(worker.index)) {
    read_frames(*connection);  // its last words: an actor that exits on purpose says so
    close_later(*connection);
  }
  remember_ended(worker, how);
  changed(Journal::Kind::kWorker, worker.token);
  const auto found = demand_of_worker_.find(worker.token);
  if (found == demand_of_worker_.end()) return;
  const DemandId id = found->second;
  const Demand demand = demands_.at(id);
  withdraw(id);
  if (demand.actor != 0) {
    actor_worker_ended(demand, how);
  } else if (Connection* lessee = find(demand.lease.first)) {
    // For a lessee that has not met the worker yet; another one knows it from the worker's own socket.
    send(*lessee,
         control::encode(Type::kLeaseFailed,
                         control::LeaseFailed{demand.lease.second, static_cast<std::uint8_t>(Code::kPeerLost), how}));
  }
}

void Daemon::retire(Worker& worker) {
  send(worker.index, Type::kRetire, control::Empty{});
}

void Daemon::recall_leases() {
  if (demand_of_lease_.empty() || !scheduler_.waits_for_holders()) {
    loop_.cancel(std::exchange(recall_timer_, 0));
    recall_delay_ = kFirstRecallDelay;
    return;
  }
  if (recall_timer_ != 0) return;
  std::set<ProcessIndex> lessees;
  for (const auto& [key, id] : demand_of_lease_) {
    if (demands_.at(id).worker != 0) lessees.insert(key.first);
  }
  for (const ProcessIndex lessee : lessees) send(lessee, Type::kRecallLeases, control::Empty{});
  recall_timer_ = loop_.after(recall_delay_, [this] { recall_timer_ = 0; });
  recall_delay_ = std::min(2 * recall_delay_, kLastRecallDelay);
}

}  // namespace beeline::runtime::node
