// What is kept of calls that have ended: the last ones, and failures whatever comes after them.
#include "beeline/runtime/call_history.h"

#include <gtest/gtest.h>

#include <vector>

namespace beeline::runtime {
namespace {

EndedCall call(std::uint64_t task) {
  EndedCall ended{};
  ended.task = task;
  return ended;
}

std::vector<std::uint64_t> finished_tasks(const CallHistory& history) {
  std::vector<std::uint64_t> tasks;
  history.for_each_finished([&](const EndedCall& ended) { tasks.push_back(ended.task); });
  return tasks;
}

store::Payload failure(std::size_t pickled_bytes, const std::string& message = "why") {
  store::Payload payload;
  payload.skeleton.assign(pickled_bytes, 'x');
  payload.failure = std::make_unique<store::Failure>(store::Failure{store::ErrorKind::kTask, message, 0, {}});
  return payload;
}

TEST(CallHistory, KeepsTheLastOnesNewestFirst) {
  CallHistory history;
  for (std::uint64_t task = 0; task < 3; ++task) history.finished() = call(task);
  EXPECT_EQ(finished_tasks(history), (std::vector<std::uint64_t>{2, 1, 0}));
  EXPECT_EQ(history.forgotten(), 0u);
  for (std::uint64_t task = 3; task < CallHistory::kKept + 5; ++task) history.finished() = call(task);
  const auto tasks = finished_tasks(history);
  ASSERT_EQ(tasks.size(), CallHistory::kKept);
  EXPECT_EQ(tasks.front(), CallHistory::kKept + 4);
  EXPECT_EQ(tasks.back(), 5u);
  EXPECT_EQ(history.forgotten(), 5u);
}

TEST(CallHistory, FailuresHaveAPlaceOfTheirOwn) {
  CallHistory history;
  history.failed(call(7), failure(10));
  for (std::uint64_t task = 0; task < 2 * CallHistory::kKept; ++task) history.finished() = call(task);
  ASSERT_EQ(history.failures().size(), 1u);
  EXPECT_EQ(history.failures().front().call.task, 7u);
  EXPECT_EQ(history.failures().front().message, "why");
  for (std::uint64_t task = 0; task < CallHistory::kKeptFailures; ++task) history.failed(call(task), failure(10));
  EXPECT_EQ(history.failures().size(), CallHistory::kKeptFailures);
  EXPECT_EQ(history.failures().front().call.task, 0u);
}

TEST(CallHistory, WhatFailuresTakeIsBounded) {
  CallHistory history;
  history.failed(call(1), failure(CallHistory::kMaxPickled + 1, std::string(10'000, 'm')));
  EXPECT_TRUE(history.failures().front().pickled.empty());
  EXPECT_EQ(history.failures().front().message.size(), CallHistory::kMaxMessage);
  const auto fit = CallHistory::kMaxPickledBytes / CallHistory::kMaxPickled;
  for (std::uint64_t task = 0; task < 2 * fit; ++task) history.failed(call(task), failure(CallHistory::kMaxPickled));
  EXPECT_EQ(history.failures().size(), fit);
  EXPECT_EQ(history.forgotten(), 1 + fit);
}

}  // namespace
}  // namespace beeline::runtime
