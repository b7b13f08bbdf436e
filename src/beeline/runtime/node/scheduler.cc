#include "beeline/runtime/node/scheduler.h"

#include <algorithm>

namespace beeline::runtime::node {
namespace {

constexpr const char* kCpu = "CPU";

NodePolicy policy_of(const Scheduling& scheduling) {
  return static_cast<NodePolicy>(scheduling.policy);
}

}  // namespace

// ----- nodes

Result<Scheduler> Scheduler::make(const Resources& total, Labels labels, bool may_grow) {
  Scheduler scheduler;
  scheduler.may_grow_ = may_grow;
  BEELINE_ASSIGN(const auto first, scheduler.add_node(total, std::move(labels)));
  (void)first;
  return scheduler;
}

Result<NodeIndex> Scheduler::add_node(const Resources& total, Labels labels) {
  Node node;
  BEELINE_ASSIGN(node.total, to_amounts(total));
  BEELINE_ASSIGN(auto pool, ResourcePool::make(node.total));
  const auto index = static_cast<NodeIndex>(nodes_.size());
  node.labels = std::move(labels);
  node.labels[kNodeIdLabel] = node_id(index);
  node.pool = next_pool_++;
  pools_.emplace(node.pool, std::move(pool));
  nodes_.push_back(std::move(node));
  judge_groups();
  return index;
}

std::vector<Scheduler::Ticket> Scheduler::remove_node(NodeIndex index) {
  if (!is_alive(index)) return {};
  nodes_[index].is_alive = false;
  pools_.erase(nodes_[index].pool);
  for (auto& [id, group] : groups_) {
    bool lost = false;
    for (auto& bundle : group.bundles) {
      if (bundle.node != index) continue;
      pools_.erase(bundle.pool);
      bundle.node = kNoNode;
      bundle.pool = 0;
      lost = true;
    }
    if (lost && !group.waits) waiting_groups_.push_back(id);
    group.waits |= lost;
  }
  judge_groups();
  return cancel_where(
      [](const Shape& shape, std::uint64_t node) {
        const auto& scheduling = shape.scheduling;
        return policy_of(scheduling) == NodePolicy::kOne && !scheduling.soft && scheduling.node == node;
      },
      index);
}

Resources Scheduler::available(NodeIndex node) const {
  return is_alive(node) ? to_resources(pool_of(node).available()) : Resources{};
}

Resources Scheduler::available() const {
  Amounts sum;
  for (NodeIndex node = 0; node < nodes_.size(); ++node) {
    if (!is_alive(node)) continue;
    for (const auto& [name, amount] : pool_of(node).available()) sum[name] += amount;
  }
  return to_resources(sum);
}

Resources Scheduler::total() const {
  Amounts sum;
  for (const auto& node : nodes_) {
    if (!node.is_alive) continue;
    for (const auto& [name, amount] : node.total) sum[name] += amount;
  }
  return to_resources(sum);
}

// ----- requests

Status Scheduler::request(Ticket ticket, const Resources& held, const Resources& placement,
                          const Scheduling& scheduling) {
  Shape shape;
  shape.scheduling = scheduling;
  BEELINE_ASSIGN(shape.held, to_amounts(held));
  BEELINE_ASSIGN(shape.needed, to_amounts(placement));
  for (const auto& [name, amount] : shape.held) {
    auto& needed = shape.needed[name];
    needed = std::max(needed, amount);
  }
  BEELINE_RETURN_IF_ERROR(check(shape));
  if (!shape_of_.emplace(ticket, shape).second) {
    return {Code::kAlreadyExists, "request " + std::to_string(ticket) + " is pending already"};
  }
  queues_[shape].push_back({next_order_++, ticket});
  return Status::ok();
}

Status Scheduler::check(const Shape& shape) const {
  const auto& scheduling = shape.scheduling;
  if (scheduling.group != 0) {
    const auto group = groups_.find(scheduling.group);
    if (group == groups_.end()) return {Code::kNotFound, "its placement group was removed"};
    if (scheduling.bundle >= static_cast<std::int32_t>(group->second.bundles.size())) {
      return {Code::kInvalidArgument, "bundle " + std::to_string(scheduling.bundle) + " of a placement group with " +
                                          std::to_string(group->second.bundles.size())};
    }
    if (can_ever_fit(shape)) return Status::ok();
    return {Code::kResourceExhausted, "a request for " + describe(shape.needed) +
                                          " can never be met: no bundle of its placement group has as much"};
  }
  if (policy_of(scheduling) == NodePolicy::kOne && !scheduling.soft) {
    const bool exists = is_alive(scheduling.node);
    if (exists && !matches(nodes_[scheduling.node].labels, scheduling.required)) {
      return {Code::kResourceExhausted,
              "the node that NodeAffinitySchedulingStrategy names does not have the labels that label_selector asks "
              "for, and soft=False lets it run nowhere else"};
    }
    if (!exists || !pool_of(scheduling.node).could_fit(shape.needed)) {
      return {Code::kResourceExhausted,
              std::string("the node that NodeAffinitySchedulingStrategy names ") +
                  (exists ? "can never have " + describe(shape.needed) : std::string("does not exist (any more)")) +
                  ", and soft=False lets it run nowhere else"};
    }
    if (!scheduling.no_wait || pool_of(scheduling.node).fits(shape.needed)) return Status::ok();
    return {Code::kResourceExhausted, "the node that NodeAffinitySchedulingStrategy names does not have " +
                                          describe(shape.needed) + " now, and _fail_on_unavailable=True was given"};
  }
  if (may_grow_ || can_ever_fit(shape)) return Status::ok();
  return {Code::kResourceExhausted,
          "a request for " + describe(shape.needed) + " can never be met: " + describe_nodes(shape.needed)};
}

// Why no node will do, and what can be done about it.
std::string Scheduler::describe_nodes(const Amounts& needed) const {
  const auto& total = nodes_.front().total;
  for (const auto& [name, amount] : needed) {
    if (amount <= amount_of(total, name)) continue;
    const std::string argument = name == "CPU"   ? "num_cpus=" + describe(amount)
                                 : name == "GPU" ? "num_gpus=" + describe(amount)
                                                 : "resources={\"" + name + "\": " + describe(amount) + "}";
    return "this machine has " + describe(amount_of(total, name)) + " of " + name + " (all of it: " + describe(total) +
           "). Ask for less, or start with more, e.g. init(" + argument + ")";
  }
  return "no node has the labels that it asks for; init(labels={...}) gives a node labels";
}

bool Scheduler::can_ever_fit(const Shape& shape) const {
  const auto& scheduling = shape.scheduling;
  if (scheduling.group != 0) {
    const auto& bundles = groups_.at(scheduling.group).bundles;
    const auto fits = [&shape](const GroupBundle& bundle) {
      return std::all_of(shape.needed.begin(), shape.needed.end(), [&bundle](const auto& entry) {
        return entry.second <= amount_of(bundle.amounts, entry.first);
      });
    };
    if (scheduling.bundle >= 0) return fits(bundles[static_cast<std::size_t>(scheduling.bundle)]);
    return std::any_of(bundles.begin(), bundles.end(), fits);
  }
  for (NodeIndex node = 0; node < nodes_.size(); ++node) {
    const bool wanted = policy_of(scheduling) != NodePolicy::kOne || scheduling.soft || scheduling.node == node;
    if (is_alive(node) && wanted && matches(nodes_[node].labels, scheduling.required) &&
        pool_of(node).could_fit(shape.needed)) {
      return true;
    }
  }
  return false;
}

bool Scheduler::cancel(Ticket ticket) {
  const auto found = shape_of_.find(ticket);
  if (found == shape_of_.end()) return false;
  const auto queue = queues_.find(found->second);
  std::erase_if(queue->second, [ticket](const Pending& pending) { return pending.ticket == ticket; });
  if (queue->second.empty()) queues_.erase(queue);
  shape_of_.erase(found);
  return true;
}

std::vector<Scheduler::Ticket> Scheduler::cancel_where(bool (*concerns)(const Shape&, std::uint64_t),
                                                       std::uint64_t argument) {
  std::vector<Ticket> cancelled;
  for (const auto& [shape, queue] : queues_) {
    if (!concerns(shape, argument)) continue;
    for (const auto& pending : queue) cancelled.push_back(pending.ticket);
  }
  for (const Ticket ticket : cancelled) cancel(ticket);
  return cancelled;
}

std::optional<Scheduler::Place> Scheduler::find_place(const Shape& shape) const {
  return shape.scheduling.group != 0 ? find_bundle(shape) : find_node(shape);
}

std::optional<Scheduler::Place> Scheduler::find_bundle(const Shape& shape) const {
  const auto& bundles = groups_.at(shape.scheduling.group).bundles;
  for (std::size_t i = 0; i < bundles.size(); ++i) {
    const auto index = static_cast<std::int32_t>(i);
    if (shape.scheduling.bundle >= 0 && shape.scheduling.bundle != index) continue;
    if (bundles[i].pool == 0 || !pool(bundles[i].pool).fits(shape.needed)) continue;
    return Place{bundles[i].node, bundles[i].pool, index};
  }
  return std::nullopt;
}

std::optional<Scheduler::Place> Scheduler::find_node(const Shape& shape) const {
  const auto& scheduling = shape.scheduling;
  const auto place_on = [this](NodeIndex node) { return Place{node, nodes_[node].pool, -1}; };
  const auto fits = [&](NodeIndex node) {
    return is_alive(node) && matches(nodes_[node].labels, scheduling.required) && pool_of(node).fits(shape.needed);
  };
  if (policy_of(scheduling) == NodePolicy::kOne) {
    if (fits(scheduling.node)) return place_on(scheduling.node);
    const bool waits = is_alive(scheduling.node) && matches(nodes_[scheduling.node].labels, scheduling.required) &&
                       pool_of(scheduling.node).could_fit(shape.needed);
    if (!scheduling.soft || (waits && !scheduling.spill)) return std::nullopt;
  }
  const auto count = static_cast<NodeIndex>(nodes_.size());
  const bool spreads = policy_of(scheduling) == NodePolicy::kSpread;
  const NodeIndex first = spreads && last_spread_ != kNoNode ? last_spread_ + 1 : 0;
  for (const bool preferred : {true, false}) {
    if (preferred && scheduling.preferred.empty()) continue;
    for (NodeIndex i = 0; i < count; ++i) {
      const NodeIndex node = (first + i) % count;
      if (preferred && !matches(nodes_[node].labels, scheduling.preferred)) continue;
      if (fits(node)) return place_on(node);
    }
  }
  return std::nullopt;
}

std::vector<Scheduler::Grant> Scheduler::place() {
  std::vector<Grant> grants;
  // Heads of the queues by age. A shape that does not fit now is done with: placing others frees nothing.
  std::map<std::uint64_t, const Shape*> heads;
  for (const auto& [shape, queue] : queues_) heads.emplace(queue.front().order, &shape);
  while (!heads.empty()) {
    const Shape* shape = heads.begin()->second;
    heads.erase(heads.begin());
    const auto place = find_place(*shape);
    if (!place) continue;
    if (policy_of(shape->scheduling) == NodePolicy::kSpread) last_spread_ = place->node;
    const auto queue = queues_.find(*shape);
    const Ticket ticket = queue->second.front().ticket;
    grants.push_back({ticket,
                      {pools_.at(place->pool).take(shape->held), false, place->node, place->pool,
                       shape->scheduling.group, place->bundle}});
    shape_of_.erase(ticket);
    queue->second.pop_front();
    if (queue->second.empty()) {
      queues_.erase(queue);
    } else {
      heads.emplace(queue->second.front().order, &queue->first);
    }
  }
  return grants;
}

bool Scheduler::waits_for_holders() const {
  const auto met_by_holders = [this](const auto& entry) {
    const Shape& shape = entry.first;
    const auto group = groups_.find(shape.scheduling.group);
    return group == groups_.end() ? can_ever_fit(shape) : !group->second.waits;
  };
  return std::any_of(queues_.begin(), queues_.end(), met_by_holders) ||
         std::any_of(waiting_groups_.begin(), waiting_groups_.end(),
                     [this](GroupId group) { return groups_.at(group).feasible; });
}

// ----- what holders have

// Null when it went with its node.
ResourcePool* Scheduler::pool_for(const Allocation& allocation) {
  if (const auto own = pools_.find(allocation.pool); own != pools_.end()) return &own->second;
  // Its bundle is gone, so it goes to the node itself.
  return is_alive(allocation.node) ? &pools_.at(nodes_[allocation.node].pool) : nullptr;
}

void Scheduler::restore(Allocation& allocation) {
  allocation.pool = 0;
  const auto group = groups_.find(allocation.group);
  const auto bundle = static_cast<std::size_t>(allocation.bundle);
  if (allocation.bundle >= 0 && group != groups_.end() && bundle < group->second.bundles.size() &&
      group->second.bundles[bundle].node == allocation.node) {
    allocation.pool = group->second.bundles[bundle].pool;
  }
  // Of what has gone back to the node with its group it was taken as well.
  if (allocation.pool == 0 && is_alive(allocation.node)) allocation.pool = nodes_[allocation.node].pool;
  ResourcePool* from = pool_for(allocation);
  if (from == nullptr) return;
  from->retake(allocation.share);
  if (allocation.cpu_given_back) from->give_cpus(amount_of(allocation.share.amounts, kCpu));
}

void Scheduler::release(const Allocation& allocation) {
  ResourcePool* from = pool_for(allocation);
  if (from == nullptr) return;
  freed_ = true;
  if (!allocation.cpu_given_back) return from->give(allocation.share);
  Share rest = allocation.share;
  rest.amounts.erase(kCpu);
  from->give(rest);
}

void Scheduler::give_back_cpu(Allocation& allocation) {
  if (allocation.cpu_given_back) return;
  allocation.cpu_given_back = true;
  freed_ = true;
  if (ResourcePool* from = pool_for(allocation)) from->give_cpus(amount_of(allocation.share.amounts, kCpu));
}

void Scheduler::take_cpu_again(Allocation& allocation) {
  if (!allocation.cpu_given_back) return;
  allocation.cpu_given_back = false;
  if (ResourcePool* from = pool_for(allocation)) from->take_cpus(amount_of(allocation.share.amounts, kCpu));
}

}  // namespace beeline::runtime::node
