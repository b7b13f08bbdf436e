// The scheduler's part that places groups of bundles.
#include <algorithm>

#include "beeline/runtime/node/bundle_placement.h"
#include "beeline/runtime/node/scheduler.h"

namespace beeline::runtime::node {

Status Scheduler::add_group(GroupId id, const std::vector<Bundle>& bundles, GroupStrategy strategy,
                            NodeIndex preferred) {
  if (bundles.empty()) return {Code::kInvalidArgument, "a placement group without bundles"};
  if (groups_.contains(id)) {
    return {Code::kAlreadyExists, "placement group " + std::to_string(id) + " exists already"};
  }
  Group group;
  group.strategy = strategy;
  group.preferred = preferred;
  for (const auto& bundle : bundles) {
    BEELINE_ASSIGN(auto amounts, to_amounts(bundle.resources));
    if (amounts.empty()) return {Code::kInvalidArgument, "a bundle without resources"};
    group.bundles.push_back({std::move(amounts), bundle.required, kNoNode, 0, {}});
  }
  group.feasible = plan(group, true).has_value();
  groups_.emplace(id, std::move(group));
  waiting_groups_.push_back(id);
  freed_ = true;
  return Status::ok();
}

std::vector<Scheduler::Ticket> Scheduler::remove_group(GroupId id) {
  const auto found = groups_.find(id);
  if (found == groups_.end()) return {};
  for (const auto& bundle : found->second.bundles) {
    if (bundle.pool == 0) continue;
    pools_.at(nodes_[bundle.node].pool).dissolve(pool(bundle.pool));
    pools_.erase(bundle.pool);
  }
  if (found->second.waits) std::erase(waiting_groups_, id);
  groups_.erase(found);
  freed_ = true;
  return cancel_where([](const Shape& shape, std::uint64_t group) { return shape.scheduling.group == group; }, id);
}

std::vector<GroupId> Scheduler::place_groups() {
  std::vector<GroupId> complete;
  if (!freed_ || waiting_groups_.empty()) return complete;
  freed_ = false;
  for (const GroupId id : waiting_groups_) {
    auto& group = groups_.at(id);
    if (!group.feasible || !try_place(group)) continue;
    group.waits = false;
    complete.push_back(id);
  }
  std::erase_if(waiting_groups_, [this](GroupId id) { return !groups_.at(id).waits; });
  return complete;
}

// Where bundles without a place may go; first the nodes that the strategy likes best.
std::vector<NodeIndex> Scheduler::candidates_for(const Group& group) const {
  // After the loss of a node some bundles still have their places.
  std::vector<int> bundles_on(nodes_.size(), 0);
  bool any_placed = false;
  for (const auto& bundle : group.bundles) {
    if (bundle.pool == 0) continue;
    ++bundles_on[bundle.node];
    any_placed = true;
  }
  std::vector<NodeIndex> candidates;
  for (NodeIndex node = 0; node < nodes_.size(); ++node) {
    const bool taken = group.strategy == GroupStrategy::kStrictSpread && bundles_on[node] > 0;
    const bool apart = group.strategy == GroupStrategy::kStrictPack && any_placed && bundles_on[node] == 0;
    if (is_alive(node) && !taken && !apart) candidates.push_back(node);
  }
  const bool packs = group.strategy == GroupStrategy::kPack || group.strategy == GroupStrategy::kStrictPack;
  std::stable_sort(candidates.begin(), candidates.end(), [&](NodeIndex a, NodeIndex b) {
    if ((a == group.preferred) != (b == group.preferred)) return a == group.preferred;
    return packs ? bundles_on[a] > bundles_on[b] : bundles_on[a] < bundles_on[b];
  });
  return candidates;
}

std::optional<std::vector<Scheduler::NewPlace>> Scheduler::plan(const Group& group, bool as_if_empty) const {
  const auto candidates = candidates_for(group);
  std::vector<ResourcePool> untouched;
  std::vector<const ResourcePool*> pools;
  untouched.reserve(candidates.size());
  for (const auto node : candidates) {
    pools.push_back(as_if_empty ? &untouched.emplace_back(pool_of(node).untouched()) : &pool_of(node));
  }
  std::vector<NewPlace> places;
  std::vector<Amounts> amounts;
  std::vector<std::vector<bool>> allowed;
  for (std::size_t i = 0; i < group.bundles.size(); ++i) {
    if (group.bundles[i].pool != 0) continue;
    places.push_back({i, 0, {}});
    amounts.push_back(group.bundles[i].amounts);
    auto& row = allowed.emplace_back();
    for (const auto node : candidates) row.push_back(matches(nodes_[node].labels, group.bundles[i].required));
  }
  auto placed = place_bundles(amounts, pools, allowed, group.strategy);
  if (!placed) return std::nullopt;
  for (std::size_t i = 0; i < places.size(); ++i) {
    places[i].node = candidates[(*placed)[i].node];
    places[i].share = std::move((*placed)[i].share);
  }
  return places;
}

bool Scheduler::try_place(Group& group) {
  const auto places = plan(group, false);
  if (!places) return false;
  for (const auto& place : *places) {
    give_place(group.bundles[place.bundle], place.node, place.share);
  }
  return true;
}

void Scheduler::give_place(GroupBundle& bundle, NodeIndex node, Share share) {
  bundle.node = node;
  bundle.pool = next_pool_++;
  pools_.emplace(bundle.pool, pools_.at(nodes_[node].pool).carve(share));
  bundle.share = std::move(share);
}

Status Scheduler::restore_group(GroupId id, const std::vector<Bundle>& bundles, GroupStrategy strategy,
                                NodeIndex preferred, const std::vector<NodeIndex>& nodes,
                                const std::vector<Share>& shares) {
  BEELINE_RETURN_IF_ERROR(add_group(id, bundles, strategy, preferred));
  auto& group = groups_.at(id);
  if (nodes.size() != group.bundles.size() || shares.size() != group.bundles.size()) {
    return {Code::kCorrupt, "a placement group whose places are not those of its bundles"};
  }
  group.waits = false;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (is_alive(nodes[i])) {
      give_place(group.bundles[i], nodes[i], shares[i]);
    } else {
      group.waits = true;
    }
  }
  if (!group.waits) std::erase(waiting_groups_, id);
  return Status::ok();
}

