// Lineage: lost values come back by their calls; what nobody refers to lets its bytes go, and nothing is left behind.
#include "beeline/runtime/lineage.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <set>

#include "beeline/runtime/streams.h"
#include "seed.h"

namespace beeline::runtime {
namespace {

using store::Entry;
using store::ObjectId;
using store::PayloadPtr;

struct Events final : store::TableEvents {
  void send_borrow(const ObjectId& id) override { borrows.push_back(id); }
  void send_release(const ObjectId& id) override { releases.push_back(id); }
  void send_object(store::ProcessIndex, const Entry&) override {}
  void free_placement(const store::Placement& placement) override {
    EXPECT_TRUE(live.erase(placement.publication.slot) == 1) << "freed twice: " << placement.publication.slot;
  }
  void actor_unreferenced(const ObjectId&) override {}
  void lineage_unneeded(Entry& entry) override { lineage->forget(entry); }
  Lineage* lineage = nullptr;
  std::vector<ObjectId> borrows, releases;
  std::set<std::uint32_t> live;  // publications
};

class LineageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    table_.set_self(1);
    events_.lineage = &lineage_;
  }

  PayloadPtr placed() {
    auto payload = std::make_shared<store::Payload>();
    payload->placement = std::make_unique<store::Placement>();
    payload->placement->holder = 2;
    payload->placement->publication.slot = next_slot_++;
    events_.live.insert(payload->placement->publication.slot);
    return payload;
  }
  static PayloadPtr small(std::vector<ObjectId> refs = {}) {
    auto payload = std::make_shared<store::Payload>();
    payload->skeleton = "small";
    payload->refs = std::move(refs);
    return payload;
  }
  Entry& put(PayloadPtr value) {
    Entry& entry = table_.create(store::ObjectKind::kValue, &name_);
    table_.set_ready(entry, std::move(value));
    return entry;
  }

  // A call that was made, with what it holds; its returns are held once more for the test.
  std::unique_ptr<OutgoingCall> make(const std::vector<Entry*>& dependencies, PayloadPtr args,
                                     std::uint32_t returns = 1, std::int32_t retries = 3) {
    auto call = std::make_unique<OutgoingCall>();
    call->options.name = &name_;
    call->options.retries = call->retries_left = retries;
    call->args = std::move(args);
    for (const auto& ref : call->args->refs) table_.hold(ref, true);
    for (Entry* dependency : dependencies) table_.add_hold(*dependency);
    call->dependencies = dependencies;
    for (std::uint32_t i = 0; i < returns; ++i) {
      Entry& made = table_.create(store::ObjectKind::kValue, &name_);
      table_.add_hold(made);
      made.producer = call.get();
      call->returns.push_back(&made);
    }
    return call;
  }
  // As the end of a call.
  void end(std::unique_ptr<OutgoingCall> call, std::vector<PayloadPtr> values) {
    const bool failed = values.front()->is_error();
    if (call->options.collects() && !failed) values = {small(streams_.items(call->task))};
    for (std::size_t i = 0; i < call->returns.size(); ++i) {
      Entry& made = *call->returns[i];
      made.producer = nullptr;
      if (!made.ready()) {
        table_.set_ready(made, values[i]);
      } else if (values[i]->placement) {
        events_.free_placement(*values[i]->placement);
      }
    }
    if (call->options.streams()) streams_.end(*call, failed ? values.front() : nullptr);
    lineage_.keep(*call, failed);
    if (call->options.collects()) streams_.drop(call->task);
    for (Entry* dependency : call->dependencies) table_.drop_hold(*dependency);
    for (const auto& ref : call->args->refs) table_.drop_hold(*table_.find(ref));
    for (Entry* made : call->returns) table_.drop_hold(*made);
  }
  // Of a call with one return.
  Entry& result(const std::vector<Entry*>& dependencies, PayloadPtr args = small(), std::int32_t retries = 3) {
    auto call = make(dependencies, std::move(args), 1, retries);
    Entry& made = *call->returns.front();
    end(std::move(call), {placed()});
    return made;
  }
  void drop(Entry& entry) {
    table_.drop_hold(entry);
    table_.reap();
  }

