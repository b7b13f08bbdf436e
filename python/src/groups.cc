// Placement groups and nodes.
#include "groups.h"

#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "dicts.h"

namespace beeline::python {
namespace {

// (key, values, negated)
using Rule = std::tuple<std::string, std::vector<std::string>, bool>;

std::vector<runtime::LabelRule> to_rules(nb::handle rules) {
  std::vector<runtime::LabelRule> out;
  for (auto& [key, values, negated] : nb::cast<std::vector<Rule>>(rules)) {
    out.push_back({std::move(key), std::move(values), negated});
  }
  return out;
}

std::uint64_t create_group(const std::vector<runtime::Resources>& bundles, const nb::list& required, int strategy,
                           std::uint32_t preferred, const std::string& name, const std::string& name_space,
                           bool detached) {
  runtime::control::CreateGroup request;
  for (std::size_t i = 0; i < bundles.size(); ++i) {
    request.bundles.push_back(
        {bundles[i], i < required.size() ? to_rules(required[i]) : std::vector<runtime::LabelRule>{}});
  }
  request.strategy = static_cast<std::uint8_t>(strategy);
  request.preferred = preferred;
  request.name = name;
  request.name_space = name_space;
  request.detached = detached;
  auto& running = process();
  const auto created = [&] {
    nb::gil_scoped_release released;
    return running.create_group(std::move(request));
  }();
  if (!created) raise_status(created.status(), "create a placement group");
  return *created;
}

nb::list groups(std::uint64_t group, const std::string& name, const std::string& name_space) {
  auto& running = process();
  const auto found = [&] {
    nb::gil_scoped_release released;
    return running.groups({0, group, name, name_space});
  }();
  if (!found) raise_status(found.status(), "ask for placement groups");
  return list_of(found->groups, [](const auto& row) {
    return dict_of("group", row.group, "name", row.name, "strategy", row.strategy, "state", row.state, "bundles",
                   row.bundles, "nodes", row.nodes, "accelerators", row.accelerators, "lacks", row.lacks);
  });
}

std::uint32_t add_node(const runtime::Resources& resources, const runtime::Labels& labels) {
  auto& running = process();
  const auto added = [&] {
    nb::gil_scoped_release released;
    return running.add_node({0, resources, labels});
  }();
  if (!added) raise_status(added.status(), "add a node");
  if (added->node == runtime::kNoNode) throw nb::value_error(added->message.c_str());
  return added->node;
}

void remove_node(std::uint32_t node) {
  auto& running = process();
  const auto status = [&] {
    nb::gil_scoped_release released;
    return running.remove_node(node);
  }();
  if (!status) raise_status(status, "remove a node");
}

}  // namespace

runtime::Scheduling to_scheduling(nb::handle given) {
  runtime::Scheduling scheduling;
  if (given.is_none()) return scheduling;
  for (auto [key, value] : nb::cast<nb::dict>(given)) {
    const auto name = nb::cast<std::string>(key);
    if (name == "policy") scheduling.policy = nb::cast<std::uint8_t>(value);
    if (name == "node") scheduling.node = nb::cast<std::uint32_t>(value);
    if (name == "soft") scheduling.soft = nb::cast<bool>(value);
    if (name == "spill") scheduling.spill = nb::cast<bool>(value);
    if (name == "no_wait") scheduling.no_wait = nb::cast<bool>(value);
    if (name == "required") scheduling.required = to_rules(value);
    if (name == "preferred") scheduling.preferred = to_rules(value);
    if (name == "group") scheduling.group = nb::cast<std::uint64_t>(value);
    if (name == "bundle") scheduling.bundle = nb::cast<std::int32_t>(value);
    if (name == "capture") scheduling.capture = nb::cast<bool>(value);
  }
  return scheduling;
}

void bind_groups(nb::module_& m) {
  m.attr("NO_NODE") = runtime::kNoNode;
  m.def("create_group", &create_group, nb::arg("bundles"), nb::arg("required"), nb::arg("strategy"),
        nb::arg("preferred"), nb::arg("name"), nb::arg("namespace"), nb::arg("detached"));
  m.def("remove_group", [](std::uint64_t group) { process().remove_group(group); });
  m.def("groups", &groups, nb::arg("group"), nb::arg("name"), nb::arg("namespace"));
  m.def(
      "group_ready",
      [](std::uint64_t group, nb::handle value) {
        return new Ref(*process().group_ready(group, to_payload(value, runtime::Mode::kStored)));
      },
      nb::arg("group"), nb::arg("value").none(), nb::rv_policy::take_ownership);
  m.def("add_node", &add_node, nb::arg("resources"), nb::arg("labels"));
  m.def("remove_node", &remove_node, nb::arg("node"));
  m.def("node_id", &runtime::node_id);
  m.def("node_of_id", &runtime::node_of_id);
}

}  // namespace beeline::python
