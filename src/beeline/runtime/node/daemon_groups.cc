// The daemon's part that carries out what happens to placement groups, and to the nodes that they lie on.
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "beeline/runtime/node/daemon.h"

namespace beeline::runtime::node {
namespace {

using control::DeathCause;
using control::GroupState;
using control::Type;

const std::string kGroupIsRemoved = "its placement group was removed";

// As Python shows it.
std::string text_of(GroupId group) {
  char digits[48];
  std::snprintf(digits, sizeof digits, "%036llx", static_cast<unsigned long long>(group));
  return digits;
}

}  // namespace

GroupRecord* Daemon::find_group(GroupId group) {
  if (auto* record = groups_.find(group); record != nullptr || draining_) return record;
  if (Connection* creator = find(GroupTable::creator_of(group))) {
    draining_ = true;
    while (read_frames(*creator) && groups_.find(group) == nullptr) {
    }
    draining_ = false;
  }
  return groups_.find(group);
}

void Daemon::expect_group(const Connection& from, GroupId group) {
  if (group != 0 && GroupTable::creator_of(group) != from.index) find_group(group);
}

void Daemon::announce(const GroupRecord& record) {
  const Bytes frame = control::encode(Type::kGroupUpdate, record.update());
  for (const ProcessIndex watcher : record.watchers) {
    if (Connection* connection = find(watcher)) send(*connection, frame);
  }
}

void Daemon::create_group(Connection& from, control::CreateGroup message) {
  const GroupId group = message.group;
  const auto request = message.request;
  const auto answer = [&](const Status& status) {
    if (request == 0) return;
    send(from.index, Type::kReply, control::Reply{request, static_cast<std::uint8_t>(status.code()), status.message()});
  };
  if (GroupTable::creator_of(group) != from.index) {
    return answer({Code::kInvalidArgument, "the placement group's id does not carry its creator's index"});
  }
  // Asked once more because the daemon that had made it could not say so.
  if (groups_.find(group) != nullptr && request != 0) return answer(Status::ok());
  const auto created = groups_.create(std::move(message), from.index);
  if (!created.is_ok()) return answer(created.status());
  auto& record = **created;
  const auto& create = record.create;
  const auto status =
      create.strategy > static_cast<std::uint8_t>(GroupStrategy::kStrictSpread)
          ? Status(Code::kInvalidArgument, "a placement group of an unknown strategy")
          : scheduler_.add_group(group, create.bundles, static_cast<GroupStrategy>(create.strategy), create.preferred);
  answer(status);
  if (!status.is_ok()) {
    groups_.remove(group, status.message(), {});
    return announce(record);
  }
  ++counters_["groups_created"];
  if (const auto lack = scheduler_.lack_of(group); !lack.empty()) {
    const std::string text = "placement group " + text_of(group) +
                             (create.name.empty() ? "" : " '" + create.name + "'") + " waits: " + lack + "\n";
    std::fprintf(stderr, "beelined: %s", text.c_str());
    send_logs({static_cast<std::int32_t>(::getpid()), 0, "beelined"}, true, text);
  }
}

void Daemon::place_groups() {
  for (const GroupId group : scheduler_.place_groups()) {
    groups_.set_state(group, GroupState::kCreated);
    announce(*groups_.find(group));
  }
}

void Daemon::remove_group(GroupId group) {
  auto* record = find_group(group);
  if (record == nullptr || !groups_.remove(group, {}, scheduler_.nodes_of(group))) return;
  announce(*record);
  scheduler_.remove_group(group);
  std::vector<DemandId> inside;
  for (const auto& [id, demand] : demands_) {
    if (demand.request.scheduling.group == group) inside.push_back(id);
  }
  for (const DemandId id : inside) end_demand(id, Code::kNotFound, DeathCause::kGroupRemoved, kGroupIsRemoved);
}

void Daemon::watch_group(ProcessIndex from, GroupId group) {
  if (const auto* record = find_group(group)) {
    groups_.watch(group, from);
    return send(from, Type::kGroupUpdate, record->update());
  }
  if (find(GroupTable::creator_of(group)) != nullptr && !groups_.was_created(group)) {
    return groups_.watch(group, from);
  }
  send(from, Type::kGroupUpdate, control::GroupUpdate{group, static_cast<std::uint8_t>(GroupState::kRemoved), {}});
}

control::GroupRow Daemon::row_of(const GroupRecord& record) const {
  control::GroupRow row;
  row.group = record.create.group;
  row.name = record.create.name;
  row.strategy = record.create.strategy;
  row.state = static_cast<std::uint8_t>(record.state);
  for (const auto& bundle : record.create.bundles) row.bundles.push_back(bundle.resources);
  row.nodes = record.is_removed() ? record.nodes : scheduler_.nodes_of(row.group);
  row.accelerators = scheduler_.accelerators_of(row.group);
  row.lacks = scheduler_.lack_of(row.group);
  row.detached = record.create.detached;
  return row;
}

void Daemon::get_groups(Connection& from, const control::GetGroups& message) {
  control::Groups answer;
  answer.request = message.request;
  const auto add = [&](const GroupRecord& record) { answer.groups.push_back(row_of(record)); };
  if (message.group != 0) {
    if (const auto* record = find_group(message.group)) add(*record);
  } else if (!message.name.empty()) {
    if (const auto* record = groups_.find(message.name_space, message.name)) add(*record);
  } else {
    for (const auto& [group, record] : groups_.all()) add(record);
  }
  send(from.index, Type::kGroups, answer);
}

// Groups end with their driver; those that workers made, with the last one, unless the worker lives on.
void Daemon::end_groups_of(ProcessIndex process, bool is_driver) {
  const auto forgotten = groups_.forget_process(process);
  for (const auto& [group, watchers] : forgotten.unborn) {
    const control::GroupUpdate removed{group, static_cast<std::uint8_t>(GroupState::kRemoved), {}};
    for (const ProcessIndex watcher : watchers) send(watcher, Type::kGroupUpdate, removed);
  }
  if (!is_driver || ending_) return;
  std::vector<GroupId> ended;
  for (const auto& [group, record] : groups_.all()) {
    const bool orphaned = record.owner == process || find(record.owner) == nullptr;
    if (!record.create.detached && !record.is_removed() && orphaned) ended.push_back(group);
  }
  for (const GroupId group : ended) remove_group(group);
}

// ----- nodes

void Daemon::add_node(Connection& from, const control::AddNode& message) {
  if (!options_.virtual_nodes) {
    return send(from.index, Type::kNodeAdded,
                control::NodeAdded{message.request, kNoNode,
                                   "nodes are added to sessions of beeline.testing.VirtualCluster alone"});
  }
  const NodeRequest asked{from.index, message.request};
  if (const auto before = node_requests_.find(asked); before != node_requests_.end()) {
    return send(from.index, Type::kNodeAdded, control::NodeAdded{message.request, before->second, {}});
  }
  const auto added = scheduler_.add_node(message.resources, message.labels);
  if (added.is_ok()) {
    node_requests_[asked] = *added;
    changed(Journal::Kind::kNode, *added);
  }
  send(from.index, Type::kNodeAdded,
       control::NodeAdded{message.request, added.is_ok() ? *added : kNoNode,
                          added.is_ok() ? std::string() : added.status().message()});
}

void Daemon::remove_node(Connection& from, const control::RemoveNode& message) {
  const auto& nodes = scheduler_.nodes();
  control::Reply reply{message.request, 0, {}};
  const NodeRequest asked{from.index, message.request};
  if (node_requests_.contains(asked)) return send(from.index, Type::kReply, reply);
  if (message.node == 0 || message.node >= nodes.size() || !nodes[message.node].is_alive) {
    reply.code = static_cast<std::uint8_t>(Code::kInvalidArgument);
    reply.message = message.node == 0 ? "the node of the drivers cannot be removed"
                                      : "there is no node " + std::to_string(message.node) + " (any more)";
    return send(from.index, Type::kReply, reply);
  }
  node_requests_[asked] = message.node;
  changed(Journal::Kind::kNode, message.node);
  for (const auto ticket : scheduler_.remove_node(message.node)) {
    end_demand(ticket, Code::kResourceExhausted, DeathCause::kUnschedulable, "the node that it was for was removed");
  }
  std::vector<DemandId> there;
  for (const auto& [id, demand] : demands_) {
    if (demand.allocation && demand.allocation->node == message.node) there.push_back(id);
  }
  for (const DemandId id : there) {
    if (const WorkerToken worker = demands_.at(id).worker; worker != 0) {
      pool_.kill(worker, "its node was removed");
    } else {
      place_again(id);
    }
  }
  for (const auto& [group, record] : groups_.all()) {
    const auto places = scheduler_.nodes_of(group);
    if (record.state != GroupState::kCreated || std::find(places.begin(), places.end(), kNoNode) == places.end())
      continue;
    groups_.set_state(group, GroupState::kRescheduling);
    announce(record);
  }
  send(from.index, Type::kReply, reply);
}

}  // namespace beeline::runtime::node
