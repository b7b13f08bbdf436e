// Lineage: lost values come back by their calls; what nobody refers to lets its bytes go, and nothing is left behind.
#include <functional>
#include <random>

#include "lineage_fixture.h"
#include "seed.h"

namespace beeline::runtime {
namespace {

TEST_F(LineageTest, ALostValueIsMadeAgainByItsCall) {
  Entry& argument = put(small());
  Entry& made = result({&argument});
  table_.forget_value(made);
  EXPECT_FALSE(made.ready());
  auto again = lineage_.restart(made);
  EXPECT_EQ(again->attempt, 1u);
  EXPECT_EQ(again->retries_left, 2);
  EXPECT_EQ(again->returns, std::vector<Entry*>{&made});
  EXPECT_EQ(again->dependencies, std::vector<Entry*>{&argument});
  EXPECT_EQ(again->task, made.id.serial);
  EXPECT_EQ(made.producer, again.get());
  end(std::move(again), {placed()});
  EXPECT_TRUE(made.ready());
  drop(made);
  drop(argument);
  EXPECT_EQ(table_.stats().own, 0u);
  EXPECT_EQ(lineage_.stats().records, 0u);
  EXPECT_EQ(lineage_.stats().bytes, 0u);
  EXPECT_TRUE(events_.live.empty());
}

TEST_F(LineageTest, ItRunsAgainAsOftenAsItsRetriesAllow) {
  Entry& made = result({}, small(), 2);
  for (int i = 0; i < 2; ++i) {
    table_.forget_value(made);
    end(lineage_.restart(made), {placed()});
  }
  EXPECT_EQ(made.lineage, nullptr);
  EXPECT_EQ(made.remaking, store::Remaking::kRetriesUsed);
  drop(made);
}

TEST_F(LineageTest, WithoutBoundOnRetriesItRunsAgainForEver) {
  Entry& made = result({}, small(), -1);
  for (int i = 0; i < 100; ++i) {
    table_.forget_value(made);
    end(lineage_.restart(made), {placed()});
  }
  EXPECT_NE(made.lineage, nullptr);
  drop(made);
}

TEST_F(LineageTest, WhatItDependsOnLetsItsBytesGoAndIsMadeAgainToo) {
  Entry& first = result({});
  Entry& second = result({&first});
  drop(first);
  EXPECT_EQ(events_.live.size(), 1u) << "the first one's bytes are free";
  EXPECT_FALSE(first.ready());
  table_.forget_value(second);
  auto again = lineage_.restart(second);
  EXPECT_EQ(first.local, 1u) << "held by the call";
  end(lineage_.restart(first), {placed()});
  EXPECT_TRUE(first.ready());
  end(std::move(again), {placed()});
  table_.reap();
  EXPECT_FALSE(first.ready()) << "and let go of again";
  drop(second);
  EXPECT_EQ(table_.stats().own, 0u);
  EXPECT_TRUE(events_.live.empty());
}

TEST_F(LineageTest, SmallValuesStayForThoseThatDependOnThem) {
  Entry& argument = put(small());
  Entry& made = result({&argument});
  drop(argument);
  EXPECT_TRUE(argument.ready() && !argument.payload->is_error());
  drop(made);
  EXPECT_EQ(table_.stats().own, 0u);
}

TEST_F(LineageTest, AValueThatNoCallMadeIsGoneForThoseThatDependOnIt) {
  Entry& argument = put(placed());
  Entry& made = result({&argument});
  drop(argument);
  ASSERT_TRUE(argument.ready());
  EXPECT_EQ(argument.payload->failure->kind, store::ErrorKind::kReconstruction);
  EXPECT_EQ(events_.live.size(), 1u);
  drop(made);
  EXPECT_EQ(table_.stats().own, 0u);
}

TEST_F(LineageTest, ReferencesInsideArgumentsCountAsArguments) {
  Entry& inner = result({});
  Entry& made = result({}, small({inner.id}));
  drop(inner);
  EXPECT_FALSE(inner.ready());
  table_.forget_value(made);
  auto again = lineage_.restart(made);
  EXPECT_EQ(inner.local, 1u);
  end(std::move(again), {placed()});
  drop(made);
  EXPECT_EQ(table_.stats().own, 0u);
}

TEST_F(LineageTest, ForeignArgumentsAreBorrowedAnew) {
  const ObjectId id{7, store::ObjectKind::kValue, 5};
  Entry* foreign = table_.hold(id, true);
  Entry& made = result({foreign});
  drop(*foreign);
  EXPECT_EQ(events_.releases, std::vector<ObjectId>{id});
  table_.forget_value(made);
  auto again = lineage_.restart(made);
  EXPECT_EQ(events_.borrows, (std::vector<ObjectId>{id, id}));
  end(std::move(again), {placed()});
  drop(made);
  EXPECT_EQ(events_.releases, (std::vector<ObjectId>{id, id}));
}

TEST_F(LineageTest, OneOfSeveralReturnsIsMadeAgainWithoutThoseThatAreGone) {
  auto call = make({}, small(), 3);
  const auto returns = call->returns;
  end(std::move(call), {placed(), placed(), placed()});
  drop(*returns[0]);
  EXPECT_EQ(lineage_.stats().records, 1u);
  table_.forget_value(*returns[2]);
  auto again = lineage_.restart(*returns[2]);
  EXPECT_NE(again->returns[0], nullptr);
  EXPECT_EQ(again->returns[1], returns[1]);
  EXPECT_TRUE(returns[1]->ready()) << "it was not lost";
  end(std::move(again), {placed(), placed(), placed()});
  table_.reap();
  EXPECT_EQ(events_.live.size(), 2u);
  drop(*returns[1]);
  drop(*returns[2]);
  EXPECT_EQ(table_.stats().own, 0u);
  EXPECT_TRUE(events_.live.empty());
}

TEST_F(LineageTest, WhatCannotBeMadeAgainSaysWhy) {
  const auto why = [](const Entry& entry) { return Lineage::why_not(entry); };
  Entry& at_most_once = result({}, small(), 0);
  EXPECT_NE(why(at_most_once).find("max_retries"), std::string::npos);
  Entry& large = result({}, placed());
  EXPECT_NE(why(large).find("put()"), std::string::npos);
  EXPECT_NE(why(*items(1, 0).front()).find("max_retries"), std::string::npos);
  EXPECT_NE(why(put(placed())).find("no call"), std::string::npos);
  EXPECT_EQ(lineage_.stats().records, 0u);
}

TEST_F(LineageTest, CallsWithoutAnythingToLoseAreNotKept) {
  auto call = make({}, small());
  Entry& made = *call->returns.front();
  end(std::move(call), {small()});
  EXPECT_EQ(made.lineage, nullptr);
  EXPECT_EQ(lineage_.stats().records, 0u);
}

TEST_F(LineageTest, TheOldestGoWhenThereAreTooMany) {
  Entry& oldest = result({});
  Entry& lost = result({});
  table_.forget_value(lost);
  std::vector<Entry*> more;
  while (lineage_.stats().evicted < 2) more.push_back(&result({}));
  EXPECT_LE(lineage_.stats().bytes, 1u << 20);
  EXPECT_TRUE(oldest.ready() && !oldest.payload->is_error());
  EXPECT_EQ(oldest.remaking, store::Remaking::kEvicted);
  ASSERT_TRUE(lost.ready());
  EXPECT_EQ(lost.payload->failure->kind, store::ErrorKind::kReconstruction);
  EXPECT_NE(lost.payload->failure->message.find("RAY_max_lineage_bytes"), std::string::npos);
}

TEST_F(LineageTest, AVeryLongChainGoesAtOnce) {
  Lineage roomy(table_, 1u << 30);
  events_.lineage = &roomy;
  Entry* last = &put(small());
  for (int i = 0; i < 100'000; ++i) {
    auto call = make({last}, small());
    Entry* next = call->returns.front();
    const std::vector<PayloadPtr> values = {placed()};
    next->producer = nullptr;
    table_.set_ready(*next, values.front());
    roomy.keep(*call, false);
    table_.drop_hold(*last);
    table_.drop_hold(*next);
    drop(*last);
    last = next;
  }
  EXPECT_EQ(roomy.stats().records, 100'000u);
  EXPECT_EQ(events_.live.size(), 1u);
  drop(*last);
  EXPECT_EQ(table_.stats().own, 0u);
  EXPECT_EQ(roomy.stats().records, 0u);
}

// Calls on earlier results, references dropped, values lost and asked for, in any order.
TEST_F(LineageTest, RandomHistoriesLeaveNothing) {
  const auto seed = test_seed();
  std::mt19937 random(seed);
  for (int round = 0; round < 200; ++round) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", round " + std::to_string(round));
    constexpr std::uint64_t kMostItems = 4;
    std::vector<Entry*> held;
    const auto pick = [&] { return held[random() % held.size()]; };
    // Makes the value, and what it takes.
    const std::function<void(Entry&)> revive = [&](Entry& entry) {
      if (entry.ready()) return;
      ASSERT_NE(entry.lineage, nullptr);
      auto call = restart(entry);
      std::vector<PayloadPtr> values;
      for (Entry* dependency : call->dependencies) revive(*dependency);
      if (call->options.streams()) {
        for (std::uint64_t i = 0; i < kMostItems; ++i) give(*call, i, random() % 3 == 0 ? small() : placed());
        return end(std::move(call), {small()});
      }
      for (std::size_t i = 0; i < call->returns.size(); ++i) values.push_back(random() % 3 == 0 ? small() : placed());
      end(std::move(call), values);
    };
    for (int step = 0; step < 100; ++step) {
      const auto what = random() % 12;
      if (!held.empty() && what >= 10) {
        const bool collects = what == 11;
        auto call = make_stream(-1, collects ? kCallStreams | kCallCollects : kCallStreams, {pick()});
        const std::uint64_t task = call->task;
        Entry& told = *call->returns.front();
        for (auto n = random() % (kMostItems + 1), i = 0 * n; i < n; ++i) {
          give(*call, i, random() % 3 == 0 ? small() : placed());
          if (!collects && random() % 2 == 0) held.push_back(streams_.take(task));
        }
        end(std::move(call), {small()});
        held.push_back(&told);
        if (!collects) streams_.drop(task);
      } else if (held.empty() || what < 2) {
        held.push_back(&put(random() % 2 == 0 ? small() : placed()));
      } else if (what < 6) {
        std::vector<Entry*> dependencies;
        for (auto n = random() % 3; n > 0; --n) dependencies.push_back(pick());
        auto call = make(dependencies, random() % 2 == 0 ? small() : small({pick()->id}), 1 + random() % 3, -1);
        std::vector<PayloadPtr> values;
        for (std::size_t n = call->returns.size(); n > 0; --n) {
          values.push_back(random() % 4 == 0 ? small({pick()->id}) : placed());
        }
        held.insert(held.end(), call->returns.begin(), call->returns.end());
        end(std::move(call), values);
      } else if (what < 8) {
        const auto at = random() % held.size();
        table_.drop_hold(*held[at]);
        held.erase(held.begin() + static_cast<std::ptrdiff_t>(at));
        if (random() % 2 == 0) table_.reap();
      } else if (Entry* entry = pick(); entry->ready() && entry->lineage != nullptr) {
        table_.forget_value(*entry);
        if (random() % 2 == 0) revive(*entry);
      }
    }
    for (Entry* entry : held) table_.drop_hold(*entry);
    table_.reap();
    ASSERT_EQ(table_.stats().own, 0u);
    ASSERT_EQ(lineage_.stats().records, 0u);
    ASSERT_EQ(lineage_.stats().bytes, 0u);
    ASSERT_TRUE(events_.live.empty());
  }
}

}  // namespace
}  // namespace beeline::runtime
