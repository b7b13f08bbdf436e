// Transfers that were started: four at a time with one peer, each told of once, and those that wait within bounds, too.
#include "beeline/transfer/runner.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "patience.h"
#include "seed.h"
#include "short_form.h"

namespace beeline::transfer {
namespace {

using namespace std::chrono_literals;

// What is started here goes on until it is let go, or its wait ends.
class RunnerTest : public ::testing::Test {
 protected:
  struct One {
    std::promise<void> begins;
    std::promise<Status> ends;
    std::future<void> begun = begins.get_future();
    std::shared_future<Status> ended = ends.get_future().share();
    std::shared_ptr<Runner::Started> started;

    [[nodiscard]] bool has_begun() const { return begun.wait_for(0s) == std::future_status::ready; }
    [[nodiscard]] bool has_ended() const { return ended.wait_for(0s) == std::future_status::ready; }
    Code code() {
      if (ended.wait_for(kPatience) != std::future_status::ready) return Code::kOk;
      return ended.get().code();
    }
  };

  ~RunnerTest() override {
    release();
    runner_->close();
  }

  // Lives as long as the test.
  One* start(const std::string& peer, Deadline deadline = Deadline::after(kPatience)) {
    One* const one = all_.emplace_back(std::make_unique<One>()).get();
    auto work = [this, held = one](const os::Wait& wait) {
      held->begins.set_value();
      while (!released_.load()) {
        if (Status status = wait.check(); !status) return status;
        std::this_thread::yield();
      }
      return Status(Code::kTorn, "let go");
    };
    auto started = runner_->start(peer, deadline, std::move(work),
                                  [held = one](const Status& status) { held->ends.set_value(status); });
    EXPECT_TRUE(started.is_ok()) << started.status().message();
    one->started = std::move(*started);
    return one;
  }
  void release() { released_ = true; }

