// Functions: shapes of calls, and the workers that are leased for them.
#include <algorithm>

#include "beeline/runtime/caller.h"
#include "beeline/runtime/process.h"

namespace beeline::runtime {
namespace {

using store::Entry;
using store::ErrorKind;
using store::make_failure;
using store::PayloadPtr;

// An idle lease is kept this long for the next call of its shape; others that wait get it at once (kRecallLeases).
constexpr auto kLeaseIdle = std::chrono::milliseconds(20);
// Calls worth this much execution time are sent ahead to a worker.
constexpr double kAheadNs = 1e6;
constexpr std::size_t kMaxAhead = 256;
constexpr std::size_t kMaxLeases = 64;  // of one shape, asked for at once

}  // namespace

std::vector<Entry*> Caller::call_function(Shape& shape, CallOptions options, PayloadPtr args,
                                          const std::vector<Entry*>& dependencies) {
  std::vector<Entry*> returns;
  OutgoingCall* call = make_call(std::move(options), std::move(args), dependencies, returns);
  call->shape = &shape;
  shape.queued.push_back(call);
  pump(shape);
  return returns;
}

Shape& Caller::shape(const Resources& resources, bool wants_torch, const std::map<std::string, std::string>& env,
                     const Scheduling& scheduling, const std::string& name) {
  for (auto& shape : shapes_) {
    // First what tells most of them apart where there are many: groups.
    if (shape->scheduling == scheduling && shape->resources == resources && shape->wants_torch == wants_torch &&
        shape->env == env) {
      return *shape;
    }
  }
  auto shape = std::make_unique<Shape>();
  shape->resources = resources;
  shape->wants_torch = wants_torch;
  shape->env = env;
  shape->scheduling = scheduling;
  shape->name = name;
  shapes_.push_back(std::move(shape));
  return *shapes_.back();
}

const std::string* Caller::function(std::uint64_t key) const {
  const auto it = functions_.find(key);
  return it == functions_.end() ? nullptr : &it->second;
}

void Caller::pump(Shape& shape) {
  dismiss_leaving(shape);
  if (shape.spreads()) return_used(shape);
  const auto ahead =
      static_cast<std::size_t>(std::clamp(kAheadNs / std::max(shape.mean_ns, 1.0), 1.0, double{kMaxAhead}));
  while (!shape.queued.empty()) {
    Lease* best = nullptr;
    for (auto& [id, lease] : shape.leases) {
      if (lease.leaving || (shape.spreads() && lease.used)) continue;
      if (best == nullptr || lease.in_flight.size() < best->in_flight.size()) best = &lease;
    }
    if (best == nullptr || best->in_flight.size() >= ahead) break;
    OutgoingCall* call = shape.queued.front();
    shape.queued.pop_front();
    best->used = true;
    call->lease = best->id;
    best->in_flight.push_back(*call);
    send(*call, best->process);
  }
  const std::size_t wanted = std::min(shape.queued.size(), kMaxLeases);
  while (shape.requested.size() < wanted) request_lease(shape);
  if (shape.queued.empty()) schedule_idle_check(shape);
}

void Caller::request_lease(Shape& shape) {
  const LeaseId id = next_lease_++;
  shape.requested.insert(id);
  shape_of_lease_[id] = &shape;
  process_.tell_daemon(control::Type::kRequestLease, control::RequestLease{id, shape.resources, shape.wants_torch,
                                                                           shape.env, shape.name, shape.scheduling});
}

void Caller::schedule_idle_check(Shape& shape) {
  ++shape.round;
  bool any_idle = !shape.requested.empty();
  for (auto& [id, lease] : shape.leases) {
    if (lease.in_flight.empty() && lease.idle_round == 0) lease.idle_round = shape.round;
    any_idle |= lease.in_flight.empty();
  }
  if (!any_idle || shape.idle_timer) return;
  shape.idle_timer = true;
  process_.control().after(kLeaseIdle, [this, &shape, seen = shape.round] {
    shape.idle_timer = false;
    // Used meanwhile: look again later.
    if (shape.round != seen) return schedule_idle_check(shape);
    return_idle(shape, true);
  });
}

void Caller::on_leaving(ProcessIndex worker) {
  for (auto& shape : shapes_) {
    for (auto& [id, lease] : shape->leases) lease.leaving |= lease.process == worker;
  }
}

// Workers that take no more calls, and have answered or sent back those they had, may exit.
void Caller::dismiss_leaving(Shape& shape) {
  std::vector<LeaseId> done;
  for (auto& [id, lease] : shape.leases) {
    if (!lease.leaving || !lease.in_flight.empty()) continue;
    process_.peers().send(lease.process, Message::kTerminate, view_of(ActorId{0}));
    done.push_back(id);
  }
  for (const auto id : done) return_lease(shape, id, control::WorkerAfter::kLeaving);
}

// Each call of a shape that spreads has a lease of its own, so that the daemon chooses a node for it.
void Caller::return_used(Shape& shape) {
  std::vector<LeaseId> done;
  for (auto& [id, lease] : shape.leases) {
    if (lease.used && !lease.leaving && lease.in_flight.empty()) done.push_back(id);
  }
  for (const auto id : done) return_lease(shape, id, control::WorkerAfter::kIdle);
}

// Gives back leases without work, and requests that nothing waits for.
void Caller::return_idle(Shape& shape, bool requests_too) {
  dismiss_leaving(shape);
  std::vector<LeaseId> idle;
  for (auto& [id, lease] : shape.leases) {
    if (lease.in_flight.empty() && shape.queued.empty()) idle.push_back(id);
  }
  for (const auto id : idle) return_lease(shape, id, control::WorkerAfter::kIdle);
  if (!requests_too || !shape.queued.empty()) return;
  const auto requested = std::move(shape.requested);
  shape.requested.clear();
  for (const auto id : requested) {
    shape_of_lease_.erase(id);
    process_.tell_daemon(control::Type::kReturnLease,
                         control::ReturnLease{id, static_cast<std::uint8_t>(control::WorkerAfter::kIdle)});
  }
}

void Caller::return_lease(Shape& shape, LeaseId lease, control::WorkerAfter worker) {
  shape.leases.erase(lease);
  shape_of_lease_.erase(lease);
  process_.tell_daemon(control::Type::kReturnLease, control::ReturnLease{lease, static_cast<std::uint8_t>(worker)});
}

void Caller::on_recall_leases() {
  for (auto& shape : shapes_) return_idle(*shape, true);
}

void Caller::on_lease_granted(const control::LeaseGranted& granted) {
  const auto it = shape_of_lease_.find(granted.lease);
  if (it == shape_of_lease_.end()) {
    // Given back while the grant was on its way: the daemon has our kReturnLease.
    return;
  }
  Shape& shape = *it->second;
  shape.requested.erase(granted.lease);
  if (process_.peers().is_gone(granted.process)) {
    // Its end, told by its own link, overtook the grant: nothing can be sent there, and nobody would tell of it again.
    return_lease(shape, granted.lease, control::WorkerAfter::kBroken);
    return pump(shape);
  }
  Lease lease;
  lease.id = granted.lease;
  lease.process = granted.process;
  lease.pid = granted.pid;
  shape.leases.emplace(granted.lease, std::move(lease));
  pump(shape);
}

void Caller::on_lease_failed(const control::LeaseFailed& failed) {
  const auto it = shape_of_lease_.find(failed.lease);
  if (it == shape_of_lease_.end()) return;
  Shape& shape = *it->second;
  if (const auto granted = shape.leases.find(failed.lease); granted != shape.leases.end()) {
    // Its worker has ended since. Its last results count, nothing more is sent there, and the calls that wait for
    // another worker have nothing to do with it.
    granted->second.leaving = true;
    process_.peers().drain_from(granted->second.process);
    if (shape.leases.contains(failed.lease)) lose_lease(shape, failed.lease, failed.message);
    return pump(shape);
  }
  shape_of_lease_.erase(it);
  shape.requested.erase(failed.lease);
  const auto code = static_cast<Code>(failed.code);
  // Granted and lost again without a word between, while there was no daemon.
  if (code == Code::kPeerLost) return pump(shape);
  const auto kind = code == Code::kResourceExhausted ? ErrorKind::kInfeasible
                    : code == Code::kNotFound        ? ErrorKind::kGroupRemoved
                    : code == Code::kUnsupported     ? ErrorKind::kNoEnvironment
                                                     : ErrorKind::kWorkerCrashed;
  auto doomed = std::move(shape.queued);
  shape.queued.clear();
  for (OutgoingCall* call : doomed) fail(*call, make_failure(kind, *call->options.name + ": " + failed.message));
}

control::Reconcile Caller::relied_on() const {
  control::Reconcile message;
  for (const auto& [lease, shape] : shape_of_lease_) message.leases.push_back(lease);
  for (const auto& [id, actor] : actors_) {
    if (!actor->known || actor->latest.state != static_cast<std::uint8_t>(control::ActorState::kDead)) {
      message.actors.push_back(id);
    }
  }
  return message;
}

void Caller::on_rejected(ProcessIndex from, std::uint64_t task) {
  Entry* entry = process_.objects().find({process_.self(), store::ObjectKind::kValue, task});
  auto* call = entry != nullptr ? static_cast<OutgoingCall*>(entry->producer) : nullptr;
  if (call == nullptr || call->sent_to != from || call->shape == nullptr) return;
  unlink(*call);
  if (call->cancelled) return fail(*call, cancelled_before_start(*call));
  start_over(*call);
  // The worker waits in a call of its own: nothing goes there until that one returns.
  call->shape->mean_ns = 1e9;
  call->shape->queued.push_back(call);
  pump(*call->shape);
}

void Caller::on_process_lost(ProcessIndex process, const std::string& reason) {
  for (auto& shape : shapes_) {
    std::vector<LeaseId> lost;
    for (auto& [id, lease] : shape->leases) {
      if (lease.process == process) lost.push_back(id);
    }
    for (const auto id : lost) {
      process_.tell_daemon(control::Type::kReturnLease,
                           control::ReturnLease{id, static_cast<std::uint8_t>(control::WorkerAfter::kBroken)});
      lose_lease(*shape, id, reason);
    }
    if (!lost.empty()) pump(*shape);
  }
}

// The lease's worker has ended: the call that it had begun is over or runs again, those behind it go elsewhere.
void Caller::lose_lease(Shape& shape, LeaseId id, const std::string& reason) {
  auto node = shape.leases.extract(id);
  if (node.empty()) return;  // returned meanwhile: its calls had all come back
  shape_of_lease_.erase(id);
  bool first = true;
  std::deque<OutgoingCall*> again;
  while (OutgoingCall* call = node.mapped().in_flight.pop_front()) {
    call->sent_to = 0;
    // Only the first had started; the others lost nothing.
    const bool started = std::exchange(first, false);
    if (call->cancelled) {
      fail(*call, started ? make_failure(ErrorKind::kCancelled, *call->options.name + " was cancelled")
                          : cancelled_before_start(*call));
      continue;
    }
    if (started && call->retries_left == 0) {
      fail(*call, make_failure(ErrorKind::kWorkerCrashed,
                               *call->options.name + ": the worker that ran it (pid " +
                                   std::to_string(node.mapped().pid) + ") died: " + reason +
                                   ". Look at its log in the session's directory, and whether memory ran out "
                                   "(dmesg); set max_retries to have it run again"));
      continue;
    }
    if (started && call->retries_left > 0) --call->retries_left;
    if (started) note_lost_attempt(*call, ErrorKind::kWorkerCrashed, reason);
    start_over(*call);
    again.push_back(call);
  }
  shape.queued.insert(shape.queued.begin(), again.begin(), again.end());
}

}  // namespace beeline::runtime
