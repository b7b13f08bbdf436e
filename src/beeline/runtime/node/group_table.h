// All that the daemon knows about placement groups beyond where their bundles are (the scheduler's business): names,
// owners, who watches. No I/O.
#pragma once

#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "beeline/base/status.h"
#include "beeline/runtime/control.h"

namespace beeline::runtime::node {

struct GroupRecord {
  control::CreateGroup create;
  ProcessIndex owner = 0;  // the process that created it
  control::GroupState state = control::GroupState::kPending;
  std::string message;           // why it was removed, if nobody asked for that
  std::vector<NodeIndex> nodes;  // of a removed one: where its bundles were
  std::set<ProcessIndex> watchers;

  [[nodiscard]] bool is_removed() const { return state == control::GroupState::kRemoved; }
  [[nodiscard]] control::GroupUpdate update() const;
};

class GroupTable {
 public:
  // Removed groups that are remembered for those who ask later.
  static constexpr std::size_t kRememberedRemoved = 1000;

  // kAlreadyExists when the name is taken in its namespace. The owner watches.
  Result<GroupRecord*> create(control::CreateGroup create, ProcessIndex owner);
  GroupRecord* find(GroupId group);
  // The living one of that name.
  GroupRecord* find(const std::string& name_space, const std::string& name);
  // False if it was removed already.
  bool remove(GroupId group, std::string message, std::vector<NodeIndex> nodes);
  // Watchers of a group that has not been created yet are kept until it is.
  void watch(GroupId group, ProcessIndex process);

  struct Forgotten {
    std::vector<GroupId> owned;                        // living and not detached
    std::map<GroupId, std::set<ProcessIndex>> unborn;  // watchers of those that it never came to create
  };
  // The process has ended: it watches nothing.
  Forgotten forget_process(ProcessIndex process);

  // Whether it was created once; it may be forgotten since. Creators number their groups in order.
  [[nodiscard]] bool was_created(GroupId group) const {
    const auto newest = newest_.find(creator_of(group));
    return newest != newest_.end() && group <= newest->second;
  }
  [[nodiscard]] const std::map<GroupId, GroupRecord>& all() const { return groups_; }
  // For the journal: who has changed since this was asked last, and taking back what was written.
  std::set<GroupId> take_changed() { return std::exchange(changed_, {}); }
  void restore(GroupId group, GroupRecord record);
  // Its state, which is the scheduler's business, is another one.
  void set_state(GroupId group, control::GroupState state);

  static ProcessIndex creator_of(GroupId group) { return static_cast<ProcessIndex>(group >> 32); }

 private:
  std::map<GroupId, GroupRecord> groups_;
  std::map<std::pair<std::string, std::string>, GroupId> names_;  // of the living
  std::map<GroupId, std::set<ProcessIndex>> unborn_watchers_;
  std::deque<GroupId> removed_;             // oldest first
  std::map<ProcessIndex, GroupId> newest_;  // by creator, while it lives
  std::set<GroupId> changed_;
};

}  // namespace beeline::runtime::node
