// The scheduler over several nodes: where requests go, and placement groups.
#include <gtest/gtest.h>

#include <random>

#include "beeline/runtime/node/scheduler.h"
#include "seed.h"

namespace beeline::runtime::node {
namespace {

Scheduler scheduler_over(const std::vector<Resources>& nodes, const std::vector<Labels>& labels = {}) {
  auto scheduler = Scheduler::make(nodes.front(), labels.empty() ? Labels{} : labels.front(), true).value();
  for (std::size_t i = 1; i < nodes.size(); ++i) {
    EXPECT_TRUE(scheduler.add_node(nodes[i], labels.empty() ? Labels{} : labels[i]).is_ok());
  }
  return scheduler;
}

Scheduling in_group(GroupId group, std::int32_t bundle = -1) {
  Scheduling scheduling;
  scheduling.group = group;
  scheduling.bundle = bundle;
  return scheduling;
}

Scheduling on_node(NodeIndex node, bool soft) {
  Scheduling scheduling;
  scheduling.policy = static_cast<std::uint8_t>(NodePolicy::kOne);
  scheduling.node = node;
  scheduling.soft = soft;
  return scheduling;
}

std::vector<Bundle> bundles_of(const std::vector<Resources>& amounts) {
  std::vector<Bundle> bundles;
  for (const auto& resources : amounts) bundles.push_back({resources, {}});
  return bundles;
}

// Requests one after the other; the node that each got, or -1 for those that wait.
std::vector<int> nodes_for(Scheduler& scheduler, const std::string& name, const std::vector<double>& requests) {
  std::vector<int> nodes(requests.size(), -1);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    EXPECT_TRUE(scheduler.request(i, {{name, requests[i]}}).is_ok());
    for (const auto& grant : scheduler.place()) nodes[grant.ticket] = static_cast<int>(grant.allocation.node);
  }
  return nodes;
}

std::optional<Allocation> place_one(Scheduler& scheduler, const Resources& held, const Scheduling& scheduling = {},
                                    Scheduler::Ticket ticket = 1000) {
  const auto status = scheduler.request(ticket, held, {}, scheduling);
  EXPECT_TRUE(status.is_ok()) << status.message();
  const auto grants = scheduler.place();
  if (grants.empty()) {
    scheduler.cancel(ticket);
    return std::nullopt;
  }
  EXPECT_EQ(grants.size(), 1u);
  return grants.front().allocation;
}

TEST(SchedulerNodesTest, TheGuidesExamples) {
  auto halves = scheduler_over({{{"GPU", 1}}, {{"GPU", 1}}});
  EXPECT_EQ(nodes_for(halves, "GPU", {0.5, 0.5, 0.5, 0.5, 0.5}), (std::vector<int>{0, 0, 1, 1, -1}));
  EXPECT_EQ(halves.available().at("GPU"), 0);
  auto whole = scheduler_over({{{"part", 1}}, {{"part", 1}}});
  EXPECT_EQ(nodes_for(whole, "part", {1.5}), (std::vector<int>{-1})) << "never split over two nodes";
}

// The guide's model of fractional requests, in which a node has one amount: 2,000 cases in its ranges with a resource
// that is one amount, as many with GPUs in ranges where the slots of a node make no difference.
TEST(SchedulerNodesTest, FirstFitAgreesWithTheGuidesModel) {
  std::mt19937_64 random(test_seed());
  for (int round = 0; round < 4000; ++round) {
    const bool gpus = round % 2 == 1;
    std::vector<double> left(1 + random() % 5), requests(random() % 12);
    for (auto& node : left) node = static_cast<double>(random() % (gpus ? 2 : 5));
    for (auto& request : requests) request = static_cast<double>(1 + random() % (gpus ? 4 : 8)) / 4;
    const std::string name = gpus ? "GPU" : "part";
    std::vector<Resources> nodes;
    for (const double node : left) nodes.push_back({{name, node}});
    std::vector<int> expected;
    for (const double request : requests) {
      int chosen = -1;
      for (std::size_t node = 0; node < left.size() && chosen < 0; ++node) {
        if (left[node] + 1e-9 >= request) chosen = static_cast<int>(node);
      }
      if (chosen >= 0) left[static_cast<std::size_t>(chosen)] -= request;
      expected.push_back(chosen);
    }
    auto scheduler = scheduler_over(nodes);
    // A request that waits would be served by nothing that is given back here; it holds back its own shape only.
    ASSERT_EQ(nodes_for(scheduler, name, requests), expected) << "round " << round;
  }
}

TEST(SchedulerNodesTest, SpreadGoesRound) {
  auto scheduler = scheduler_over({{{"CPU", 2}}, {{"CPU", 2}}, {{"CPU", 1}}});
  Scheduling spread;
  spread.policy = static_cast<std::uint8_t>(NodePolicy::kSpread);
  std::vector<NodeIndex> nodes;
  for (int i = 0; i < 5; ++i) nodes.push_back(place_one(scheduler, {{"CPU", 1}}, spread)->node);
  EXPECT_EQ(nodes, (std::vector<NodeIndex>{0, 1, 2, 0, 1}));
}

TEST(SchedulerNodesTest, AffinityIsKeptOrSoft) {
  auto scheduler = scheduler_over({{{"CPU", 2}}, {{"CPU", 1}}});
  const auto first = place_one(scheduler, {{"CPU", 1}}, on_node(1, false));
  EXPECT_EQ(first->node, 1u);
  EXPECT_FALSE(place_one(scheduler, {{"CPU", 1}}, on_node(1, false))) << "it waits for that node";
  EXPECT_FALSE(place_one(scheduler, {{"CPU", 1}}, on_node(1, true))) << "soft ones wait for a node that exists";
  auto spills = on_node(1, true);
  spills.spill = true;
  EXPECT_EQ(place_one(scheduler, {{"CPU", 1}}, spills)->node, 0u);
  auto impatient = on_node(1, false);
  impatient.no_wait = true;
  EXPECT_EQ(scheduler.request(1, {{"CPU", 1}}, {}, impatient).code(), Code::kResourceExhausted);
  EXPECT_EQ(place_one(scheduler, {{"CPU", 1}}, on_node(7, true))->node, 0u);
  EXPECT_EQ(scheduler.request(1, {{"CPU", 1}}, {}, on_node(7, false)).code(), Code::kResourceExhausted);
  EXPECT_EQ(scheduler.request(1, {{"CPU", 2}}, {}, on_node(1, false)).code(), Code::kResourceExhausted);
  scheduler.release(*first);
  ASSERT_TRUE(scheduler.request(1, {{"CPU", 1}}, {}, on_node(1, true)).is_ok());
  ASSERT_TRUE(scheduler.request(2, {{"CPU", 1}}, {}, on_node(1, false)).is_ok());
  EXPECT_EQ(scheduler.remove_node(1), (std::vector<Scheduler::Ticket>{2})) << "what was for that node alone";
}

TEST(SchedulerNodesTest, AffinityAndLabelsHoldTogether) {
  auto scheduler = scheduler_over({{{"CPU", 1}}, {{"CPU", 1}}}, {{{"zone", "a"}}, {{"zone", "b"}}});
  auto both = on_node(0, false);
  both.required = {{"zone", {"b"}, false}};
  EXPECT_EQ(scheduler.request(1, {{"CPU", 1}}, {}, both).code(), Code::kResourceExhausted);
  both.soft = true;
  EXPECT_EQ(place_one(scheduler, {{"CPU", 1}}, both)->node, 1u);
}

TEST(SchedulerNodesTest, LabelsSelect) {
  auto scheduler = scheduler_over({{{"CPU", 1}}, {{"CPU", 1}}, {{"CPU", 1}}},
                                  {{{"zone", "a"}}, {{"zone", "b"}, {"disk", "ssd"}}, {}});
  const auto chosen = [&scheduler](std::vector<LabelRule> required, std::vector<LabelRule> preferred = {}) {
    Scheduling scheduling;
    scheduling.required = std::move(required);
    scheduling.preferred = std::move(preferred);
    const auto allocation = place_one(scheduler, {{"CPU", 1}}, scheduling);
    if (!allocation) return -1;
    scheduler.release(*allocation);
    return static_cast<int>(allocation->node);
  };
  EXPECT_EQ(chosen({{"zone", {"b"}, false}}), 1);
  EXPECT_EQ(chosen({{"zone", {"x", "b"}, false}}), 1);
  EXPECT_EQ(chosen({{"zone", {"a"}, true}}), 1);
  EXPECT_EQ(chosen({{"zone", {"a", "b"}, true}}), 2) << "a node without the label is not one of the values";
  EXPECT_EQ(chosen({{"disk", {}, false}}), 1);
  EXPECT_EQ(chosen({{"zone", {}, true}}), 2);
  EXPECT_EQ(chosen({{"zone", {"c"}, false}}), -1);
  EXPECT_EQ(chosen({{kNodeIdLabel, {node_id(2)}, false}}), 2);
  EXPECT_EQ(chosen({}, {{"disk", {}, false}}), 1);
  EXPECT_EQ(chosen({}, {{"disk", {"tape"}, false}}), 0) << "a preference may be unmet";
}

TEST(SchedulerNodesTest, ABundleIsTakenFromItsNodeAndServesThoseInIt) {
  auto scheduler = scheduler_over({{{"CPU", 4}, {"GPU", 2}}});
  ASSERT_TRUE(
      scheduler.add_group(1, bundles_of({{{"CPU", 2}, {"GPU", 1}}, {{"CPU", 1}}}), GroupStrategy::kPack).is_ok());
  EXPECT_FALSE(place_one(scheduler, {{"CPU", 1}}, in_group(1))) << "the group has no place yet";
  EXPECT_EQ(scheduler.place_groups(), (std::vector<GroupId>{1}));
  EXPECT_EQ(scheduler.available(), (Resources{{"CPU", 1}, {"GPU", 1}}));
  EXPECT_EQ(scheduler.total(), (Resources{{"CPU", 4}, {"GPU", 2}}));
  const auto first = place_one(scheduler, {{"CPU", 2}}, in_group(1));
  EXPECT_EQ(first->bundle, 0);
  const auto second = place_one(scheduler, {{"CPU", 1}}, in_group(1));
  EXPECT_EQ(second->bundle, 1);
  EXPECT_FALSE(place_one(scheduler, {{"CPU", 1}}, in_group(1)));
  const auto gpu = place_one(scheduler, {{"GPU", 1}}, in_group(1, 0));
  EXPECT_EQ(gpu->share.accelerators.at("GPU"), (std::vector<std::int32_t>{0}));
  EXPECT_EQ(scheduler.request(1, {{"GPU", 1}}, {}, in_group(1, 1)).code(), Code::kResourceExhausted);
  EXPECT_EQ(scheduler.request(1, {{"GPU", 1}}, {}, in_group(1, 2)).code(), Code::kInvalidArgument);
  EXPECT_EQ(scheduler.request(1, {{"CPU", 3}}, {}, in_group(1)).code(), Code::kResourceExhausted);
  EXPECT_EQ(scheduler.request(1, {{"CPU", 1}}, {}, in_group(2)).code(), Code::kNotFound);
  EXPECT_EQ(place_one(scheduler, {{"GPU", 1}})->share.accelerators.at("GPU"), (std::vector<std::int32_t>{1}));
}

TEST(SchedulerNodesTest, ARemovedGroupGivesBackAsItsHoldersEnd) {
  auto scheduler = scheduler_over({{{"CPU", 4}, {"GPU", 1}}});
  ASSERT_TRUE(scheduler.add_group(1, bundles_of({{{"CPU", 3}, {"GPU", 0.5}}}), GroupStrategy::kPack).is_ok());
  ASSERT_EQ(scheduler.place_groups().size(), 1u);
  auto holder = *place_one(scheduler, {{"CPU", 2}, {"GPU", 0.25}}, in_group(1));
  auto waiting = *place_one(scheduler, {{"CPU", 1}}, in_group(1));
  scheduler.give_back_cpu(waiting);
  ASSERT_TRUE(scheduler.request(7, {{"CPU", 3}}, {}, in_group(1)).is_ok());
  EXPECT_EQ(scheduler.remove_group(1), (std::vector<Scheduler::Ticket>{7}));
  EXPECT_EQ(scheduler.pending(), 0u);
  EXPECT_EQ(scheduler.available(), (Resources{{"CPU", 2}, {"GPU", 0.75}}));
  scheduler.take_cpu_again(waiting);
  EXPECT_EQ(scheduler.available().at("CPU"), 1);
  scheduler.release(holder);
  scheduler.release(waiting);
  EXPECT_EQ(scheduler.available(), scheduler.total());
  EXPECT_TRUE(scheduler.remove_group(1).empty());
}

TEST(SchedulerNodesTest, AGroupThatDoesNotFitWaitsAndHoldsBackNoOther) {
  auto scheduler = scheduler_over({{{"CPU", 2}}});
  const auto holder = *place_one(scheduler, {{"CPU", 1}});
  ASSERT_TRUE(scheduler.add_group(1, bundles_of({{{"CPU", 3}}}), GroupStrategy::kPack).is_ok());
  EXPECT_TRUE(scheduler.place_groups().empty());
  EXPECT_FALSE(scheduler.waits_for_holders()) << "nobody could give it what it lacks";
  EXPECT_NE(scheduler.lack_of(1).find("{CPU: 3}"), std::string::npos) << scheduler.lack_of(1);
  ASSERT_TRUE(scheduler.add_group(2, bundles_of({{{"CPU", 2}}}), GroupStrategy::kPack).is_ok());
  ASSERT_TRUE(scheduler.add_group(3, bundles_of({{{"CPU", 1}}}), GroupStrategy::kPack).is_ok());
  EXPECT_EQ(scheduler.place_groups(), (std::vector<GroupId>{3}));
  EXPECT_TRUE(scheduler.waits_for_holders());
  EXPECT_EQ(scheduler.lack_of(2), "");
  scheduler.release(holder);
  EXPECT_TRUE(scheduler.place_groups().empty());
  scheduler.remove_group(3);
  EXPECT_EQ(scheduler.place_groups(), (std::vector<GroupId>{2}));
  EXPECT_EQ(scheduler.nodes_of(2), (std::vector<NodeIndex>{0}));
  EXPECT_EQ(scheduler.nodes_of(1), (std::vector<NodeIndex>{kNoNode}));
  ASSERT_TRUE(scheduler.add_node({{"CPU", 3}}, {}).is_ok());
  EXPECT_EQ(scheduler.place_groups(), (std::vector<GroupId>{1})) << "a node came that has it";
}

TEST(SchedulerNodesTest, BundlesOfALostNodeAreSetUpElsewhere) {
  auto scheduler = scheduler_over({{{"CPU", 1}}, {{"CPU", 1}}, {{"CPU", 1}}});
  ASSERT_TRUE(scheduler.add_group(1, bundles_of({{{"CPU", 1}}, {{"CPU", 1}}}), GroupStrategy::kStrictSpread).is_ok());
  ASSERT_EQ(scheduler.place_groups().size(), 1u);
  const auto holder = *place_one(scheduler, {{"CPU", 1}}, in_group(1, 1));
  EXPECT_EQ(holder.node, 1u);
  scheduler.remove_node(1);
  EXPECT_EQ(scheduler.nodes_of(1), (std::vector<NodeIndex>{0, kNoNode}));
  EXPECT_EQ(scheduler.place_groups(), (std::vector<GroupId>{1}));
  EXPECT_EQ(scheduler.nodes_of(1), (std::vector<NodeIndex>{0, 2}));
  scheduler.release(holder);  // it ended with its node: what it had is nowhere
  EXPECT_EQ(scheduler.available().at("CPU"), 0);
  EXPECT_EQ(place_one(scheduler, {{"CPU", 1}}, in_group(1, 1))->node, 2u);
  scheduler.remove_node(2);
  EXPECT_TRUE(scheduler.place_groups().empty()) << "not beside the other bundle";
  EXPECT_NE(scheduler.lack_of(1), "");
}

// Groups, requests in and outside of them, nodes that come and go, in random order: what is given out never exceeds
// what there is, and all of it comes back.
TEST(SchedulerNodesTest, NothingIsLostOrMadeUp) {
  std::mt19937_64 random(test_seed());
  for (int round = 0; round < 300; ++round) {
    auto scheduler = scheduler_over({{{"CPU", 4}, {"GPU", 2}}, {{"CPU", 2}, {"GPU", 1}}});
    std::vector<Allocation> held;
    std::vector<GroupId> groups;
    Scheduler::Ticket next = 1;
    const auto place_all = [&] {
      scheduler.place_groups();
      for (auto& grant : scheduler.place()) held.push_back(grant.allocation);
    };
    for (int step = 0; step < 60; ++step) {
      const auto what = random() % 8;
      const double cpus = static_cast<double>(random() % 3);
      const double gpus = static_cast<double>(random() % 5) / 4;
      if (what == 0) {
        std::vector<Resources> bundles(1 + random() % 3, {{"CPU", 1 + cpus}, {"GPU", gpus}});
        groups.push_back(next);
        ASSERT_TRUE(scheduler.add_group(next++, bundles_of(bundles), static_cast<GroupStrategy>(random() % 4)).is_ok());
      } else if (what == 1 && !groups.empty()) {
        scheduler.remove_group(groups.back());
        groups.pop_back();
      } else if (what == 2 && !held.empty()) {
        scheduler.release(held.back());
        held.pop_back();
      } else if (what == 3 && !held.empty()) {
        scheduler.give_back_cpu(held.front());
      } else if (what == 4 && !held.empty()) {
        scheduler.take_cpu_again(held.front());
      } else if (what == 5 && random() % 4 == 0) {
        ASSERT_TRUE(scheduler.add_node({{"CPU", 2}, {"GPU", 1}}, {}).is_ok());
      } else if (what == 6 && random() % 4 == 0) {
        scheduler.remove_node(static_cast<NodeIndex>(1 + random() % scheduler.nodes().size()));
      } else {
        const GroupId group = groups.empty() || random() % 2 == 0 ? 0 : groups[random() % groups.size()];
        (void)scheduler.request(next++, {{"CPU", cpus}, {"GPU", gpus}}, {}, in_group(group));
      }
      place_all();
      for (const auto& [name, amount] : scheduler.available()) {
        ASSERT_LE(amount, scheduler.total().at(name)) << name;
      }
    }
    for (const GroupId group : groups) scheduler.remove_group(group);
    while (!held.empty()) {
      scheduler.release(held.back());
      held.pop_back();
      for (auto& grant : scheduler.place()) held.push_back(grant.allocation);
    }
    ASSERT_EQ(scheduler.available(), scheduler.total()) << "round " << round;
  }
}

TEST(SchedulerNodesTest, IdsOfNodesAreAsLongAsRays) {
  EXPECT_EQ(node_id(0).size(), 56u);
  for (const NodeIndex node : {0u, 1u, 65536u}) EXPECT_EQ(node_of_id(node_id(node)), node);
  for (const char* id : {"", "abc", "ffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}) {
    EXPECT_EQ(node_of_id(id), kNoNode) << id;
  }
}

// What a journal has of a scheduler makes another one that goes on alike.
TEST(SchedulerNodesTest, ItIsMadeAgainFromWhatItHasGiven) {
  std::mt19937_64 random(test_seed());
  const auto below = [&](std::size_t limit) { return static_cast<std::size_t>(random() % limit); };
  for (int round = 0; round < 200; ++round) {
    const auto nodes = 1 + below(3);
    const auto new_one = [&] {
      auto made = Scheduler::make({{"CPU", 8}, {"GPU", 4}, {"custom", 3}}, {}, true);
      for (std::size_t i = 1; i < nodes; ++i) {
        EXPECT_TRUE(made->add_node({{"CPU", 4}, {"GPU", 2}}, {{"zone", std::to_string(i)}}).is_ok());
      }
      return std::move(made).value();
    };
    auto first = new_one();
    struct Group {
      std::vector<Bundle> bundles;
      GroupStrategy strategy{};
    };
    std::map<GroupId, Group> groups;
    std::map<Scheduler::Ticket, Allocation> held;
    for (Scheduler::Ticket ticket = 1; ticket <= 40; ++ticket) {
      const auto what = below(10);
      if (what < 2) {
        Group group;
        group.strategy = static_cast<GroupStrategy>(below(4));
        for (auto left = 1 + below(3); left > 0; --left) {
          group.bundles.push_back({{{"CPU", 1 + double(below(2))}, {"GPU", below(2) == 0 ? 0.5 : 1}}, {}});
        }
        ASSERT_TRUE(first.add_group(ticket, group.bundles, group.strategy).is_ok());
        groups.emplace(ticket, std::move(group));
      } else if (what == 2 && !groups.empty()) {
        const auto gone = std::next(groups.begin(), static_cast<std::ptrdiff_t>(below(groups.size())));
        for (const auto cancelled : first.remove_group(gone->first)) (void)cancelled;
        groups.erase(gone);
      } else if (what == 3 && !held.empty()) {
        const auto done = std::next(held.begin(), static_cast<std::ptrdiff_t>(below(held.size())));
        first.release(done->second);
        held.erase(done);
      } else if (what == 4 && !held.empty()) {
        auto& some = std::next(held.begin(), static_cast<std::ptrdiff_t>(below(held.size())))->second;
        if (some.cpu_given_back) {
          first.take_cpu_again(some);
        } else {
          first.give_back_cpu(some);
        }
      } else {
        Scheduling scheduling;
        if (!groups.empty() && below(2) == 0) {
          scheduling.group = std::next(groups.begin(), static_cast<std::ptrdiff_t>(below(groups.size())))->first;
        }
        const double gpus = std::array{0.0, 0.25, 0.5, 1.0}[below(4)];
        (void)first.request(ticket, {{"CPU", double(below(2))}, {"GPU", gpus}}, {}, scheduling);
      }
      (void)first.place_groups();
      for (auto& grant : first.place()) held.emplace(grant.ticket, std::move(grant.allocation));
    }
    auto second = new_one();
    for (const auto& [id, group] : groups) {
      ASSERT_TRUE(
          second.restore_group(id, group.bundles, group.strategy, kNoNode, first.nodes_of(id), first.shares_of(id))
              .is_ok());
    }
    auto again = held;
    for (auto& [ticket, allocation] : again) second.restore(allocation);
    const auto expect_same = [&] {
      for (NodeIndex node = 0; node < nodes; ++node) EXPECT_EQ(first.available(node), second.available(node));
      for (const auto& [id, group] : groups) {
        EXPECT_EQ(first.nodes_of(id), second.nodes_of(id));
        EXPECT_EQ(first.accelerators_of(id), second.accelerators_of(id));
      }
    };
    expect_same();
    for (const auto& [id, group] : groups) {
      (void)first.remove_group(id);
      (void)second.remove_group(id);
    }
    groups.clear();
    expect_same();
    for (const auto& [ticket, allocation] : held) first.release(allocation);
    for (const auto& [ticket, allocation] : again) second.release(allocation);
    expect_same();
    EXPECT_EQ(second.available(), second.total());
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace beeline::runtime::node
