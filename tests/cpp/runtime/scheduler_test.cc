#include "beeline/runtime/node/scheduler.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "seed.h"

namespace beeline::runtime::node {
namespace {

Scheduler make(const Resources& total) {
  auto scheduler = Scheduler::make(total);
  EXPECT_TRUE(scheduler.is_ok()) << scheduler.status().message();
  return std::move(scheduler).value();
}

// Requests one after the other; the slot that each got, or -1 for those that wait.
std::vector<int> slots_of(Scheduler& scheduler, const std::vector<double>& requests) {
  std::vector<int> slots(requests.size(), -1);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    EXPECT_TRUE(scheduler.request(i, {{"GPU", requests[i]}}).is_ok());
    for (const auto& grant : scheduler.place())
      slots[grant.ticket] = grant.allocation.share.accelerators.at("GPU").front();
  }
  return slots;
}

TEST(SchedulerTest, HalvesOfTwoGpusGoToTheFirstThatFits) {
  auto scheduler = make({{"GPU", 2}});
  EXPECT_EQ(slots_of(scheduler, {0.5, 0.5, 0.5, 0.5, 0.5}), (std::vector<int>{0, 0, 1, 1, -1}));
}

TEST(SchedulerTest, AFractionIsNeverSplitOverTwoGpus) {
  auto scheduler = make({{"GPU", 2}});
  EXPECT_EQ(slots_of(scheduler, {0.6, 0.6, 0.6, 0.4}), (std::vector<int>{0, 1, -1, 0}));
  EXPECT_EQ(scheduler.pending(), 1u);
}

TEST(SchedulerTest, WholeRequestsTakeFreeGpusOnly) {
  auto scheduler = make({{"GPU", 4}});
  ASSERT_TRUE(scheduler.request(1, {{"GPU", 0.1}}).is_ok());
  ASSERT_TRUE(scheduler.request(2, {{"GPU", 3}}).is_ok());
  ASSERT_TRUE(scheduler.request(3, {{"GPU", 1}}).is_ok());
  const auto grants = scheduler.place();
  ASSERT_EQ(grants.size(), 2u);
  EXPECT_EQ(grants[1].allocation.share.accelerators.at("GPU"), (std::vector<std::int32_t>{1, 2, 3}));
}

// 2,000 random cases against the plainest model there is: first fit over a list of what is left.
TEST(SchedulerTest, FractionsAgreeWithBruteForce) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  for (int round = 0; round < 2000; ++round) {
    const int gpus = 1 + static_cast<int>(random() % 8);
    auto scheduler = make({{"GPU", gpus}});
    std::vector<int> left(static_cast<std::size_t>(gpus), 10000);
    struct Held {
      int amount;
      std::vector<int> slots;
      Allocation allocation;
    };
    std::vector<Held> held;
    for (std::uint64_t step = 0; step < 30; ++step) {
      if (!held.empty() && random() % 3 == 0) {
        const auto at = random() % held.size();
        for (const int slot : held[at].slots) left[static_cast<std::size_t>(slot)] += std::min(held[at].amount, 10000);
        scheduler.release(held[at].allocation);
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(at));
        continue;
      }
      const int amount = random() % 4 == 0 ? 10000 * (1 + static_cast<int>(random() % static_cast<unsigned>(gpus)))
                                           : 1 + static_cast<int>(random() % 10000);
      std::vector<int> expected;
      const int wanted = std::max(1, amount / 10000);
      for (int slot = 0; slot < gpus && static_cast<int>(expected.size()) < wanted; ++slot) {
        if (left[static_cast<std::size_t>(slot)] >= std::min(amount, 10000)) expected.push_back(slot);
      }
      if (static_cast<int>(expected.size()) < wanted) expected.clear();
      ASSERT_TRUE(scheduler.request(step, {{"GPU", amount / 10000.0}}).is_ok());
      const auto grants = scheduler.place();
      ASSERT_EQ(grants.size(), expected.empty() ? 0u : 1u);
      if (expected.empty()) {
        ASSERT_TRUE(scheduler.cancel(step));
        continue;
      }
      const auto& got = grants[0].allocation.share.accelerators.at("GPU");
      ASSERT_EQ(std::vector<int>(got.begin(), got.end()), expected);
      for (const int slot : expected) left[static_cast<std::size_t>(slot)] -= std::min(amount, 10000);
      held.push_back({amount, expected, grants[0].allocation});
    }
    for (const auto& entry : held) scheduler.release(entry.allocation);
    ASSERT_EQ(scheduler.available(), scheduler.total());
  }
}

