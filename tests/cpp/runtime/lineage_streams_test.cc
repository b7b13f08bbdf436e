// Lineage of streams: lost items come back by the calls that gave them, those that are gone do not.
#include "lineage_fixture.h"

namespace beeline::runtime {
namespace {

class StreamLineageTest : public LineageTest {};

TEST_F(StreamLineageTest, ALostItemIsMadeAgainByTheCallOfItsStream) {
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

TEST_F(StreamLineageTest, ItemsThatAreGoneAreNotMadeAgain) {
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

TEST_F(StreamLineageTest, TheLastItemLetsTheCallOfItsStreamGo) {
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

TEST_F(StreamLineageTest, AStreamThatIsDroppedLetsItsCallGo) {
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

TEST_F(StreamLineageTest, ItemsAreMadeAgainAsOftenAsRetriesAllow) {
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

TEST_F(StreamLineageTest, AnItemLostBehindTheRunIsLeftForTheNextOne) {
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

TEST_F(StreamLineageTest, AnItemLostBehindTheLastRunIsLost) {
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

TEST_F(StreamLineageTest, WhatWasMadeFromAnItemOfAStreamThatGoesOnLetsItsBytesGo) {
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

TEST_F(StreamLineageTest, ACollectionIsMadeAgainWithTheItemsThatAreThere) {
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

TEST_F(StreamLineageTest, AnItemOfACollectionThatIsGoneIsMadeAgainAlone) {
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

TEST_F(StreamLineageTest, ItemsWhoseCallIsForgottenSayWhy) {
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

TEST_F(StreamLineageTest, WhatIsThereWhenTheNextRunFailsSaysThatNoCallMakesIt) {
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

}  // namespace
}  // namespace beeline::runtime