  std::atomic<bool> released_{false};
  std::vector<std::unique_ptr<One>> all_;
  std::shared_ptr<Runner> runner_ = Runner::make();
};

TEST_F(RunnerTest, FourAtATimeWithOnePeerAndOthersAreNotHeldUp) {
  for (int i = 0; i < 5; ++i) start("slow");
  for (int i = 0; i < 4; ++i) ASSERT_EQ(all_[i]->begun.wait_for(kPatience), std::future_status::ready);
  const auto other = start("other");
  ASSERT_EQ(other->begun.wait_for(kPatience), std::future_status::ready);
  EXPECT_FALSE(all_[4]->has_begun());
  release();
  for (const auto& one : all_) EXPECT_EQ(one->code(), Code::kTorn);
  EXPECT_TRUE(all_[4]->has_begun());
}

TEST_F(RunnerTest, OneThatWaitsEndsWithItsDeadline) {
  for (int i = 0; i < 4; ++i) start("slow");
  const auto patient = start("slow");
  const auto late = start("slow", Deadline::after(20ms));
  const auto later = start("slow", Deadline::after(40ms));
  EXPECT_EQ(later->code(), Code::kDeadlineExceeded);
  ASSERT_TRUE(late->has_ended());
  const Status status = late->ended.get();
  EXPECT_EQ(status.code(), Code::kDeadlineExceeded);
  EXPECT_NE(status.message().find("slow"), std::string::npos) << status.message();
  EXPECT_FALSE(late->has_begun());
  EXPECT_FALSE(patient->has_ended());
  release();
  EXPECT_EQ(patient->code(), Code::kTorn);
}

TEST_F(RunnerTest, OneThatRunsIsToldOfItsDeadlineAndOfItsCancellation) {
  const auto late = start("a", Deadline::after(20ms));
  EXPECT_EQ(late->code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(late->has_begun());
  const auto cancelled = start("a", Deadline::never());
  ASSERT_EQ(cancelled->begun.wait_for(kPatience), std::future_status::ready);
  runner_->cancel(cancelled->started);
  EXPECT_EQ(cancelled->code(), Code::kCancelled);
  runner_->cancel(cancelled->started);  // nothing is left to end
}

TEST_F(RunnerTest, OneThatWaitsIsCancelledAtOnce) {
  for (int i = 0; i < 4; ++i) start("slow");
  const auto first = start("slow");
  const auto second = start("slow");
  runner_->cancel(first->started);
  ASSERT_TRUE(first->has_ended());
  EXPECT_EQ(first->code(), Code::kCancelled);
  EXPECT_FALSE(first->has_begun());
  runner_->cancel(all_[0]->started);
  EXPECT_EQ(all_[0]->code(), Code::kCancelled);
  ASSERT_EQ(second->begun.wait_for(kPatience), std::future_status::ready);  // in its place
  release();
}

TEST_F(RunnerTest, ItsEndWaitsForAllThatWereStarted) {
  for (int i = 0; i < 9; ++i) start("slow");
  const auto late = start("slow", Deadline::after(20ms));
  std::thread releaser([&] {
    EXPECT_EQ(late->code(), Code::kDeadlineExceeded);  // while it is being closed, too
    release();
  });
  runner_->close();
  for (const auto& one : all_) EXPECT_TRUE(one->has_ended());
  releaser.join();
  const auto refused = runner_->start("a", Deadline::never(), [](const os::Wait&) { return Status::ok(); }, {});
  EXPECT_EQ(refused.status().code(), Code::kShutdown);
}

TEST_F(RunnerTest, WhatIsStartedMayEndIt) {
  std::promise<void> closed;
  std::weak_ptr<Runner> alive;
  {
    auto own = Runner::make();
    alive = own;
    ASSERT_TRUE(own->start(
        "a", Deadline::never(), [](const os::Wait&) { return Status::ok(); },
        [&, own](const Status&) {
          own->close();
          closed.set_value();
        }));
  }
  ASSERT_EQ(closed.get_future().wait_for(kPatience), std::future_status::ready);
  while (!alive.expired()) std::this_thread::yield();  // its thread lets go of it last
}

TEST_F(RunnerTest, WhatTheWorkHoldsIsLetGoOfOnceItIsDone) {
  auto held = std::make_shared<int>(1);
  const std::weak_ptr<int> alive = held;
  std::promise<bool> was_gone;
  auto started = runner_->start(
      "a", Deadline::never(), [held = std::move(held)](const os::Wait&) { return Status::ok(); },
      [&](const Status&) { was_gone.set_value(alive.expired()); });
  ASSERT_TRUE(started.is_ok());  // and is referred to
  EXPECT_TRUE(was_gone.get_future().get());
}

TEST_F(RunnerTest, InAChildOfForkItIsTheParents) {
  start("a");
  ASSERT_EQ(all_[0]->begun.wait_for(kPatience), std::future_status::ready);
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(30);
    const auto refused = runner_->start("a", Deadline::never(), [](const os::Wait&) { return Status::ok(); }, {});
    runner_->cancel(all_[0]->started);
    runner_->close();
    ::_exit(refused.status().code() == Code::kInvalidArgument ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  release();
  EXPECT_EQ(all_[0]->code(), Code::kTorn);
}

// Each is told of once, however starts, ends, deadlines and cancellations meet.
TEST(RunnerRaceTest, EachEndsOnce) {
  std::mt19937_64 random(test_seed());
  const int each = is_short() ? 40 : 400;
  std::atomic<int> ended{0}, twice{0};
  const auto runner = Runner::make();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, seed = random()] {
      std::mt19937_64 own(seed);
      std::vector<std::shared_ptr<Runner::Started>> all;
      for (int i = 0; i < each; ++i) {
        auto once = std::make_shared<std::atomic<bool>>(false);
        const auto deadline =
            own() % 3 == 0 ? Deadline::after(std::chrono::microseconds(own() % 500)) : Deadline::never();
        auto started = runner->start(
            std::string(1, static_cast<char>('a' + own() % 3)), deadline,
            [spins = own() % 200](const os::Wait&) {
              for (std::uint64_t spin = 0; spin < spins; ++spin) std::this_thread::yield();
              return Status::ok();
            },
            [&, once](const Status&) {
              if (once->exchange(true)) ++twice;
              ++ended;
            });
        EXPECT_TRUE(started.is_ok()) << started.status().message();
        all.push_back(std::move(*started));
        if (own() % 4 == 0) runner->cancel(all[own() % all.size()]);
        if (all.size() > 100) all.erase(all.begin(), all.begin() + 50);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  runner->close();
  EXPECT_EQ(ended, 4 * each);
  EXPECT_EQ(twice, 0);
}

}  // namespace
}  // namespace beeline::transfer
