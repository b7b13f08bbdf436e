#include "beeline/runtime/node/group_table.h"

#include <algorithm>
#include <utility>

namespace beeline::runtime::node {

control::GroupUpdate GroupRecord::update() const {
  return {create.group, static_cast<std::uint8_t>(state), message};
}

Result<GroupRecord*> GroupTable::create(control::CreateGroup create, ProcessIndex owner) {
  const GroupId group = create.group;
  if (groups_.contains(group)) {
    return Status(Code::kAlreadyExists, "placement group " + std::to_string(group) + " exists already");
  }
  auto& newest = newest_[owner];
  newest = std::max(newest, group);
  const std::pair key(create.name_space, create.name);
  if (!create.name.empty() && !names_.try_emplace(key, group).second) {
    return Status(Code::kAlreadyExists,
                  "the name '" + create.name + "' already exists: another placement group has it");
  }
  GroupRecord record;
  record.create = std::move(create);
  record.owner = owner;
  record.watchers.insert(owner);
  if (const auto waiting = unborn_watchers_.extract(group)) record.watchers.merge(waiting.mapped());
  changed_.insert(group);
  return &groups_.emplace(group, std::move(record)).first->second;
}

void GroupTable::set_state(GroupId group, control::GroupState state) {
  changed_.insert(group);
  groups_.at(group).state = state;
}

void GroupTable::restore(GroupId group, GroupRecord record) {
  auto& newest = newest_[creator_of(group)];
  newest = std::max(newest, group);
  if (record.is_removed()) {
    removed_.push_back(group);
  } else if (!record.create.name.empty()) {
    names_[{record.create.name_space, record.create.name}] = group;
  }
  groups_.insert_or_assign(group, std::move(record));
}

GroupRecord* GroupTable::find(GroupId group) {
  const auto found = groups_.find(group);
  return found == groups_.end() ? nullptr : &found->second;
}

GroupRecord* GroupTable::find(const std::string& name_space, const std::string& name) {
  const auto found = names_.find({name_space, name});
  return found == names_.end() ? nullptr : find(found->second);
}

bool GroupTable::remove(GroupId group, std::string message, std::vector<NodeIndex> nodes) {
  auto* record = find(group);
  if (record == nullptr || record->is_removed()) return false;
  changed_.insert(group);
  record->state = control::GroupState::kRemoved;
  record->message = std::move(message);
  record->nodes = std::move(nodes);
  // Of a name that it has failed to take, another one is the owner.
  const auto name = names_.find({record->create.name_space, record->create.name});
  if (name != names_.end() && name->second == group) names_.erase(name);
  removed_.push_back(group);
  if (removed_.size() > kRememberedRemoved) {
    changed_.insert(removed_.front());
    groups_.erase(removed_.front());
    removed_.pop_front();
  }
  return true;
}

void GroupTable::watch(GroupId group, ProcessIndex process) {
  if (auto* record = find(group)) {
    record->watchers.insert(process);
  } else {
    unborn_watchers_[group].insert(process);
  }
}

GroupTable::Forgotten GroupTable::forget_process(ProcessIndex process) {
  Forgotten forgotten;
  newest_.erase(process);
  for (auto& [group, record] : groups_) {
    record.watchers.erase(process);
    if (record.owner == process && !record.create.detached && !record.is_removed()) forgotten.owned.push_back(group);
  }
  for (auto waiting = unborn_watchers_.begin(); waiting != unborn_watchers_.end();) {
    waiting->second.erase(process);
    if (creator_of(waiting->first) == process) {
      forgotten.unborn.insert(unborn_watchers_.extract(waiting++));
    } else {
      ++waiting;
    }
  }
  return forgotten;
}

}  // namespace beeline::runtime::node
