// Whom a publisher sends its readers to: never more to one parent than the fan-out says, nobody to one that failed, and
// one of a host to another one.
#include "beeline/transfer/fan_out.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "seed.h"

namespace beeline::transfer {
namespace {

using messages::Step;
using Reader = FanOut::Reader;

const FanOut::Traits kAlone{.host = {}, .listens = true};
const transport::Region kCopy{{1, 1}, 64, 4096, 0, {}};

FanOut::Traits on(const std::string& host) {
  return {.host = host, .listens = true};
}

// Who was sent where since the last call.
std::map<Reader, Reader> decided(FanOut& fan_out) {
  std::map<Reader, Reader> parents;
  for (const auto& decision : fan_out.decide()) parents[decision.reader] = decision.parent;
  return parents;
}

using Parents = std::map<Reader, Reader>;
constexpr Reader kPublisher = FanOut::kPublisher;

TEST(FanOutTest, NoParentGetsMoreChildrenThanTheFanOutSays) {
  FanOut fan_out(2);
  for (Reader reader = 1; reader <= 7; ++reader) fan_out.seek(reader, kAlone, Step::kFirst, 0);
  EXPECT_EQ(decided(fan_out), (Parents{{1, kPublisher}, {2, kPublisher}}));
  EXPECT_EQ(fan_out.waiting().size(), 5u);
  EXPECT_TRUE(fan_out.offer(1, kCopy));
  EXPECT_EQ(decided(fan_out), (Parents{{3, 1}, {4, 1}}));
  EXPECT_TRUE(fan_out.offer(2, kCopy));
  EXPECT_EQ(decided(fan_out), (Parents{{5, 2}, {6, 2}}));
  EXPECT_TRUE(fan_out.offer(6, kCopy));
  EXPECT_EQ(decided(fan_out), (Parents{{7, 6}}));
  EXPECT_EQ(fan_out.offering(), (std::vector<Reader>{1, 2, 6}));
}

TEST(FanOutTest, AnswersCarryTheSerialOfTheQuestion) {
  FanOut fan_out(1);
  fan_out.seek(1, kAlone, Step::kFirst, 7);
  fan_out.seek(1, kAlone, Step::kFirst, 8);  // asked again: the first question is not answered
  const auto decisions = fan_out.decide();
  ASSERT_EQ(decisions.size(), 1u);
  EXPECT_EQ(decisions.front().serial, 8u);
}

TEST(FanOutTest, OneOfAHostGoesElsewhereAndTheOthersToIt) {
  FanOut fan_out(1);
  for (Reader reader = 1; reader <= 4; ++reader) fan_out.seek(reader, on("here"), Step::kFirst, 0);
  fan_out.seek(5, on("there"), Step::kFirst, 0);
  EXPECT_EQ(decided(fan_out), (Parents{{1, kPublisher}}));
  EXPECT_TRUE(fan_out.offer(1, kCopy));
  EXPECT_EQ(decided(fan_out), (Parents{{2, 1}, {3, 1}, {4, 1}, {5, 1}}));  // those that map it take no place
  EXPECT_EQ(fan_out.waiting().size(), 0u);
}

TEST(FanOutTest, WhoWaitedLongEnoughIsSentToThePublisher) {
  FanOut fan_out(1);
  fan_out.seek(1, on("here"), Step::kFirst, 0);
  EXPECT_EQ(decided(fan_out), (Parents{{1, kPublisher}}));
  fan_out.seek(2, on("here"), Step::kFirst, 0);
  fan_out.seek(3, kAlone, Step::kFirst, 0);
  EXPECT_EQ(decided(fan_out), Parents());
  fan_out.seek(2, on("here"), Step::kOverdue, 0);
  const auto decisions = fan_out.decide();
  ASSERT_EQ(decisions.size(), 1u);
  EXPECT_EQ(decisions.front().parent, kPublisher);
  EXPECT_TRUE(decisions.front().is_beyond);
  fan_out.seek(3, kAlone, Step::kInsists, 0);
  EXPECT_EQ(decided(fan_out), (Parents{{3, kPublisher}}));
}

TEST(FanOutTest, ThePublisherServesWhoeverHasNobodyToWaitFor) {
  FanOut fan_out(1);
  const FanOut::Traits deaf{.host = "here", .listens = false};  // reached on its host alone
  fan_out.seek(1, deaf, Step::kFirst, 0);
  EXPECT_EQ(decided(fan_out), (Parents{{1, kPublisher}}));
  fan_out.seek(2, kAlone, Step::kFirst, 0);
  EXPECT_EQ(decided(fan_out), (Parents{{2, kPublisher}}));
  EXPECT_TRUE(fan_out.offer(1, kCopy));
  fan_out.seek(3, kAlone, Step::kFirst, 0);
  EXPECT_EQ(decided(fan_out), Parents());  // 2 will have room
  EXPECT_TRUE(fan_out.offer(2, kCopy));
  EXPECT_EQ(decided(fan_out), (Parents{{3, 2}}));
}

TEST(FanOutTest, WhoIsOverdueWaitsOnWhileThoseBeforeItGetOn) {
  FanOut fan_out(1);
  fan_out.seek(1, on("here"), Step::kFirst, 0);
  (void)fan_out.decide();
  fan_out.seek(2, kAlone, Step::kFirst, 0);
  fan_out.seek(3, on("here"), Step::kFirst, 0);
  fan_out.seek(1, {}, Step::kGetsOn, 0);
  fan_out.seek(3, on("here"), Step::kOverdue, 0);
  fan_out.seek(2, kAlone, Step::kOverdue, 0);
  EXPECT_EQ(decided(fan_out), Parents());
  fan_out.seek(3, on("here"), Step::kOverdue, 0);  // nothing has moved since
  EXPECT_EQ(decided(fan_out), (Parents{{3, kPublisher}}));
  fan_out.seek(2, kAlone, Step::kOverdue, 0);  // somebody else has begun
  EXPECT_EQ(decided(fan_out), Parents());
  EXPECT_TRUE(fan_out.offer(1, kCopy));
  EXPECT_EQ(decided(fan_out), (Parents{{2, 1}}));
  fan_out.seek(17, kAlone, Step::kGetsOn, 0);  // was sent to nobody
  EXPECT_TRUE(fan_out.waiting().empty());
}

TEST(FanOutTest, NobodyIsSentToOneThatFailed) {
  FanOut fan_out(1);
  fan_out.seek(1, on("here"), Step::kFirst, 0);
  EXPECT_EQ(decided(fan_out), (Parents{{1, kPublisher}}));
  EXPECT_TRUE(fan_out.offer(1, kCopy));
  fan_out.seek(2, on("here"), Step::kFirst, 0);
  fan_out.seek(3, kAlone, Step::kFirst, 0);
  EXPECT_EQ(decided(fan_out), (Parents{{2, 1}, {3, 1}}));
  fan_out.seek(3, kAlone, Step::kFailed, 0);
  EXPECT_EQ(decided(fan_out), (Parents{{3, kPublisher}}));  // the place of the one that failed
  fan_out.seek(2, on("here"), Step::kFailed, 0);
  EXPECT_EQ(decided(fan_out), Parents());
  EXPECT_TRUE(fan_out.offer(3, kCopy));
  EXPECT_EQ(decided(fan_out), (Parents{{2, 3}}));
}

TEST(FanOutTest, WhoLeavesOrGivesUpMakesRoom) {
  FanOut fan_out(1);
  for (Reader reader = 1; reader <= 3; ++reader) fan_out.seek(reader, kAlone, Step::kFirst, 0);
  EXPECT_EQ(decided(fan_out), (Parents{{1, kPublisher}}));
  fan_out.leave(1);
  EXPECT_EQ(decided(fan_out), (Parents{{2, kPublisher}}));
  fan_out.seek(2, kAlone, Step::kGaveUp, 0);
  EXPECT_EQ(decided(fan_out), (Parents{{3, kPublisher}}));
  fan_out.leave(17);  // was never there
  EXPECT_TRUE(fan_out.offer(3, kCopy));
  fan_out.leave(3);
  EXPECT_TRUE(fan_out.offering().empty());
}

TEST(FanOutTest, OffersOfThoseThatWereSentNowhereAreRefused) {
  FanOut fan_out(1);
  EXPECT_FALSE(fan_out.offer(1, kCopy));
  fan_out.seek(1, kAlone, Step::kFirst, 0);
  EXPECT_FALSE(fan_out.offer(1, kCopy));
  (void)fan_out.decide();
  EXPECT_TRUE(fan_out.offer(1, kCopy));
  EXPECT_FALSE(fan_out.offer(1, kCopy));
  fan_out.seek(2, {.host = {}, .listens = false}, Step::kFirst, 0);
  (void)fan_out.decide();
  EXPECT_FALSE(fan_out.offer(2, kCopy)) << "nobody would reach it";
}

// Whatever comes over the wire, in whatever order.
TEST(FanOutTest, RandomReadersKeepToTheFanOut) {
  std::mt19937 random(test_seed());
  for (int round = 0; round < 200; ++round) {
    const std::size_t children = 1 + random() % 3;
    FanOut fan_out(children);
    std::map<Reader, FanOut::Traits> traits;
    std::map<Reader, Reader> parents;
    std::map<Reader, Reader> edges;  // those of them that count
    const auto forget = [&](Reader gone) {
      for (auto* all : {&parents, &edges}) {
        all->erase(gone);
        std::erase_if(*all, [&](const auto& edge) { return edge.second == gone; });
      }
    };
    for (int i = 0; i < 300; ++i) {
      const auto reader = static_cast<Reader>(random() % 12);
      const auto [own, is_new] = traits.try_emplace(reader);
      if (is_new) own->second = random() % 2 == 0 ? kAlone : on(random() % 2 == 0 ? "a" : "b");
      const auto step = static_cast<Step>(random() % 2 == 0 ? 0 : random() % 7);
      switch (random() % 6) {
        case 0:
          (void)fan_out.offer(reader, kCopy);
          break;
        case 1:
          fan_out.leave(reader);
          traits.erase(reader);
          forget(reader);
          break;
        default:
          fan_out.seek(reader, own->second, step, 0);
          if (step == Step::kGetsOn) break;
          if (step == Step::kFailed && parents.contains(reader)) edges.erase(parents[reader]);
          parents.erase(reader);
          edges.erase(reader);
          if (step == Step::kGaveUp) forget(reader);
      }
      const auto offering = fan_out.offering();
      for (const auto& decision : fan_out.decide()) {
        EXPECT_NE(decision.reader, decision.parent);
        parents[decision.reader] = decision.parent;
        if (decision.parent == kPublisher) continue;
        EXPECT_TRUE(std::ranges::find(offering, decision.parent) != offering.end());
        const auto& host = traits[decision.reader].host;
        if (!host.empty() && host == traits[decision.parent].host) continue;
        edges[decision.reader] = decision.parent;
      }
      std::map<Reader, std::size_t> count;
      for (const auto& [child, parent] : edges) ++count[parent];
      for (const auto& [parent, its] : count) EXPECT_LE(its, children);
    }
  }
}

}  // namespace
}  // namespace beeline::transfer
