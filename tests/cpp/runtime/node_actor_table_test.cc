#include <gtest/gtest.h>

#include <random>

#include "beeline/runtime/node/actor_table.h"
#include "seed.h"

namespace beeline::runtime::node {
namespace {

using control::ActorState;
using control::DeathCause;

constexpr ProcessIndex kOwner = 1;
constexpr ProcessIndex kWorker = 5;

control::CreateActor make(std::uint32_t number, std::int32_t max_restarts = 0) {
  control::CreateActor create;
  create.actor = (static_cast<ActorId>(kOwner) << 32) | number;
  create.max_restarts = max_restarts;
  create.spec.resize(100);
  return create;
}

ActorId add(ActorTable& table, control::CreateActor create) {
  const ActorId actor = create.actor;
  EXPECT_TRUE(table.create(std::move(create), kOwner).is_ok());
  return actor;
}

TEST(ActorTableTest, LivesThroughItsStates) {
  ActorTable table;
  const ActorId actor = add(table, make(1, 1));
  EXPECT_FALSE(table.ready(actor, 0)) << "no worker yet";
  EXPECT_FALSE(table.lost(actor, "nothing to lose"));
  EXPECT_TRUE(table.start(actor, kWorker, 100));
  EXPECT_FALSE(table.start(actor, kWorker + 1, 101)) << "it has a worker";
  EXPECT_TRUE(table.ready(actor, 0));
  EXPECT_TRUE(table.lost(actor, "exit code 1"));
  EXPECT_EQ(table.find(actor)->state, ActorState::kRestarting);
  EXPECT_EQ(table.find(actor)->create.spec.size(), 100u) << "needed for the restart";
  EXPECT_TRUE(table.start(actor, kWorker + 1, 101));
  EXPECT_FALSE(table.ready(actor, 0)) << "news of the incarnation before";
  EXPECT_TRUE(table.ready(actor, 1));
  EXPECT_TRUE(table.lost(actor, "exit code 1"));
  const auto* record = table.find(actor);
  EXPECT_TRUE(record->is_dead());
  EXPECT_EQ(record->cause, DeathCause::kWorkerDied);
  EXPECT_TRUE(record->create.spec.empty());
  EXPECT_FALSE(table.die(actor, DeathCause::kKilled, "again"));
}

TEST(ActorTableTest, OneThatLeavesOnPurposeIsNotRestarted) {
  ActorTable table;
  const ActorId actor = add(table, make(1, -1));
  ASSERT_TRUE(table.start(actor, kWorker, 100));
  ASSERT_TRUE(table.leave(actor, DeathCause::kExited));
  ASSERT_TRUE(table.lost(actor, "exit code 0"));
  EXPECT_EQ(table.find(actor)->cause, DeathCause::kExited);
}

TEST(ActorTableTest, TheDeathOfTheOwnerConcernsItsActorsButDetachedOnes) {
  ActorTable table;
  const ActorId plain = add(table, make(1));
  auto create = make(2);
  create.detached = true;
  add(table, create);
  const ActorId dead = add(table, make(3));
  table.die(dead, DeathCause::kKilled, "");
  EXPECT_EQ(table.forget_process(kOwner), std::vector<ActorId>{plain});
  EXPECT_TRUE(table.any_detached());
  table.die(create.actor, DeathCause::kKilled, "");
  EXPECT_FALSE(table.any_detached());
}

TEST(ActorTableTest, WatchersMayComeBeforeTheActor) {
  ActorTable table;
  const auto create = make(1);
  table.watch(create.actor, 8);
  table.watch(make(2).actor, 9);
  add(table, create);
  EXPECT_EQ(table.find(create.actor)->watchers, (std::set<ProcessIndex>{kOwner, 8}));
  const auto unborn = table.take_unborn_of(kOwner);
  ASSERT_EQ(unborn.size(), 1u);
  EXPECT_EQ(unborn.begin()->second, std::set<ProcessIndex>{9});
  EXPECT_TRUE(table.take_unborn_of(kOwner).empty());
}

TEST(ActorTableTest, TheDeadAreForgottenInTheEnd) {
  ActorTable table;
  for (std::uint32_t number = 1; number <= ActorTable::kRememberedDead + 10; ++number) {
    const ActorId actor = add(table, make(number));
    table.die(actor, DeathCause::kKilled, "");
  }
  EXPECT_EQ(table.all().size(), ActorTable::kRememberedDead);
  EXPECT_EQ(table.find(make(1).actor), nullptr);
}

// Whatever comes, in whatever order: dead is final, restarts are counted down, the living alone have a process.
TEST(ActorTableTest, RandomEventsKeepTheInvariants) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  for (std::uint32_t round = 1; round <= 2000; ++round) {
    ActorTable table;
    const auto restarts = static_cast<std::int32_t>(random() % 4) - 1;
    const ActorId actor = add(table, make(round, restarts));
    bool dead = false;
    for (int step = 0; step < 20; ++step) {
      const auto& record = *table.find(actor);
      const auto before = record.state;
      bool changed = false;
      switch (random() % 5) {
        case 0:
          changed = table.start(actor, kWorker, 100);
          break;
        case 1:
          changed = table.ready(actor, static_cast<std::uint32_t>(random() % 3));
          break;
        case 2:
          changed = table.lost(actor, "exit code 1");
          break;
        case 3:
          changed = random() % 8 == 0 && table.die(actor, DeathCause::kKilled, "killed");
          break;
        default:
          table.watch(actor, static_cast<ProcessIndex>(random() % 100));
          break;
      }
      ASSERT_EQ(changed, record.state != before);
      ASSERT_FALSE(dead && changed);
      dead = record.is_dead();
      ASSERT_EQ(record.process != 0, record.state == ActorState::kStarting || record.state == ActorState::kAlive);
      if (!dead && restarts >= 0) {
        ASSERT_EQ(record.restarts_left + static_cast<std::int32_t>(record.incarnation), restarts);
      }
    }
  }
}

}  // namespace
}  // namespace beeline::runtime::node
