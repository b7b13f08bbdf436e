#include "beeline/runtime/node/bundle_placement.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <set>

#include "seed.h"

namespace beeline::runtime::node {
namespace {

constexpr GroupStrategy kStrategies[] = {GroupStrategy::kPack, GroupStrategy::kSpread, GroupStrategy::kStrictPack,
                                         GroupStrategy::kStrictSpread};

// Nodes with some of their resources taken, and bundles to be placed on them.
struct PlacementCase {
  std::vector<ResourcePool> nodes;
  std::vector<Amounts> bundles;
  std::vector<std::vector<bool>> allowed;

  [[nodiscard]] std::optional<std::vector<PlacedBundle>> place(GroupStrategy strategy) const {
    std::vector<const ResourcePool*> pools;
    for (const auto& node : nodes) pools.push_back(&node);
    return place_bundles(bundles, pools, allowed, strategy);
  }
};

ResourcePool node_with(const Resources& total) {
  return ResourcePool::make(to_amounts(total).value()).value();
}

PlacementCase amounts_of(const std::string& name, const std::vector<double>& nodes,
                         const std::vector<double>& bundles) {
  PlacementCase result;
  for (const double node : nodes) result.nodes.push_back(node_with({{name, node}}));
  for (const double bundle : bundles) {
    result.bundles.push_back(to_amounts({{name, bundle}}).value());
    result.allowed.emplace_back(nodes.size(), true);
  }
  return result;
}

PlacementCase gpus(const std::vector<double>& nodes, const std::vector<double>& bundles) {
  return amounts_of("GPU", nodes, bundles);
}

std::vector<std::size_t> nodes_of(const std::optional<std::vector<PlacedBundle>>& placed) {
  std::vector<std::size_t> nodes;
  if (!placed) return nodes;
  for (const auto& bundle : *placed) nodes.push_back(bundle.node);
  return nodes;
}

// What the plainest search finds: with how few and with how many nodes the bundles can be placed, if at all.
struct NodeCounts {
  int least = 0;  // 0: there is no placement
  int most = 0;
};

NodeCounts brute_force(const PlacementCase& problem) {
  struct Left {
    Amounts plain;
    std::vector<Amount> gpus;
  };
  std::vector<Left> left;
  for (const auto& node : problem.nodes) {
    left.push_back({node.free(), {}});
    const auto slots = node.slots().find("GPU");
    if (slots == node.slots().end()) continue;
    for (const auto& slot : slots->second) left.back().gpus.push_back(slot.left);
  }
  NodeCounts counts;
  std::vector<int> on(problem.nodes.size(), 0);
  const std::function<void(std::size_t)> place = [&](std::size_t bundle) {
    if (bundle == problem.bundles.size()) {
      const auto used = static_cast<int>(std::count_if(on.begin(), on.end(), [](int n) { return n > 0; }));
      counts.least = counts.least == 0 ? used : std::min(counts.least, used);
      counts.most = std::max(counts.most, used);
      return;
    }
    for (std::size_t node = 0; node < left.size(); ++node) {
      if (!problem.allowed[bundle][node]) continue;
      bool fits = true;
      for (const auto& [name, amount] : problem.bundles[bundle]) {
        if (!is_accelerator(name)) fits = fits && amount_of(left[node].plain, name) >= amount;
      }
      if (!fits) continue;
      const auto before = left[node];
      for (const auto& [name, amount] : problem.bundles[bundle]) {
        if (!is_accelerator(name)) left[node].plain[name] -= amount;
      }
      ++on[node];
      const Amount gpu = amount_of(problem.bundles[bundle], "GPU");
      if (gpu == 0) {
        place(bundle + 1);
      } else if (gpu < kUnit) {
        for (auto& slot : left[node].gpus) {
          if (slot < gpu) continue;
          slot -= gpu;
          place(bundle + 1);
          slot += gpu;
        }
      } else {
        // Whole ones are all alike.
        Amount missing = gpu;
        for (auto& slot : left[node].gpus) {
          if (slot < kUnit || missing == 0) continue;
          slot -= kUnit;
          missing -= kUnit;
        }
        if (missing == 0) place(bundle + 1);
      }
      --on[node];
      left[node] = before;
    }
  };
  place(0);
  return counts;
}

PlacementCase random_case(std::mt19937_64& random) {
  PlacementCase result;
  const auto nodes = 1 + random() % 4;
  const bool with_gpus = random() % 2 == 0;
  const bool with_labels = random() % 4 == 0;
  for (std::uint64_t i = 0; i < nodes; ++i) {
    auto node = node_with({{"CPU", static_cast<double>(random() % 5)},
                           {"slot", static_cast<double>(random() % 3)},
                           {"GPU", with_gpus ? static_cast<double>(random() % 3) : 0}});
    const auto some = to_amounts({{"GPU", static_cast<double>(random() % 4) / 4}}).value();
    if (node.fits(some)) (void)node.take(some);
    result.nodes.push_back(std::move(node));
  }
  const auto bundles = 1 + random() % 4;
  for (std::uint64_t i = 0; i < bundles; ++i) {
    constexpr double kFractions[] = {0, 0.25, 0.5, 0.75, 1, 2};
    auto bundle = to_amounts({{"CPU", static_cast<double>(random() % 4)},
                              {"slot", static_cast<double>(random() % 2)},
                              {"GPU", with_gpus ? kFractions[random() % 6] : 0}})
                      .value();
    if (bundle.empty()) bundle["CPU"] = kUnit;
    result.bundles.push_back(std::move(bundle));
    auto& row = result.allowed.emplace_back();
    for (std::uint64_t node = 0; node < nodes; ++node) row.push_back(!with_labels || random() % 3 != 0);
  }
  return result;
}

// What was placed fits, and on the slots that it says.
void expect_valid(const PlacementCase& problem, const std::vector<PlacedBundle>& placed) {
  ASSERT_EQ(placed.size(), problem.bundles.size());
  auto nodes = problem.nodes;
  for (std::size_t i = 0; i < placed.size(); ++i) {
    ASSERT_TRUE(problem.allowed[i][placed[i].node]);
    ASSERT_EQ(placed[i].share.amounts, problem.bundles[i]);
    const auto carved = nodes[placed[i].node].carve(placed[i].share);
    ASSERT_EQ(carved.available(), problem.bundles[i]);
  }
  for (const auto& node : nodes) {
    for (const auto& [name, amount] : node.free()) ASSERT_GE(amount, 0) << name;
    for (const auto& [name, slots] : node.slots()) {
      for (const auto& slot : slots) ASSERT_GE(slot.left, 0) << name << " " << slot.device;
    }
  }
}

TEST(BundlePlacementTest, TheGuidesExamples) {
  const std::vector<double> ones(8, 1);
  EXPECT_TRUE(gpus({8, 2}, ones).place(GroupStrategy::kStrictPack));
  EXPECT_FALSE(gpus({4, 4}, ones).place(GroupStrategy::kStrictPack));
  EXPECT_TRUE(gpus(ones, ones).place(GroupStrategy::kStrictSpread));
  EXPECT_FALSE(gpus(std::vector<double>(7, 1), ones).place(GroupStrategy::kStrictSpread));
  EXPECT_TRUE(gpus({8}, ones).place(GroupStrategy::kStrictPack));
  EXPECT_FALSE(gpus({7}, ones).place(GroupStrategy::kStrictPack));
  EXPECT_FALSE(amounts_of("part", {7.99}, ones).place(GroupStrategy::kStrictPack));
  EXPECT_TRUE(amounts_of("part", {8}, ones).place(GroupStrategy::kStrictPack));
  EXPECT_FALSE(gpus({8}, ones).place(GroupStrategy::kStrictSpread));
  EXPECT_FALSE(gpus(ones, ones).place(GroupStrategy::kStrictPack));
  EXPECT_TRUE(gpus({4, 1, 1}, {4, 1, 1}).place(GroupStrategy::kStrictSpread));
  EXPECT_FALSE(gpus({2, 2, 2}, {4, 1, 1}).place(GroupStrategy::kStrictSpread));
}

// The guide's models of the strict strategies (reference and greedy), 3,000 cases of them with its ranges.
TEST(BundlePlacementTest, StrictStrategiesAgreeWithTheGuidesModels) {
  std::mt19937_64 random(test_seed());
  for (int round = 0; round < 3000; ++round) {
    std::vector<double> nodes(1 + random() % 5), bundles(1 + random() % 4);
    for (auto& node : nodes) node = static_cast<double>(random() % 5);
    for (auto& bundle : bundles) bundle = static_cast<double>(1 + random() % 4);
    auto freest = nodes, largest = bundles;
    std::sort(freest.rbegin(), freest.rend());
    std::sort(largest.rbegin(), largest.rend());
    bool spread = largest.size() <= freest.size();
    for (std::size_t i = 0; spread && i < largest.size(); ++i) spread = freest[i] >= largest[i];
    double sum = 0;
    for (const double bundle : bundles) sum += bundle;
    const auto problem = gpus(nodes, bundles);
    ASSERT_EQ(problem.place(GroupStrategy::kStrictSpread).has_value(), spread);
    ASSERT_EQ(problem.place(GroupStrategy::kStrictPack).has_value(), freest.front() >= sum);
  }
}

// Several resources, fractions of accelerators, labels and nodes in use: 3,000 cases against a search through all
// placements, for each strategy.
TEST(BundlePlacementTest, AgreesWithBruteForce) {
  std::mt19937_64 random(test_seed());
  int placeable = 0;
  for (int round = 0; round < 3000; ++round) {
    const auto problem = random_case(random);
    const auto counts = brute_force(problem);
    placeable += counts.least > 0 ? 1 : 0;
    const auto bundles = static_cast<int>(problem.bundles.size());
    for (const auto strategy : kStrategies) {
      const auto placed = problem.place(strategy);
      const bool expected = strategy == GroupStrategy::kStrictPack     ? counts.least == 1
                            : strategy == GroupStrategy::kStrictSpread ? counts.most == bundles
                                                                       : counts.least > 0;
      ASSERT_EQ(placed.has_value(), expected) << "round " << round << ", strategy " << static_cast<int>(strategy);
      if (!placed) continue;
      expect_valid(problem, *placed);
      const auto nodes = nodes_of(placed);
      const auto used = static_cast<int>(std::set<std::size_t>(nodes.begin(), nodes.end()).size());
      if (strategy == GroupStrategy::kPack) {
        ASSERT_EQ(used, counts.least) << "round " << round;
      }
      if (strategy == GroupStrategy::kSpread) {
        ASSERT_EQ(used, counts.most) << "round " << round;
      }
    }
  }
  EXPECT_GT(placeable, 500);
}

TEST(BundlePlacementTest, EqualBundlesAreSpreadEvenly) {
  EXPECT_EQ(nodes_of(gpus({4, 4, 4}, std::vector<double>(6, 1)).place(GroupStrategy::kSpread)),
            (std::vector<std::size_t>{0, 1, 2, 0, 1, 2}));
}

TEST(BundlePlacementTest, EarlierNodesComeFirst) {
  EXPECT_EQ(nodes_of(gpus({2, 2, 2}, {1, 1, 1}).place(GroupStrategy::kPack)), (std::vector<std::size_t>{0, 0, 1}));
  EXPECT_EQ(nodes_of(gpus({1, 2, 2}, {1, 1}).place(GroupStrategy::kStrictPack)), (std::vector<std::size_t>{1, 1}));
  EXPECT_EQ(nodes_of(gpus({1, 2, 2}, {1, 2}).place(GroupStrategy::kStrictSpread)), (std::vector<std::size_t>{0, 1}));
}

TEST(BundlePlacementTest, FractionsFillSlotsFirstFit) {
  const auto placed = gpus({2}, {0.5, 0.5, 0.5, 0.5}).place(GroupStrategy::kPack);
  ASSERT_TRUE(placed);
  std::vector<std::int32_t> slots;
  for (const auto& bundle : *placed) slots.push_back(bundle.share.accelerators.at("GPU").front());
  EXPECT_EQ(slots, (std::vector<std::int32_t>{0, 0, 1, 1}));
}

TEST(BundlePlacementTest, ManyBundlesOnManyNodesTakeBoundedWork) {
  // No placement: each node has room for two of three halves of its bundles, and sums alone do not tell.
  const auto problem = gpus(std::vector<double>(30, 1), std::vector<double>(45, 0.6));
  for (const auto strategy : kStrategies) EXPECT_FALSE(problem.place(strategy));
  EXPECT_TRUE(gpus(std::vector<double>(100, 8), std::vector<double>(800, 1)).place(GroupStrategy::kPack));
  EXPECT_TRUE(gpus(std::vector<double>(100, 8), std::vector<double>(800, 1)).place(GroupStrategy::kSpread));
}

}  // namespace
}  // namespace beeline::runtime::node
