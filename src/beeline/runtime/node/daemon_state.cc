// What `beeline status` and the state API see.
#include <unistd.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "beeline/os/process.h"
#include "beeline/runtime/node/daemon.h"

namespace beeline::runtime::node {
namespace {

using control::Type;

// A process that is stopped or starved does not hold up those who ask for the state.
constexpr std::chrono::milliseconds kUsageWithin(500);
constexpr std::chrono::milliseconds kUsageWithinAtMost(25'000);
// Rows of each kind from one process, whatever is asked for.
constexpr std::uint32_t kMaxListed = 100'000;
constexpr std::size_t kRememberedWorkers = 1000;

}  // namespace

std::pair<std::string, NodeIndex> Daemon::use_of(WorkerToken worker) const {
  const auto* demand = demand_of_worker(worker);
  if (demand == nullptr) return {"idle", 0};
  const NodeIndex node = demand->allocation ? demand->allocation->node : 0;
  if (demand->actor == 0) return {"task worker", node};
  const auto record = actors_.all().find(demand->actor);
  if (record == actors_.all().end()) return {"actor that has ended", node};  // so long ago that it was forgotten
  return {"actor " + record->second.create.class_name, node};
}

void Daemon::remember_ended(const Worker& worker, const std::string& how) {
  const auto [what, node] = use_of(worker.token);
  control::EndedRow row;
  row.index = worker.index;
  row.pid = static_cast<std::int32_t>(worker.pid);
  row.what = what;
  row.how = how;
  row.node = node;
  row.intended = worker.killed || worker.exit_status == 0;
  row.ended_ns = std::chrono::duration_cast<Nanos>(std::chrono::system_clock::now().time_since_epoch()).count();
  ended_workers_.push_back(std::move(row));
  if (ended_workers_.size() > kRememberedWorkers) ended_workers_.pop_front();
}

control::ActorRow Daemon::row_of(const ActorRecord& record, std::uint8_t parts) const {
  const auto& create = record.create;
  control::ActorRow row;
  row.actor = create.actor;
  row.class_name = create.class_name;
  row.name = create.name;
  row.name_space = create.name_space;
  row.state = static_cast<std::uint8_t>(record.state);
  row.pid = record.pid;
  row.incarnation = record.incarnation;
  row.resources = create.resources;
  row.owner = record.owner;
  row.process = record.process;
  row.detached = create.detached;
  row.job = record.job;
  row.cause = static_cast<std::uint8_t>(record.cause);
  row.message = record.message;
  row.group = create.scheduling.group;
  if ((parts & control::kPartErrors) != 0) row.error = record.error;
  const auto demand = demand_of_actor_.find(create.actor);
  if (demand == demand_of_actor_.end()) return row;
  if (const auto& allocation = demands_.at(demand->second).allocation) row.node = allocation->node;
  return row;
}

control::State Daemon::state(std::uint64_t request, std::uint8_t parts) {
  control::State state;
  state.request = request;
  state.session_name = session_name_;
  state.uptime_s = std::chrono::duration<double>(Clock::now() - started_).count();
  state.total = scheduler_.total();
  state.available = scheduler_.available();
  for (const auto& [actor, record] : actors_.all()) state.actors.push_back(row_of(record, parts));
  for (const auto& [index, connection] : processes_) {
    if (connection->closing) continue;
    control::ProcessRow row;
    row.index = index;
    row.pid = static_cast<std::int32_t>(connection->pid);
    row.kind = static_cast<std::uint8_t>(connection->kind);
    row.what = connection->kind == control::ProcessKind::kDriver ? "driver" : "tool";
    row.job = connection->job;
    if (connection->kind == control::ProcessKind::kWorker) std::tie(row.what, row.node) = use_of(connection->worker);
    row.pss_bytes = os::pss_bytes(connection->pid);
    state.processes.push_back(std::move(row));
  }
  // Processes that have no index: they are nobody's peers.
  constexpr auto kTool = static_cast<std::uint8_t>(control::ProcessKind::kTool);
  auto others = pool_.zygotes();
  others.emplace(others.begin(), ::getpid(), "beelined");
  for (const auto& [pid, name] : others) {
    control::ProcessRow row;
    row.pid = static_cast<std::int32_t>(pid);
    row.kind = kTool;
    row.what = name;
    row.pss_bytes = os::pss_bytes(pid);
    state.processes.push_back(std::move(row));
  }
  for (const auto& [id, demand] : demands_) {
    if (demand.worker != 0) continue;
    ++(demand.actor != 0 ? state.pending_actors : state.pending_leases);
  }
  for (const auto& [id, record] : groups_.all()) {
    state.pending_groups += record.state == control::GroupState::kPending ? 1 : 0;
  }
  for (NodeIndex node = 0; node < scheduler_.nodes().size(); ++node) {
    const auto& about = scheduler_.nodes()[node];
    state.nodes.push_back(
        {node, node_id(node), about.is_alive, about.labels, to_resources(about.total), scheduler_.available(node)});
  }
  state.counters = counters_;
  const auto pool = pool_.counters();
  state.counters["workers_started"] = pool.workers_started;
  state.counters["worker_start_failures"] = pool.worker_start_failures;
  state.counters["zygote_restarts"] = pool.zygote_restarts;
  state.counters["environments_made"] = pool.environments_made;
  state.counters["environment_failures"] = pool.environment_failures;
  state.counters["log_bytes_lost"] = logs_.lost_bytes();
  state.ended.assign(ended_workers_.begin(), ended_workers_.end());
  if ((parts & control::kPartGroups) != 0) {
    for (const auto& [group, record] : groups_.all()) state.groups.push_back(row_of(record));
  }
  return state;
}

void Daemon::get_state(Connection& from, const control::GetState& message) {
  if ((message.parts & control::kPartsOfProcesses) == 0) {
    return send(from.index, Type::kState, state(message.request, message.parts));
  }
  const std::uint64_t id = next_query_++;
  Query& query = queries_[id];
  query.from = from.index;
  query.request = message.request;
  query.parts = message.parts;
  for (const auto& [index, connection] : processes_) {
    if (connection->kind == control::ProcessKind::kTool || connection->closing || connection->greeting ||
        !connection->socket.is_open()) {
      continue;
    }
    query.awaited.insert(index);
  }
  const auto asked = query.awaited;
  const control::ReportUsage question{id, message.parts, std::min(message.limit, kMaxListed)};
  for (const ProcessIndex index : asked) send(index, Type::kReportUsage, question);
  if (asked.empty()) return answer(id);
  const std::chrono::milliseconds within(message.within_ms);
  loop_.after(within.count() == 0 ? kUsageWithin : std::min(within, kUsageWithinAtMost), [this, id] { answer(id); });
}

void Daemon::add_usage(ProcessIndex process, control::Usage message) {
  const auto found = queries_.find(message.query);
  if (found == queries_.end() || found->second.awaited.erase(process) == 0) return;  // too late
  found->second.answers[process] = std::move(message);
  if (found->second.awaited.empty()) answer(found->first);
}

void Daemon::expect_no_usage(ProcessIndex process) {
  std::vector<std::uint64_t> complete;
  for (auto& [id, query] : queries_) {
    if (query.awaited.erase(process) > 0 && query.awaited.empty()) complete.push_back(id);
  }
  for (const std::uint64_t id : complete) answer(id);
}

void Daemon::answer(std::uint64_t id) {
  const auto node = queries_.extract(id);
  if (!node) return;  // answered before its time was up
  Query& query = node.mapped();
  if (const auto missing = query.awaited.size(); missing > 0) counters_["usage_unanswered"] += missing;
  auto now = state(query.request, query.parts);
  for (auto& row : now.processes) {
    row.unanswered = query.awaited.contains(row.index);
    const auto found = query.answers.find(row.index);
    if (found == query.answers.end()) continue;
    row.usage = std::move(found->second.counts);
    row.listing = std::move(found->second.listing);
  }
  send(query.from, Type::kState, now);
}

}  // namespace beeline::runtime::node
