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
    call_.task = kTask;
    call_.options.name = &name_;
    call_.options.retries = call_.retries_left = 3;
  }
  bool receive(int number) { return streams_.receive(call_, static_cast<std::uint64_t>(number), item_value(number)); }
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
  OutgoingCall call_;
};

TEST_F(StreamsTest, ItemsAreTakenInOrderAndThenTheEnd) {
  EXPECT_EQ(take(), "");
  EXPECT_TRUE(receive(0));
  EXPECT_TRUE(receive(1));
  EXPECT_EQ(take(), "0");
  EXPECT_EQ(streams_.taken(kTask), 1u);
  streams_.end(call_, nullptr);
  EXPECT_EQ(take(), "1");
  EXPECT_EQ(take(), "end");
  EXPECT_EQ(take(), "end") << "as often as it is asked for";
}

TEST_F(StreamsTest, WhoWaitsForTheNextItemIsToldOfItAndOfTheEnd) {
  ReadyCount count;
  table_.watch(*streams_.next(kTask), count);
  EXPECT_TRUE(receive(0));
  EXPECT_EQ(count.calls, 1);
  EXPECT_EQ(take(), "0");
  table_.watch(*streams_.next(kTask), count);
  streams_.end(call_, nullptr);
  streams_.end(call_, nullptr);
  EXPECT_EQ(count.calls, 2);
}

TEST_F(StreamsTest, WhatAnEarlierAttemptHasSentIsNotTakenAgain) {
  EXPECT_TRUE(receive(0));
  EXPECT_EQ(take(), "0");
  EXPECT_TRUE(receive(1));
  EXPECT_FALSE(receive(0)) << "taken";
  EXPECT_FALSE(receive(1)) << "waiting";
  EXPECT_TRUE(receive(2));
  EXPECT_EQ(take(), "1");
  EXPECT_EQ(take(), "2");
}

TEST_F(StreamsTest, AnItemThatWasLostIsGivenByTheNextAttempt) {
  ASSERT_TRUE(receive(0));
  ASSERT_TRUE(receive(1));
  store::Entry* lost = streams_.take(kTask);
  ASSERT_EQ(lost->producer, &call_);
  table_.forget_value(*lost);
  ReadyCount count;
  table_.watch(*lost, count);
  EXPECT_TRUE(receive(0));
  EXPECT_EQ(count.calls, 1);
  EXPECT_EQ(lost->payload->skeleton, "0");
  EXPECT_FALSE(receive(0)) << "once";
  EXPECT_FALSE(receive(1)) << "it was not lost";
  EXPECT_EQ(take(), "1");
  streams_.end(call_, nullptr);
  EXPECT_EQ(lost->producer, nullptr);
  table_.drop_hold(*lost);
}

TEST_F(StreamsTest, AnItemThatWasLostBeforeItWasTakenIsTakenAllTheSame) {
  ASSERT_TRUE(receive(0));
  table_.forget_value(*streams_.next(kTask));
  store::Entry* taken = streams_.take(kTask);
  ASSERT_NE(taken, nullptr);
  EXPECT_TRUE(receive(0));
  EXPECT_TRUE(taken->ready());
  table_.drop_hold(*taken);
}

TEST_F(StreamsTest, WhatNobodyHoldsIsNotGivenAgain) {
  ASSERT_TRUE(receive(0));
  store::Entry* item = streams_.take(kTask);
  table_.add_dependent(*item);
  table_.forget_value(*item);
  table_.drop_hold(*item);
  table_.reap();
  EXPECT_FALSE(receive(0));
  EXPECT_FALSE(item->ready());
  table_.add_hold(*item);
  EXPECT_TRUE(receive(0));
  table_.drop_dependent(*item);
  table_.drop_hold(*item);
}