  // A call whose items come by give(), and its next run.
  std::unique_ptr<OutgoingCall> make_stream(std::int32_t retries = 3, std::uint8_t flags = kCallStreams,
                                            const std::vector<Entry*>& dependencies = {}) {
    auto call = make(dependencies, small(), 1, retries);
    call->options.flags = flags;
    call->task = call->returns.front()->id.serial;
    streams_.open(call->task, &name_);
    return call;
  }
  std::unique_ptr<OutgoingCall> restart(Entry& lost) {
    auto call = lineage_.restart(lost);
    if (call->options.collects() && !call->returns.front()->ready()) streams_.open(call->task, &name_);
    return call;
  }
  bool give(OutgoingCall& call, std::uint64_t index, const PayloadPtr& value) {
    const bool is_taken = streams_.receive(call, index, value);
    if (!is_taken && value->placement) events_.free_placement(*value->placement);
    return is_taken;
  }
  // A stream that has ended, whose items the test has taken; its generator is gone.
  std::vector<Entry*> items(std::uint64_t count, std::int32_t retries = 3) {
    auto call = make_stream(retries);
    const std::uint64_t task = call->task;
    Entry& completed = *call->returns.front();
    std::vector<Entry*> taken;
    for (std::uint64_t i = 0; i < count; ++i) {
      EXPECT_TRUE(give(*call, i, placed()));
      taken.push_back(streams_.take(task));
    }
    end(std::move(call), {small()});
    streams_.drop(task);
    drop(completed);
    return taken;
  }
  void expect_nothing_left() {
    table_.reap();
    EXPECT_EQ(table_.stats().own, 0u);
    EXPECT_EQ(lineage_.stats().records, 0u);
    EXPECT_EQ(lineage_.stats().bytes, 0u);
    EXPECT_TRUE(events_.live.empty());
  }

  const std::string name_ = "f";
  std::uint32_t next_slot_ = 1;
  Events events_;
  store::ObjectTable table_{events_};
  Lineage lineage_{table_, 1u << 20};
  Streams streams_{table_};
};

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

TEST_F(LineageTest, ALostItemIsMadeAgainByTheCallOfItsStream) {
  const auto taken = items(3);
  EXPECT_EQ(lineage_.stats().records, 1u);
  for (const int i : {1, 2}) table_.forget_value(*taken[static_cast<std::size_t>(i)]);
  auto again = restart(*taken[1]);
  EXPECT_EQ(again->attempt, 1u);
  EXPECT_EQ(taken[2]->producer, again.get()) << "it comes along";
  EXPECT_FALSE(streams_.contains(again->task)) << "nobody empties a window";
  EXPECT_FALSE(give(*again, 0, placed())) << "it is there";
  EXPECT_TRUE(give(*again, 1, placed()));
  EXPECT_TRUE(give(*again, 2, placed()));
  EXPECT_FALSE(give(*again, 3, placed())) << "there was none";
  end(std::move(again), {small()});
  for (Entry* item : taken) {
    EXPECT_TRUE(item->ready() && !item->payload->is_error());
    EXPECT_EQ(item->producer, nullptr);
    drop(*item);
  }
  expect_nothing_left();
}

TEST_F(LineageTest, ItemsThatAreGoneAreNotMadeAgain) {
  const auto taken = items(3);
  drop(*taken[0]);
  drop(*taken[2]);
  table_.forget_value(*taken[1]);
  auto again = restart(*taken[1]);
  EXPECT_FALSE(give(*again, 0, placed()));
  EXPECT_TRUE(give(*again, 1, placed()));
  EXPECT_FALSE(give(*again, 2, placed()));
  end(std::move(again), {small()});
  EXPECT_EQ(events_.live.size(), 1u);
  drop(*taken[1]);
  expect_nothing_left();
}

