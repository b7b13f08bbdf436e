// What `beeline status` and the state API see.
#include <unistd.h>

#include "beeline/os/process.h"
#include "beeline/runtime/node/daemon.h"

namespace beeline::runtime::node {
namespace {

// A process that is stopped or starved does not hold up those who ask for the state.
constexpr auto kUsageWithin = std::chrono::milliseconds(500);

}  // namespace

control::State Daemon::state(std::uint64_t request) {
  control::State state;
  state.request = request;
  state.session_name = session_name_;
  state.uptime_s = std::chrono::duration<double>(Clock::now() - started_).count();
  state.total = scheduler_.total();
  state.available = scheduler_.available();
  for (const auto& [actor, record] : actors_.all()) {
    state.actors.push_back({actor, record.create.class_name, record.create.name, record.create.name_space,
                            static_cast<std::uint8_t>(record.state), record.pid, record.incarnation,
                            record.create.resources});
  }
  for (const auto& [index, connection] : processes_) {
    if (connection->closing) continue;
    std::string what = connection->kind == control::ProcessKind::kDriver ? "driver" : "tool";
    if (connection->kind == control::ProcessKind::kWorker) {
      const auto* demand = demand_of_worker(connection->worker);
      const auto* record = demand == nullptr ? nullptr : actors_.find(demand->actor);
      what = demand == nullptr    ? "idle"
             : demand->actor == 0 ? "task worker"
             : record == nullptr  ? "actor that has ended"  // so long ago that it was forgotten
                                  : "actor " + record->create.class_name;
    }
    state.processes.push_back({index,
                               static_cast<std::int32_t>(connection->pid),
                               static_cast<std::uint8_t>(connection->kind),
                               what,
                               os::pss_bytes(connection->pid),
                               {}});
  }
  // Processes that have no index: they are nobody's peers.
  constexpr auto kTool = static_cast<std::uint8_t>(control::ProcessKind::kTool);
  state.processes.push_back(
      {0, static_cast<std::int32_t>(::getpid()), kTool, "beelined", os::pss_bytes(::getpid()), {}});
  for (const auto& [pid, name] : pool_.zygotes()) {
    state.processes.push_back({0, static_cast<std::int32_t>(pid), kTool, name, os::pss_bytes(pid), {}});
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
  return state;
}

void Daemon::get_state(Connection& from, const control::GetState& message) {
  if (!message.usage) return send(from.index, control::Type::kState, state(message.request));
  const std::uint64_t id = next_query_++;
  Query& query = queries_[id];
  query.from = from.index;
  query.request = message.request;
  for (const auto& [index, connection] : processes_) {
    if (connection->kind == control::ProcessKind::kTool || connection->closing || connection->greeting) continue;
    query.awaited.insert(index);
  }
  const auto asked = query.awaited;
  for (const ProcessIndex index : asked) send(index, control::Type::kReportUsage, control::ReportUsage{id});
  if (asked.empty()) return answer(id);
  loop_.after(kUsageWithin, [this, id] { answer(id); });
}

void Daemon::add_usage(ProcessIndex process, control::Usage message) {
  const auto found = queries_.find(message.query);
  if (found == queries_.end() || found->second.awaited.erase(process) == 0) return;  // too late
  found->second.usage[process] = std::move(message.counts);
  if (found->second.awaited.empty()) answer(message.query);
}

void Daemon::expect_no_usage(ProcessIndex process) {
  std::vector<std::uint64_t> complete;
  for (auto& [id, query] : queries_) {
    if (query.awaited.erase(process) > 0 && query.awaited.empty()) complete.push_back(id);
  }
  for (const std::uint64_t id : complete) answer(id);
}

void Daemon::answer(std::uint64_t query) {
  const auto node = queries_.extract(query);
  if (!node) return;  // answered before its time was up
  if (const auto missing = node.mapped().awaited.size(); missing > 0) counters_["usage_unanswered"] += missing;
  auto now = state(node.mapped().request);
  for (auto& row : now.processes) {
    if (const auto usage = node.mapped().usage.extract(row.index)) row.usage = std::move(usage.mapped());
  }
  send(node.mapped().from, control::Type::kState, now);
}

}  // namespace beeline::runtime::node