TEST_F(StreamsTest, AnItemThatTheNextAttemptDoesNotGiveSaysSo) {
  std::vector<store::Entry*> items;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(receive(i));
    items.push_back(streams_.take(kTask));
  }
  for (store::Entry* item : items) table_.forget_value(*item);
  call_.yielded = 0;
  EXPECT_TRUE(receive(0));
  streams_.end(call_, nullptr);
  EXPECT_EQ(items[0]->payload->skeleton, "0");
  ASSERT_TRUE(items[2]->ready());
  EXPECT_EQ(items[2]->payload->failure->kind, store::ErrorKind::kReconstruction);
  EXPECT_NE(items[2]->payload->failure->message.find("item 2"), std::string::npos);
  EXPECT_NE(items[2]->payload->failure->message.find("only 1 items"), std::string::npos);
  for (store::Entry* item : items) table_.drop_hold(*item);
}

TEST_F(StreamsTest, WhatTheNextAttemptRaisesStandsForTheRest) {
  std::vector<store::Entry*> items;
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(receive(i));
    items.push_back(streams_.take(kTask));
  }
  for (const int i : {1, 2}) table_.forget_value(*items[static_cast<std::size_t>(i)]);
  EXPECT_FALSE(receive(0));
  const auto raised = store::make_failure(store::ErrorKind::kCancelled, "raised");
  EXPECT_TRUE(streams_.receive(call_, 1, raised));
  streams_.end(call_, nullptr);
  EXPECT_EQ(items[0]->payload->skeleton, "0");
  EXPECT_EQ(items[1]->payload, raised);
  EXPECT_EQ(items[2]->payload, raised);
  for (store::Entry* item : items) table_.drop_hold(*item);
}

TEST_F(StreamsTest, WhatIsLostWhenTheCallFailsFailsWithIt) {
  ASSERT_TRUE(receive(0));
  store::Entry* lost = streams_.take(kTask);
  table_.forget_value(*lost);
  const auto failure = store::make_failure(store::ErrorKind::kWorkerCrashed, "it died");
  streams_.end(call_, failure);
  EXPECT_EQ(lost->payload, failure);
  table_.drop_hold(*lost);
}

TEST_F(StreamsTest, ACallThatRunsOnceGivesNothingAgain) {
  call_.options.retries = call_.retries_left = 0;
  ASSERT_TRUE(receive(0));
  store::Entry* item = streams_.take(kTask);
  EXPECT_EQ(item->producer, nullptr);
  EXPECT_EQ(item->remaking, store::Remaking::kNoRetries);
  EXPECT_EQ(call_.items.size(), 0u);
  table_.drop_hold(*item);
}

TEST_F(StreamsTest, AStreamThatHasEndedTakesNothingMore) {
  ASSERT_TRUE(receive(0));
  streams_.end(call_, nullptr);
  EXPECT_FALSE(receive(1)) << "as a run that gives more than the first one";
  EXPECT_EQ(take(), "0");
  EXPECT_EQ(take(), "end");
}

TEST_F(StreamsTest, WhatIsKnownOfAnEndlessStreamDoesNotGrow) {
  for (int i = 0; i < 10'000; ++i) {
    ASSERT_TRUE(receive(i));
    EXPECT_EQ(take(), std::to_string(i));
  }
  EXPECT_LT(call_.items.size(), 200u);
}

TEST_F(StreamsTest, ADroppedStreamLeavesNothingButWhatWasTaken) {
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(receive(i));
  EXPECT_EQ(streams_.items(kTask).size(), 3u);
  store::Entry* kept = streams_.take(kTask);
  streams_.drop(kTask);
  EXPECT_EQ(own(), 1u);
  EXPECT_FALSE(receive(3));
  EXPECT_EQ(streams_.next(kTask), nullptr);
  streams_.end(call_, nullptr);
  table_.drop_hold(*kept);
  EXPECT_EQ(own(), 0u);
}

TEST_F(StreamsTest, AnyHistoryGivesEachItemOnce) {
  std::mt19937 random(test_seed());
  for (int round = 0; round < 200; ++round) {
    const std::uint64_t task = 100 + static_cast<std::uint64_t>(round);
    OutgoingCall call;
    call.task = task;
    call.options.name = &name_;
    call.retries_left = static_cast<int>(random() % 3) - 1;
    call.options.retries = -1;
    call.args = item_value(0);
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
            streams_.receive(call, static_cast<std::uint64_t>(sent), item_value(sent));
            ++sent;
          } else {
            streams_.end(call, nullptr);
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
