// What there is in a session, as dicts: its own rows, and what its processes tell of their calls and objects.
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>

#include "bindings.h"
#include "dicts.h"

namespace beeline::python {
namespace {

namespace control = runtime::control;

// How long the daemon may take beyond what it waits for processes.
constexpr auto kDaemonWithin = std::chrono::seconds(10);

std::string task_id(runtime::ProcessIndex caller, std::uint64_t task, const std::string& session) {
  if (caller == 0) return {};
  return hex(binary_of({caller, store::ObjectKind::kValue, task}, session).substr(0, kTaskIdSize));
}

nb::list tasks_of(const control::Listing& listing, const std::string& session) {
  return list_of(listing.tasks, [&](const control::TaskRow& row) {
    const nb::tuple key = nb::make_tuple(row.caller, row.task, row.attempt);
    nb::dict out = dict_of("state", row.state, "worker", row.worker, "started_ns", row.started_ns, "ended_ns",
                           row.ended_ns, "of_executor", row.of_executor);
    out["key"] = key;
    if (row.of_executor) return out;
    out["task_id"] = task_id(row.caller, row.task, session);
    out["parent_task_id"] = task_id(row.parent_caller, row.parent_task, session);
    out["name"] = row.name;
    out["function"] = row.function;
    out["actor"] = row.actor;
    out["error"] = row.error;
    out["error_message"] = row.error_message;
    out["error_pickle"] = nb::bytes(row.error_pickle.data(), row.error_pickle.size());
    out["resources"] = row.resources;
    out["group"] = row.group;
    return out;
  });
}

nb::list objects_of(const control::Listing& listing, const std::string& session) {
  return list_of(listing.objects, [&](const control::ObjectRow& row) {
    const store::ObjectId id{row.owner, static_cast<store::ObjectKind>(row.kind), row.serial};
    nb::dict out = dict_of("object_id", hex(binary_of(id, session)), "owner", row.owner, "name", row.name, "call_site",
                           row.call_site, "size_bytes", row.size_bytes, "error", row.error);
    out["reference"] = row.reference;
    out["task_state"] = row.task_state;
    out["attempt"] = row.attempt;
    out["holds"] = row.holds;
    out["borrowers"] = row.borrowers;
    out["holder"] = row.holder;
    out["slot"] = row.slot;
    out["generation"] = row.generation;
    out["is_direct"] = row.is_direct;
    return out;
  });
}

nb::list publications_of(const control::Listing& listing) {
  return list_of(listing.publications, [](const control::PublicationRow& row) {
    return dict_of("slot", row.slot, "generation", row.generation, "owner", row.owner, "nbytes", row.bytes, "buffers",
                   row.buffers, "is_direct", row.is_direct, "is_moved_out", row.is_moved_out, "is_retired",
                   row.is_retired, "transport", row.transport, "age_s", row.age_s, "readers", row.readers, "leases",
                   row.leases);
  });
}

nb::list processes_of(const control::State& state) {
  return list_of(state.processes, [&](const control::ProcessRow& row) {
    nb::dict out = dict_of("index", row.index, "pid", row.pid, "kind", row.kind, "what", row.what, "pss_bytes",
                           row.pss_bytes, "usage", row.usage, "node", row.node, "unanswered", row.unanswered);
    out["job"] = row.job;
    out["tasks"] = tasks_of(row.listing, state.session_name);
    out["objects"] = objects_of(row.listing, state.session_name);
    out["publications"] = publications_of(row.listing);
    out["tasks_left_out"] = row.listing.tasks_left_out;
    out["objects_left_out"] = row.listing.objects_left_out;
    out["publications_left_out"] = row.listing.publications_left_out;
    out["tasks_forgotten"] = row.listing.tasks_forgotten;
    return out;
  });
}

nb::list actors_of(const control::State& state) {
  return list_of(state.actors, [](const control::ActorRow& row) {
    nb::dict out = dict_of("actor_id", row.actor, "class_name", row.class_name, "name", row.name, "namespace",
                           row.name_space, "state", row.state, "pid", row.pid, "incarnation", row.incarnation);
    out["resources"] = row.resources;
    out["owner"] = row.owner;
    out["process"] = row.process;
    out["node"] = row.node;
    out["detached"] = row.detached;
    out["job"] = row.job;
    out["cause"] = row.cause;
    out["message"] = row.message;
    out["group"] = row.group;
    out["error_pickle"] = nb::bytes(row.error.data(), row.error.size());
    return out;
  });
}

nb::dict state_dict(const control::State& state) {
  const auto nodes = list_of(state.nodes, [](const control::NodeRow& row) {
    return dict_of("node", row.node, "id", row.id, "alive", row.alive, "labels", row.labels, "total", row.total,
                   "available", row.available);
  });
  const auto ended = list_of(state.ended, [](const control::EndedRow& row) {
    return dict_of("index", row.index, "pid", row.pid, "what", row.what, "how", row.how, "node", row.node, "intended",
                   row.intended, "ended_ns", row.ended_ns);
  });
  const auto groups = list_of(state.groups, [](const control::GroupRow& row) {
    return dict_of("group", row.group, "name", row.name, "strategy", row.strategy, "state", row.state, "bundles",
                   row.bundles, "nodes", row.nodes, "accelerators", row.accelerators, "lacks", row.lacks, "detached",
                   row.detached);
  });
  nb::dict out = dict_of("session_name", state.session_name, "uptime_s", state.uptime_s, "total", state.total,
                         "available", state.available, "pending_actors", state.pending_actors, "pending_leases",
                         state.pending_leases, "pending_groups", state.pending_groups, "counters", state.counters);
  out["actors"] = actors_of(state);
  out["processes"] = processes_of(state);
  out["nodes"] = nodes;
  out["ended"] = ended;
  out["groups"] = groups;
  return out;
}

control::GetState request_of(std::uint8_t parts, std::uint32_t limit, double within_s) {
  return {.request = 0,
          .parts = parts,
          .limit = limit,
          .within_ms = static_cast<std::uint32_t>(std::clamp(within_s, 0.0, 1e6) * 1000)};
}

nb::dict node_state(std::uint8_t parts, std::uint32_t limit, double within_s) {
  auto& running = process();
  const auto state = [&] {
    nb::gil_scoped_release released;
    return running.node_state(request_of(parts, limit, within_s));
  }();
  if (!state) raise_status(state.status(), "ask for the node's state");
  return state_dict(state.value());
}

nb::dict session_state(const std::string& session_dir, std::uint8_t parts, std::uint32_t limit, double within_s) {
  const auto state = [&] {
    nb::gil_scoped_release released;
    const auto within = std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(std::max(within_s, 0.0)));
    return runtime::session_state(session_dir, request_of(parts, limit, within_s),
                                  Deadline::after(within + kDaemonWithin));
  }();
  if (!state) raise_status(state.status(), "ask for the state of " + session_dir);
  return state_dict(state.value());
}

}  // namespace

void bind_state(nb::module_& m) {
  m.attr("PART_USAGE") = control::kPartUsage;
  m.attr("PART_TASKS") = control::kPartTasks;
  m.attr("PART_OBJECTS") = control::kPartObjects;
  m.attr("PART_GROUPS") = control::kPartGroups;
  m.attr("PART_ERRORS") = control::kPartErrors;
  m.def("node_state", &node_state, nb::arg("parts") = 0, nb::arg("limit") = 0, nb::arg("within_s") = 0.0);
  m.def("session_state", &session_state, nb::arg("session_dir"), nb::arg("parts") = control::kPartUsage,
        nb::arg("limit") = 0, nb::arg("within_s") = 0.0);
}

}  // namespace beeline::python
