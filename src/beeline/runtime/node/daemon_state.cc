// What `beeline status` and the state API see.
#include <unistd.h>

#include "beeline/os/process.h"
#include "beeline/runtime/node/daemon.h"

namespace beeline::runtime::node {

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
      what = demand == nullptr    ? "idle"
             : demand->actor == 0 ? "task worker"
                                  : "actor " + actors_.find(demand->actor)->create.class_name;
    }
    state.processes.push_back({index, static_cast<std::int32_t>(connection->pid),
                               static_cast<std::uint8_t>(connection->kind), what, os::pss_bytes(connection->pid)});
  }
  // Processes that have no index: they are nobody's peers.
  constexpr auto kTool = static_cast<std::uint8_t>(control::ProcessKind::kTool);
  state.processes.push_back({0, static_cast<std::int32_t>(::getpid()), kTool, "beelined", os::pss_bytes(::getpid())});
  for (const auto& [pid, name] : pool_.zygotes()) {
    state.processes.push_back({0, static_cast<std::int32_t>(pid), kTool, name, os::pss_bytes(pid)});
  }
  for (const auto& [id, demand] : demands_) {
    if (demand.worker != 0) continue;
    ++(demand.actor != 0 ? state.pending_actors : state.pending_leases);
  }
  state.counters = counters_;
  const auto& pool = pool_.counters();
  state.counters["workers_started"] = pool.workers_started;
  state.counters["worker_start_failures"] = pool.worker_start_failures;
  state.counters["zygote_restarts"] = pool.zygote_restarts;
  state.counters["log_bytes_lost"] = logs_.lost_bytes();
  return state;
}

}  // namespace beeline::runtime::node