TEST_F(LineageTest, TheLastItemLetsTheCallOfItsStreamGo) {
  auto call = make_stream();
  Entry& completed = *call->returns.front();
  const std::uint64_t task = call->task;
  EXPECT_TRUE(give(*call, 0, placed()));
  EXPECT_TRUE(give(*call, 1, small()));
  EXPECT_TRUE(give(*call, 2, placed()));
  end(std::move(call), {small()});
  EXPECT_EQ(lineage_.stats().records, 1u);
  for (int i = 0; i < 3; ++i) drop(*streams_.take(task));
  EXPECT_EQ(lineage_.stats().records, 0u) << "though the generator is there yet";
  streams_.drop(task);
  drop(completed);
  expect_nothing_left();
}

TEST_F(LineageTest, AStreamThatIsDroppedLetsItsCallGo) {
  auto call = make_stream();
  Entry& completed = *call->returns.front();
  const std::uint64_t task = call->task;
  EXPECT_TRUE(give(*call, 0, placed()));
  end(std::move(call), {small()});
  EXPECT_EQ(lineage_.stats().records, 1u);
  streams_.drop(task);
  drop(completed);
  expect_nothing_left();
}

TEST_F(LineageTest, ItemsAreMadeAgainAsOftenAsRetriesAllow) {
  const auto taken = items(1, 1);
  table_.forget_value(*taken[0]);
  auto again = restart(*taken[0]);
  EXPECT_TRUE(give(*again, 0, placed()));
  end(std::move(again), {small()});
  EXPECT_EQ(taken[0]->lineage, nullptr);
  EXPECT_EQ(taken[0]->remaking, store::Remaking::kRetriesUsed);
  drop(*taken[0]);
  expect_nothing_left();
}

TEST_F(LineageTest, AnItemLostBehindTheRunIsLeftForTheNextOne) {
  const auto taken = items(2);
  table_.forget_value(*taken[0]);
  auto again = restart(*taken[0]);
  EXPECT_TRUE(give(*again, 0, placed()));
  EXPECT_FALSE(give(*again, 1, placed()));
  table_.forget_value(*taken[1]);
  end(std::move(again), {small()});
  EXPECT_FALSE(taken[1]->ready());
  ASSERT_NE(taken[1]->lineage, nullptr);
  again = restart(*taken[1]);
  EXPECT_FALSE(give(*again, 0, placed()));
  EXPECT_TRUE(give(*again, 1, placed()));
  end(std::move(again), {small()});
  for (Entry* item : taken) drop(*item);
  expect_nothing_left();
}

TEST_F(LineageTest, AnItemLostBehindTheLastRunIsLost) {
  const auto taken = items(2, 1);
  table_.forget_value(*taken[0]);
  auto again = restart(*taken[0]);
  EXPECT_TRUE(give(*again, 0, placed()));
  EXPECT_FALSE(give(*again, 1, placed()));
  table_.forget_value(*taken[1]);
  end(std::move(again), {small()});
  ASSERT_TRUE(taken[1]->ready());
  EXPECT_EQ(taken[1]->payload->failure->kind, store::ErrorKind::kReconstruction);
  EXPECT_NE(taken[1]->payload->failure->message.find("as often as"), std::string::npos);
  for (Entry* item : taken) drop(*item);
  expect_nothing_left();
}

TEST_F(LineageTest, WhatWasMadeFromAnItemOfAStreamThatGoesOnLetsItsBytesGo) {
  auto call = make_stream();
  Entry& completed = *call->returns.front();
  const std::uint64_t task = call->task;
  EXPECT_TRUE(give(*call, 0, placed()));
  Entry& item = *streams_.take(task);
  Entry& made = result({&item});
  drop(item);
  EXPECT_EQ(events_.live.size(), 1u);
  EXPECT_FALSE(item.ready()) << "its stream may give it again";
  end(std::move(call), {small()});
  ASSERT_NE(item.lineage, nullptr);
  table_.forget_value(made);
  auto again = restart(made);
  auto stream_again = restart(item);
  EXPECT_TRUE(give(*stream_again, 0, placed()));
  end(std::move(stream_again), {small()});
  end(std::move(again), {placed()});
  streams_.drop(task);
  drop(completed);
  drop(made);
  expect_nothing_left();
}