std::vector<Share> Scheduler::shares_of(GroupId id) const {
  std::vector<Share> shares;
  const auto found = groups_.find(id);
  if (found == groups_.end()) return shares;
  for (const auto& bundle : found->second.bundles) shares.push_back(bundle.pool == 0 ? Share{} : bundle.share);
  return shares;
}

// Nodes have come or gone.
void Scheduler::judge_groups() {
  freed_ = true;
  for (const GroupId id : waiting_groups_) {
    auto& group = groups_.at(id);
    group.feasible = plan(group, true).has_value();
  }
}

std::vector<NodeIndex> Scheduler::nodes_of(GroupId id) const {
  std::vector<NodeIndex> nodes;
  const auto found = groups_.find(id);
  if (found == groups_.end()) return nodes;
  for (const auto& bundle : found->second.bundles) nodes.push_back(bundle.node);
  return nodes;
}

std::vector<Accelerators> Scheduler::accelerators_of(GroupId id) const {
  std::vector<Accelerators> accelerators;
  const auto found = groups_.find(id);
  if (found == groups_.end()) return accelerators;
  for (const auto& bundle : found->second.bundles) {
    auto& of_bundle = accelerators.emplace_back();
    if (bundle.pool == 0) continue;
    for (const auto& [name, slots] : pool(bundle.pool).slots()) {
      for (const auto& slot : slots) of_bundle[name].push_back(slot.device);
    }
  }
  return accelerators;
}

std::string Scheduler::lack_of(GroupId id) const {
  const auto found = groups_.find(id);
  if (found == groups_.end() || found->second.feasible) return {};
  for (const auto& bundle : found->second.bundles) {
    const auto fits = [&bundle, this](const Node& node) {
      return node.is_alive && matches(node.labels, bundle.required) &&
             std::all_of(bundle.amounts.begin(), bundle.amounts.end(),
                         [&node](const auto& entry) { return entry.second <= amount_of(node.total, entry.first); });
    };
    if (std::any_of(nodes_.begin(), nodes_.end(), fits)) continue;
    return "no node has " + describe(bundle.amounts) +
           (bundle.required.empty() ? "" : " and the labels that it asks for");
  }
  const auto living = std::count_if(nodes_.begin(), nodes_.end(), [](const Node& node) { return node.is_alive; });
  return "its " + std::to_string(found->second.bundles.size()) + " bundles do not fit on " + std::to_string(living) +
         (living == 1 ? " node" : " nodes") + " together, in the way that its strategy asks for";
}

}  // namespace beeline::runtime::node
