// Placement groups as their creators and those who wait for them see them, and virtual nodes.
#include <utility>

#include "beeline/runtime/process.h"

namespace beeline::runtime {
namespace {

using control::GroupState;

store::PayloadPtr group_failure(const std::string& why) {
  return store::make_failure(store::ErrorKind::kGroupRemoved,
                             "the placement group was removed" + (why.empty() ? "" : ": " + why));
}

}  // namespace

Result<GroupId> Process::create_group(control::CreateGroup request) {
  Locked locked(lock_);
  if (!session_error_.empty()) return Status(Code::kShutdown, session_error_);
  const GroupId id = std::uint64_t{self_} << 32 | next_group_++;
  request.group = id;
  request.request = request.name.empty() ? 0 : next_request_++;
  groups_[id];  // the daemon tells its creator of it without being asked
  if (request.request == 0) {
    tell_daemon(control::Type::kCreateGroup, request);
    return id;
  }
  ask_daemon(control::Type::kCreateGroup, request);
  BEELINE_ASSIGN(const auto reply, await_reply<control::Reply>(locked, request.request));
  if (reply.code == 0) return id;
  groups_.erase(id);
  return Status(static_cast<Code>(reply.code), reply.message);
}

void Process::remove_group(GroupId id) {
  const Locked locked(lock_);
  if (const auto known = groups_.find(id); known != groups_.end()) known->second.condemned = true;
  tell_daemon(control::Type::kRemoveGroup, control::RemoveGroup{id});
}

Result<control::Groups> Process::groups(control::GetGroups request) {
  Locked locked(lock_);
  request.request = next_request_++;
  ask_daemon(control::Type::kGetGroups, request);
  return await_reply<control::Groups>(locked, request.request);
}

Process::Entry* Process::group_ready(GroupId id, store::PayloadPtr value) {
  const Locked locked(lock_);
  Entry& entry = objects_.create(store::ObjectKind::kValue, intern_locked("PlacementGroup.ready"));
  if (!session_error_.empty()) {
    objects_.set_ready(entry, session_failure());
    return &entry;
  }
  const auto [target, is_new] = groups_.try_emplace(id);
  if (is_new) tell_daemon(control::Type::kWatchGroup, control::WatchGroup{id});
  if (target->second.state == GroupState::kCreated && !target->second.condemned) {
    objects_.set_ready(entry, std::move(value));
  } else {
    objects_.add_hold(entry);
    target->second.waiting.emplace_back(&entry, std::move(value));
  }
  return &entry;
}

void Process::on_group_update(const control::GroupUpdate& update) {
  const auto found = groups_.find(update.group);
  if (found == groups_.end()) return;
  auto& target = found->second;
  target.state = static_cast<GroupState>(update.state);
  const bool removed = target.state == GroupState::kRemoved;
  if (!removed && (target.state != GroupState::kCreated || target.condemned)) return;
  for (auto& [entry, value] : std::exchange(target.waiting, {})) {
    objects_.set_ready(*entry, removed ? group_failure(update.message) : std::move(value));
    objects_.drop_hold(*entry);
  }
  if (removed) groups_.erase(found);
}

Result<control::NodeAdded> Process::add_node(control::AddNode request) {
  Locked locked(lock_);
  request.request = next_request_++;
  ask_daemon(control::Type::kAddNode, request);
  return await_reply<control::NodeAdded>(locked, request.request);
}

Status Process::remove_node(NodeIndex node) {
  Locked locked(lock_);
  const auto request = next_request_++;
  ask_daemon(control::Type::kRemoveNode, control::RemoveNode{request, node});
  BEELINE_ASSIGN(const auto reply, await_reply<control::Reply>(locked, request));
  return reply.code == 0 ? Status::ok() : Status(static_cast<Code>(reply.code), reply.message);
}

}  // namespace beeline::runtime