TEST_F(LineageTest, ACollectionIsMadeAgainWithTheItemsThatAreThere) {
  auto call = make_stream(3, kCallStreams | kCallCollects);
  Entry& collection = *call->returns.front();
  for (std::uint64_t i = 0; i < 3; ++i) EXPECT_TRUE(give(*call, i, placed()));
  end(std::move(call), {small()});
  ASSERT_EQ(collection.payload->refs.size(), 3u);
  const ObjectId first = collection.payload->refs[0], second = collection.payload->refs[1];
  Entry& kept = *table_.hold(second, true);
  Entry& made = result({&collection});
  drop(collection);
  EXPECT_FALSE(collection.ready()) << "only a record needs it";
  EXPECT_EQ(table_.find(first), nullptr);
  EXPECT_TRUE(kept.ready());

  table_.forget_value(made);
  auto again = restart(made);
  auto stream_again = restart(collection);
  EXPECT_TRUE(give(*stream_again, 0, placed()));
  EXPECT_FALSE(give(*stream_again, 1, placed())) << "it is there";
  EXPECT_TRUE(give(*stream_again, 2, placed()));
  end(std::move(stream_again), {small()});
  ASSERT_TRUE(collection.ready());
  ASSERT_EQ(collection.payload->refs.size(), 3u);
  EXPECT_EQ(collection.payload->refs[1], second);
  end(std::move(again), {placed()});
  drop(kept);
  drop(made);
  expect_nothing_left();
}

TEST_F(LineageTest, AnItemOfACollectionThatIsGoneIsMadeAgainAlone) {
  auto call = make_stream(3, kCallStreams | kCallCollects);
  Entry& collection = *call->returns.front();
  for (std::uint64_t i = 0; i < 3; ++i) EXPECT_TRUE(give(*call, i, placed()));
  end(std::move(call), {small()});
  Entry& kept = *table_.hold(collection.payload->refs[1], true);
  drop(collection);
  table_.forget_value(kept);
  auto again = restart(kept);
  EXPECT_FALSE(again->options.collects());
  EXPECT_FALSE(give(*again, 0, placed()));
  EXPECT_TRUE(give(*again, 1, placed()));
  EXPECT_FALSE(give(*again, 2, placed()));
  end(std::move(again), {small()});
  drop(kept);
  expect_nothing_left();
}

TEST_F(LineageTest, ItemsWhoseCallIsForgottenSayWhy) {
  const auto taken = items(2);
  table_.forget_value(*taken[1]);
  std::vector<Entry*> more;
  while (lineage_.stats().evicted < 1) more.push_back(&result({}));
  EXPECT_EQ(taken[0]->remaking, store::Remaking::kEvicted);
  ASSERT_TRUE(taken[1]->ready());
  EXPECT_NE(taken[1]->payload->failure->message.find("RAY_max_lineage_bytes"), std::string::npos);
  for (Entry* item : taken) drop(*item);
  for (Entry* made : more) drop(*made);
  expect_nothing_left();
}

TEST_F(LineageTest, WhatIsThereWhenTheNextRunFailsSaysThatNoCallMakesIt) {
  const auto taken = items(2);
  table_.forget_value(*taken[0]);
  auto again = restart(*taken[0]);
  const auto failure = store::make_failure(store::ErrorKind::kCancelled, "cancelled");
  end(std::move(again), {failure});
  EXPECT_EQ(taken[0]->payload, failure);
  EXPECT_TRUE(taken[1]->ready());
  EXPECT_EQ(taken[1]->remaking, store::Remaking::kNoCall);
  for (Entry* item : taken) drop(*item);
  expect_nothing_left();
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
