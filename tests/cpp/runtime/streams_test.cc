// Streams: items in order, each once, whatever attempt they come from; nothing of them is left behind.
#include "beeline/runtime/streams.h"

#include <gtest/gtest.h>

#include <random>

#include "seed.h"

namespace beeline::runtime {
namespace {

struct NoEvents final : store::TableEvents {
  void send_borrow(const store::ObjectId&) override {}
  void send_release(const store::ObjectId&) override {}
  void send_object(store::ProcessIndex, const store::Entry&) override {}
  void free_placement(const store::Placement&) override {}
  void actor_unreferenced(const store::ObjectId&) override {}
  void lineage_unneeded(store::Entry&) override {}
};

store::PayloadPtr item_value(int number) {
  auto payload = std::make_shared<store::Payload>();
  payload->skeleton = std::to_string(number);
  return payload;
}

struct ReadyCount final : store::Watcher {
  void on_ready(store::Entry&) override { ++calls; }
  int calls = 0;
};

class StreamsTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kTask = 7;
  void SetUp() override {
    table_.set_self(1);
    streams_.open(kTask, &name_);
  }
  // The next item's text, "end" at the end, "" where there is none yet. Nothing stays held.
  std::string take() {
    store::Entry* next = streams_.next(kTask);
    if (!next->ready()) return "";
    store::Entry* taken = streams_.take(kTask);
    if (taken == nullptr) {
      EXPECT_EQ(next->payload->failure->kind, store::ErrorKind::kEndOfStream);
      return "end";
    }
    EXPECT_EQ(taken, next);
    std::string text = taken->payload->skeleton;
    table_.drop_hold(*taken);
    table_.reap();
    return text;
  }
  std::uint64_t own() {
    table_.reap();
    return table_.stats().own;
  }

  const std::string name_ = "count";
  NoEvents events_;
  store::ObjectTable table_{events_};
  Streams streams_{table_};
};

TEST_F(StreamsTest, ItemsAreTakenInOrderAndThenTheEnd) {
  EXPECT_EQ(take(), "");
  EXPECT_TRUE(streams_.receive(kTask, 0, item_value(0)));
  EXPECT_TRUE(streams_.receive(kTask, 1, item_value(1)));
  EXPECT_EQ(take(), "0");
  EXPECT_EQ(streams_.taken(kTask), 1u);
  streams_.end(kTask);
  EXPECT_EQ(take(), "1");
  EXPECT_EQ(take(), "end");
  EXPECT_EQ(take(), "end") << "as often as it is asked for";
}

TEST_F(StreamsTest, WhoWaitsForTheNextItemIsToldOfItAndOfTheEnd) {
  ReadyCount count;
  table_.watch(*streams_.next(kTask), count);
  EXPECT_TRUE(streams_.receive(kTask, 0, item_value(0)));
  EXPECT_EQ(count.calls, 1);
  EXPECT_EQ(take(), "0");
  table_.watch(*streams_.next(kTask), count);
  streams_.end(kTask);
  streams_.end(kTask);
  EXPECT_EQ(count.calls, 2);
}

TEST_F(StreamsTest, WhatAnEarlierAttemptHasSentIsNotTakenAgain) {
  EXPECT_TRUE(streams_.receive(kTask, 0, item_value(0)));
  EXPECT_EQ(take(), "0");
  EXPECT_TRUE(streams_.receive(kTask, 1, item_value(1)));
  EXPECT_FALSE(streams_.receive(kTask, 0, item_value(0))) << "taken";
  EXPECT_FALSE(streams_.receive(kTask, 1, item_value(1))) << "waiting";
  EXPECT_TRUE(streams_.receive(kTask, 2, item_value(2)));
  EXPECT_EQ(take(), "1");
  EXPECT_EQ(take(), "2");
}

TEST_F(StreamsTest, ADroppedStreamLeavesNothingButWhatWasTaken) {
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(streams_.receive(kTask, i, item_value(i)));
  EXPECT_EQ(streams_.items(kTask).size(), 3u);
  store::Entry* kept = streams_.take(kTask);
  streams_.drop(kTask);
  EXPECT_EQ(own(), 1u);
  EXPECT_FALSE(streams_.receive(kTask, 3, item_value(3)));
  EXPECT_EQ(streams_.next(kTask), nullptr);
  streams_.end(kTask);
  table_.drop_hold(*kept);
  EXPECT_EQ(own(), 0u);
}

TEST_F(StreamsTest, AnyHistoryGivesEachItemOnce) {
  std::mt19937 random(test_seed());
  for (int round = 0; round < 200; ++round) {
    const std::uint64_t task = 100 + static_cast<std::uint64_t>(round);
    streams_.open(task, &name_);
    const int items = static_cast<int>(random() % 20);
    int sent = 0, taken = 0;
    bool ended = false;
    while (taken < items || !ended) {
      switch (random() % 4) {
        case 0:
          if (random() % 8 == 0) sent = 0;  // a new attempt
          break;
        case 1:
          if (sent < items) {
            streams_.receive(task, static_cast<std::uint64_t>(sent), item_value(sent));
            ++sent;
          } else {
            streams_.end(task);
            ended = true;
          }
          break;
        default:
          if (store::Entry* item = streams_.take(task)) {
            ASSERT_EQ(item->payload->skeleton, std::to_string(taken));
            ++taken;
            table_.drop_hold(*item);
          }
      }
    }
    EXPECT_EQ(streams_.take(task), nullptr);
    streams_.drop(task);
  }
  streams_.drop(kTask);
  EXPECT_EQ(own(), 0u);
}

}  // namespace
}  // namespace beeline::runtime