TEST(SchedulerTest, ARequestThatWaitsHoldsBackOnlyItsOwnShape) {
  auto scheduler = make({{"CPU", 2}});
  ASSERT_TRUE(scheduler.request(1, {{"CPU", 1}}).is_ok());
  ASSERT_TRUE(scheduler.request(2, {{"CPU", 2}}).is_ok());
  ASSERT_TRUE(scheduler.request(3, {{"CPU", 2}}).is_ok());
  ASSERT_TRUE(scheduler.request(4, {{"CPU", 1}}).is_ok());
  auto grants = scheduler.place();
  ASSERT_EQ(grants.size(), 2u);
  EXPECT_EQ(grants[0].ticket, 1u);
  EXPECT_EQ(grants[1].ticket, 4u);
  for (const auto& grant : grants) scheduler.release(grant.allocation);
  grants = scheduler.place();
  ASSERT_EQ(grants.size(), 1u);
  EXPECT_EQ(grants[0].ticket, 2u) << "requests of one shape are served in order";
}

TEST(SchedulerTest, PlacementIsNeededButNotHeld) {
  auto scheduler = make({{"CPU", 1}});
  ASSERT_TRUE(scheduler.request(1, {{"CPU", 1}}).is_ok());
  const auto task = scheduler.place();
  ASSERT_EQ(task.size(), 1u);
  for (std::uint64_t actor = 2; actor < 10; ++actor) ASSERT_TRUE(scheduler.request(actor, {}, {{"CPU", 1}}).is_ok());
  EXPECT_TRUE(scheduler.place().empty());
  scheduler.release(task[0].allocation);
  EXPECT_EQ(scheduler.place().size(), 8u);
  EXPECT_EQ(scheduler.available().at("CPU"), 1);
}

TEST(SchedulerTest, CpusOfAWaitingHolderServeOthersAndMayBeOverdrawn) {
  auto scheduler = make({{"CPU", 1}, {"GPU", 1}});
  ASSERT_TRUE(scheduler.request(1, {{"CPU", 1}, {"GPU", 1}}).is_ok());
  auto outer = scheduler.place().at(0).allocation;
  scheduler.give_back_cpu(outer);
  scheduler.give_back_cpu(outer);
  EXPECT_EQ(scheduler.available().at("CPU"), 1);
  EXPECT_EQ(scheduler.available().at("GPU"), 0);
  ASSERT_TRUE(scheduler.request(2, {{"CPU", 1}}).is_ok());
  const auto inner = scheduler.place().at(0).allocation;
  scheduler.take_cpu_again(outer);
  EXPECT_EQ(scheduler.available().at("CPU"), 0);
  scheduler.release(inner);
  EXPECT_EQ(scheduler.available().at("CPU"), 0);
  scheduler.release(outer);
  EXPECT_EQ(scheduler.available(), scheduler.total());
}

TEST(SchedulerTest, AHolderThatEndsWhileItWaitsReturnsItsCpusOnce) {
  auto scheduler = make({{"CPU", 2}});
  ASSERT_TRUE(scheduler.request(1, {{"CPU", 1}}).is_ok());
  auto allocation = scheduler.place().at(0).allocation;
  scheduler.give_back_cpu(allocation);
  scheduler.release(allocation);
  EXPECT_EQ(scheduler.available().at("CPU"), 2);
}

TEST(SchedulerTest, WhatCanNeverBeMetIsRefusedWithAdvice) {
  auto scheduler = make({{"CPU", 2}});
  const auto status = scheduler.request(1, {{"CPU", 3}});
  EXPECT_EQ(status.code(), Code::kResourceExhausted);
  EXPECT_NE(status.message().find("{CPU: 3}"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("num_cpus=3"), std::string::npos) << status.message();
  EXPECT_EQ(scheduler.request(1, {}, {{"TPU", 1}}).code(), Code::kResourceExhausted);
  EXPECT_EQ(scheduler.pending(), 0u);
}

TEST(SchedulerTest, NonsenseIsRefused) {
  auto scheduler = make({{"CPU", 2}, {"GPU", 4}});
  for (const double value : {-1.0, 1e30, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_EQ(scheduler.request(1, {{"CPU", value}}).code(), Code::kInvalidArgument) << value;
  }
  EXPECT_EQ(scheduler.request(1, {{"GPU", 1.5}}).code(), Code::kInvalidArgument);
  EXPECT_TRUE(scheduler.request(1, {{"CPU", 1.5}}).is_ok());
  EXPECT_EQ(scheduler.request(1, {{"CPU", 1}}).code(), Code::kAlreadyExists);
  EXPECT_FALSE(Scheduler::make({{"GPU", 0.5}}).is_ok());
}

TEST(SchedulerTest, TenthsAddUpExactly) {
  auto scheduler = make({{"CPU", 1}});
  for (std::uint64_t ticket = 0; ticket < 10; ++ticket) ASSERT_TRUE(scheduler.request(ticket, {{"CPU", 0.1}}).is_ok());
  const auto grants = scheduler.place();
  ASSERT_EQ(grants.size(), 10u);
  for (const auto& grant : grants) scheduler.release(grant.allocation);
  EXPECT_EQ(scheduler.available(), scheduler.total());
}

}  // namespace
}  // namespace beeline::runtime::node
