// Who gets which resources, where, and when: nodes, the bundles of placement groups on them, and what is taken of
// either. Arithmetic only: no I/O, no clock, one owner.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "beeline/base/status.h"
#include "beeline/runtime/node/resource_pool.h"
#include "beeline/runtime/scheduling.h"

namespace beeline::runtime::node {

// What a holder has. Given out by the scheduler, handed back to it whole.
struct Allocation {
  Share share;
  bool cpu_given_back = false;
  NodeIndex node = 0;
  std::uint64_t pool = 0;  // that it was taken from
  GroupId group = 0;
  std::int32_t bundle = -1;
};

// Requests of one shape are served in order; a request that does not fit holds back none of another shape. Groups come
// before requests.
class Scheduler {
 public:
  // Chosen by the caller; unique among the pending.
  using Ticket = std::uint64_t;
  struct Grant {
    Ticket ticket;
    Allocation allocation;
  };
  struct Node {
    Labels labels;  // its id among them
    bool is_alive = true;
    std::uint64_t pool = 0;
    Amounts total;
  };

  // Of node 0. In a session that `may_grow`, what cannot be met waits: a node may come that has it.
  static Result<Scheduler> make(const Resources& total, Labels labels = {}, bool may_grow = false);

  Result<NodeIndex> add_node(const Resources& total, Labels labels);
  // What lay there is gone: holders are the caller's to end, bundles are placed again. Returns the requests that were
  // for this node alone: they are not pending any more.
  std::vector<Ticket> remove_node(NodeIndex node);

  // `placement` is needed, beyond `held`, at the moment of placing only. Nothing is queued by kResourceExhausted (no
  // node has as much), kNotFound (no such group) and kInvalidArgument (it makes no sense).
  Status request(Ticket ticket, const Resources& held, const Resources& placement = {},
                 const Scheduling& scheduling = {});
  // False when the ticket is not pending.
  bool cancel(Ticket ticket);
  // Places what fits now, oldest first.
  std::vector<Grant> place();

  // It waits until place_groups() has a place for all its bundles. `preferred`: the node to try first.
  Status add_group(GroupId group, const std::vector<Bundle>& bundles, GroupStrategy strategy,
                   NodeIndex preferred = kNoNode);
  // Its bundles go back to their nodes, what is taken of them when it is released. Returns the requests that waited for
  // it: they are not pending any more.
  std::vector<Ticket> remove_group(GroupId group);
  // Places groups, oldest first; returns those that have all their bundles now.
  std::vector<GroupId> place_groups();
  // The nodes of its bundles, kNoNode while one has none, and the accelerators there that each has.
  [[nodiscard]] std::vector<NodeIndex> nodes_of(GroupId group) const;
  [[nodiscard]] std::vector<Accelerators> accelerators_of(GroupId group) const;
  // What a group lacks that could not be placed if nobody held anything; empty if it only has to wait.
  [[nodiscard]] std::string lack_of(GroupId group) const;

  // As they were in another scheduler, of the same nodes: first groups, with a share for each bundle that has a place
  // (`nodes`, kNoNode without), then what is allocated, whose pool is looked up.
  Status restore_group(GroupId group, const std::vector<Bundle>& bundles, GroupStrategy strategy, NodeIndex preferred,
                       const std::vector<NodeIndex>& nodes, const std::vector<Share>& shares);
  void restore(Allocation& allocation);
  // What the bundles of the group were given, one for each; empty for those without a place.
  [[nodiscard]] std::vector<Share> shares_of(GroupId group) const;

  void release(const Allocation& allocation);
  // While the holder waits its CPUs go to others; taking them again may overdraw the CPUs, as in Ray.
  void give_back_cpu(Allocation& allocation);
  void take_cpu_again(Allocation& allocation);

  [[nodiscard]] std::size_t pending() const { return shape_of_.size(); }
  // Whether something waits that could be met if others gave back what they hold.
  [[nodiscard]] bool waits_for_holders() const;
  [[nodiscard]] const std::vector<Node>& nodes() const { return nodes_; }
  // Of one node outside of the groups, and of all.
  [[nodiscard]] Resources available(NodeIndex node) const;
  [[nodiscard]] Resources available() const;
  [[nodiscard]] Resources total() const;

 private:
  using PoolId = std::uint64_t;
  struct Shape {
    Amounts held;
    Amounts needed;  // at placing: the larger of held and placement, for each resource
    Scheduling scheduling;
    auto operator<=>(const Shape&) const = default;
  };
  struct Pending {
    std::uint64_t order;
    Ticket ticket;
  };
  struct GroupBundle {
    Amounts amounts;
    std::vector<LabelRule> required;
    NodeIndex node = kNoNode;
    PoolId pool = 0;
    Share share;  // of its node
  };
  struct Group {
    std::vector<GroupBundle> bundles;
    GroupStrategy strategy = GroupStrategy::kPack;
    NodeIndex preferred = kNoNode;
    bool waits = true;
    bool feasible = true;  // if nobody held anything
  };
  struct NewPlace {
    std::size_t bundle = 0;
    NodeIndex node = 0;
    Share share;
  };
  // Where a request is met: outside of groups, or in a bundle.
  struct Place {
    NodeIndex node = 0;
    PoolId pool = 0;
    std::int32_t bundle = -1;
  };

  [[nodiscard]] const ResourcePool& pool(PoolId id) const { return pools_.at(id); }
  [[nodiscard]] const ResourcePool& pool_of(NodeIndex node) const { return pools_.at(nodes_[node].pool); }
  [[nodiscard]] bool is_alive(NodeIndex node) const { return node < nodes_.size() && nodes_[node].is_alive; }
  [[nodiscard]] std::optional<Place> find_place(const Shape& shape) const;
  [[nodiscard]] std::optional<Place> find_node(const Shape& shape) const;
  [[nodiscard]] std::optional<Place> find_bundle(const Shape& shape) const;
  [[nodiscard]] bool can_ever_fit(const Shape& shape) const;
  [[nodiscard]] Status check(const Shape& shape) const;
  [[nodiscard]] std::string describe_nodes(const Amounts& needed) const;
  // A place for each bundle of the group that has none, or nothing if they do not all fit.
  [[nodiscard]] std::optional<std::vector<NewPlace>> plan(const Group& group, bool as_if_empty) const;
  [[nodiscard]] std::vector<NodeIndex> candidates_for(const Group& group) const;
  bool try_place(Group& group);
  void give_place(GroupBundle& bundle, NodeIndex node, Share share);
  void judge_groups();
  std::vector<Ticket> cancel_where(bool (*concerns)(const Shape&, std::uint64_t), std::uint64_t argument);
  ResourcePool* pool_for(const Allocation& allocation);

  bool may_grow_ = false;
  std::vector<Node> nodes_;
  std::map<PoolId, ResourcePool> pools_;  // of living nodes and of bundles
  PoolId next_pool_ = 1;
  NodeIndex last_spread_ = kNoNode;
  std::map<GroupId, Group> groups_;
  std::deque<GroupId> waiting_groups_;  // oldest first
  bool freed_ = false;                  // since groups were last tried
  std::uint64_t next_order_ = 0;
  std::map<Shape, std::deque<Pending>> queues_;  // none is empty
  std::map<Ticket, Shape> shape_of_;
};

}  // namespace beeline::runtime::node
