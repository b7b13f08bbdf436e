// Who drains the mailbox: waiting threads, one at a time, and the helper when nobody waits. No wake-up is lost.
#include "beeline/runtime/progress.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>

#include <array>
#include <atomic>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "patience.h"
#include "seed.h"
#include "short_form.h"

namespace beeline::runtime {
namespace {
constexpr std::size_t kChannels = 8;

// Messages are counts: a sender raises `sent` of its channel and rings; draining copies it to `seen`.
class ProgressTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto mailbox = ring::Mailbox::create();
    ASSERT_TRUE(mailbox.is_ok());
    mailbox_ = std::move(*mailbox);
    auto copy = os::duplicate(mailbox_.fd());
    ASSERT_TRUE(copy.is_ok());
    for (std::uint32_t i = 0; i < kChannels; ++i) {
      auto bell = ring::Doorbell::attach(*copy, i * 64);
      ASSERT_TRUE(bell.is_ok());
      bells_[i] = std::move(*bell);
    }
    const auto drain = [this] {
      EXPECT_EQ(draining_.fetch_add(1), 0) << "exactly one thread drains";
      bool any = false;
      mailbox_.collect([&](std::uint32_t channel) {
        seen_[channel / 64] = sent_[channel / 64].load();
        any = true;
      });
      draining_.fetch_sub(1);
      return any;
    };
    ASSERT_TRUE(progress_.start({.drain = drain, .idle = [] {}, .chores = [this] { ++chores_; }}).is_ok());
  }
  void TearDown() override { progress_.stop(); }

  void send(std::size_t channel, ring::Urgency urgency = ring::Urgency::kNow) {
    sent_[channel].fetch_add(1);
    bells_[channel].ring(urgency);
  }
  WaitOutcome wait_for(std::size_t channel, std::uint64_t count, Deadline deadline) {
    Locked locked(lock_);
    return progress_.wait(locked, deadline, [&] { return seen_[channel] >= count; });
  }
  std::uint64_t seen(std::size_t channel) {
    const Locked locked(lock_);
    return seen_[channel];
  }

  StateLock lock_;
  ring::Mailbox mailbox_;
  Progress progress_{lock_, mailbox_};
  std::array<ring::Doorbell, kChannels> bells_;
  std::array<std::atomic<std::uint64_t>, kChannels> sent_{};
  std::array<std::uint64_t, kChannels> seen_{};  // under the lock
  std::atomic<int> draining_{0};
  std::atomic<int> chores_{0};
};

TEST(ProgressLull, HousekeepingIsDoneOnceAfterWhatHappenedLast) {
  StateLock lock;
  ring::Mailbox mailbox = ring::Mailbox::create().value();
  Progress progress(lock, mailbox);
  std::atomic<int> looks{0};
  const auto look = [&] { return ++looks % 2 == 1; };  // the first look of each two sees that something is new
  ASSERT_TRUE(progress
                  .start({.drain = [] { return false; },
                          .idle = [] {},
                          .chores = [] {},
                          .lull_chores = look,
                          .lull = std::chrono::milliseconds(20)})
                  .is_ok());
  EXPECT_EQ(looks, 0) << "nothing has happened yet";
  for (const int expected : {2, 4}) {
    Locked locked(lock);
    progress.wait(locked, Deadline::after(std::chrono::milliseconds(1)), [] { return false; });  // it sleeps
    locked.unlock();
    const auto deadline = Deadline::after(kPatience);
    while (looks < expected && !deadline.passed()) std::this_thread::yield();
    ASSERT_EQ(looks, expected);
  }
  progress.stop();
}

TEST(ProgressSpin, StopsWhileItIsInVainAndComesBackOnceItPays) {
  StateLock lock;
  ring::Mailbox mailbox = ring::Mailbox::create().value();
  ring::Doorbell bell = ring::Doorbell::attach(os::duplicate(mailbox.fd()).value(), 0).value();
  Progress progress(lock, mailbox);
  std::uint64_t answers = 0, came = 0;  // under the lock
  const auto drain = [&] {
    const auto before = came;
    mailbox.collect([&](std::uint32_t) { ++came; });
    return came > before;
  };
  const auto answer = [&] {  // just before the thread spins
    if (answers == 0) return;
    --answers;
    bell.ring();
  };
  ASSERT_TRUE(progress.start({.drain = drain, .idle = answer, .chores = [] {}}).is_ok());
  constexpr std::uint64_t kWaits = 200;
  const auto& stats = progress.stats();
  const auto wait_in_vain = [&] {
    Locked locked(lock);
    const auto enough = stats.sleeps + kWaits;
    while (stats.sleeps < enough)
      progress.wait(locked, Deadline::after(std::chrono::microseconds(200)), [] { return false; });
  };

  wait_in_vain();
  EXPECT_EQ(stats.spins_won, 0u);
  EXPECT_EQ(stats.spins_in_vain, 8 + (stats.sleeps - 8) / 16) << "the credit, then one in sixteen";

  {
    Locked locked(lock);
    answers = kWaits;
    EXPECT_EQ(progress.wait(locked, Deadline::after(kPatience), [&] { return came == kWaits; }), WaitOutcome::kDone);
  }
  EXPECT_GE(stats.spins_won, kWaits - 15) << "from the first that was tried again they are tried each time";

  const auto before = stats.spins_in_vain;
  wait_in_vain();
  EXPECT_GE(stats.spins_in_vain - before, 16u) << "what was won back is spent";
  EXPECT_LE(stats.spins_in_vain - before, 16 + kWaits / 16 + 1);
  progress.stop();
}

// Senders pause for as long as the helper looks by itself, and a little longer: a ring between its last look and its
// sleep must not be lost.
TEST_F(ProgressTest, WhatHasTimeIsSeenWhetherOrNotTheHelperLooks) {
  std::mt19937 random(test_seed());
  std::uniform_int_distribution<int> pause_us(0, 7000);
  const std::uint64_t rounds = is_short() ? 200 : 1000;
  for (std::uint64_t round = 1; round <= rounds; ++round) {
    std::this_thread::sleep_for(std::chrono::microseconds(pause_us(random)));
    send(0, ring::Urgency::kSoon);
    const auto deadline = Deadline::after(kPatience);
    while (seen(0) < round && !deadline.passed()) std::this_thread::yield();
    ASSERT_EQ(seen(0), round);
  }
}

TEST_F(ProgressTest, AHelperThatLooksByItselfIsNotWokenForChoresThatHaveTime) {
  const auto request = [&](ring::Urgency urgency) {
    const Locked locked(lock_);
    progress_.request_chores(urgency);
    return mailbox_.ticket(ring::Sleeper::kHelper);
  };
  const auto begin = mailbox_.ticket(ring::Sleeper::kHelper);
  EXPECT_EQ(request(ring::Urgency::kSoon), begin + 1) << "it sleeps for good";
  const auto until_done = [&](int done) {
    const auto deadline = Deadline::after(kPatience);
    while (chores_ <= done && !deadline.passed()) std::this_thread::yield();
    return chores_ > done;
  };
  ASSERT_TRUE(until_done(0));
  const auto patience = Deadline::after(kPatience);
  for (bool was_woken = true; was_woken;) {  // while this thread kept being off the core for all of its looks
    ASSERT_FALSE(patience.passed()) << "its looks do them";
    const int done = chores_;
    const auto before = mailbox_.ticket(ring::Sleeper::kHelper);
    was_woken = request(ring::Urgency::kSoon) != before;
    ASSERT_TRUE(until_done(done));
  }
  const auto before = mailbox_.ticket(ring::Sleeper::kHelper);
  EXPECT_EQ(request(ring::Urgency::kNow), before + 1);
}

TEST_F(ProgressTest, AHelperThatFindsNothingSleepsForGood) {
  send(0);
  wait_for(0, 1, Deadline::after(kPatience));
  const auto rounds = [&] {
    const Locked locked(lock_);
    return progress_.stats().helper_rounds;
  };
  const auto deadline = Deadline::after(kPatience);
  auto before = rounds();
  for (;;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const auto now = rounds();
    if (std::exchange(before, now) == now) break;
    ASSERT_FALSE(deadline.passed());
  }
}

TEST_F(ProgressTest, TheHelperDrainsWhileNobodyWaits) {
  for (std::uint64_t round = 1; round <= 200; ++round) {
    send(0);
    const auto deadline = Deadline::after(kPatience);
    while (seen(0) < round && !deadline.passed()) std::this_thread::yield();
    ASSERT_EQ(seen(0), round);
  }
}

TEST_F(ProgressTest, AWaitThatIsDoneReturnsAndOneThatNeverIsTimesOut) {
  EXPECT_EQ(wait_for(0, 0, Deadline::never()), WaitOutcome::kDone);
  EXPECT_EQ(wait_for(0, 1, Deadline::after(std::chrono::milliseconds(3))), WaitOutcome::kTimedOut);
  send(0);
  EXPECT_EQ(wait_for(0, 1, Deadline::after(kPatience)), WaitOutcome::kDone);
}

TEST_F(ProgressTest, ManyThreadsWaitAndEachGetsItsOwn) {
  const std::uint64_t rounds = is_short() ? 500 : 3000;
  std::vector<std::thread> waiters;
  std::array<std::atomic<std::uint64_t>, kChannels> reached{};
  std::atomic<int> lost{0};
  for (std::size_t channel = 0; channel < kChannels; ++channel) {
    waiters.emplace_back([&, channel] {
      for (std::uint64_t round = 1; round <= rounds; ++round) {
        if (wait_for(channel, round, Deadline::after(kPatience)) != WaitOutcome::kDone) {
          ++lost;
          return;
        }
        reached[channel].store(round);
      }
    });
  }
  std::thread sender([&] {
    for (std::uint64_t round = 1; round <= rounds; ++round) {
      for (std::size_t channel = 0; channel < kChannels; ++channel) {
        send(channel);
        // Every other channel in step with its waiter, so that threads leave and come all the time.
        const auto deadline = Deadline::after(kPatience);
        while (channel % 2 == 0 && reached[channel].load() < round && !deadline.passed()) std::this_thread::yield();
      }
    }
  });
  sender.join();
  for (auto& waiter : waiters) waiter.join();
  EXPECT_EQ(lost, 0);
}

TEST_F(ProgressTest, WaitsWithShortDeadlinesNeverLoseTheRole) {
  const auto seed = test_seed();
  const std::uint64_t rounds = is_short() ? 300 : 1500;
  std::atomic<bool> over{false};
  std::vector<std::thread> impatient;
  for (unsigned i = 0; i < 4; ++i) {
    impatient.emplace_back([&, i] {
      std::mt19937_64 random(seed + i);
      while (!over) (void)wait_for(1, ~std::uint64_t{0}, Deadline::after(std::chrono::microseconds(random() % 200)));
    });
  }
  for (std::uint64_t round = 1; round <= rounds; ++round) {
    send(0);
    ASSERT_EQ(wait_for(0, round, Deadline::after(kPatience)), WaitOutcome::kDone) << round;
  }
  over = true;
  for (auto& thread : impatient) thread.join();
}

TEST_F(ProgressTest, NotifyMakesWaitersLookAgain) {
  bool changed = false;  // under the lock, told by no message
  std::vector<std::thread> waiters;
  std::atomic<int> done{0};
  for (int i = 0; i < 3; ++i) {
    waiters.emplace_back([&] {
      Locked locked(lock_);
      if (progress_.wait(locked, Deadline::after(kPatience), [&] { return changed; }) == WaitOutcome::kDone) ++done;
    });
  }
  {
    const Locked locked(lock_);
    changed = true;
    progress_.notify();
  }
  for (auto& waiter : waiters) waiter.join();
  EXPECT_EQ(done, 3);
}

TEST_F(ProgressTest, ASignalInterruptsTheWaitOfItsThread) {
  struct sigaction action{};
  struct sigaction before{};
  action.sa_handler = [](int) {};
  ASSERT_EQ(::sigaction(SIGUSR1, &action, &before), 0);
  std::atomic<bool> over{false};
  const pthread_t self = ::pthread_self();
  std::thread signaller([&] {
    while (!over) {
      ::pthread_kill(self, SIGUSR1);
      std::this_thread::yield();
    }
  });
  EXPECT_EQ(wait_for(0, 1, Deadline::after(kPatience)), WaitOutcome::kInterrupted);
  over = true;
  signaller.join();
  ::sigaction(SIGUSR1, &before, nullptr);
  send(0);
  EXPECT_EQ(wait_for(0, 1, Deadline::after(kPatience)), WaitOutcome::kDone);
}

TEST_F(ProgressTest, ChoresRunWhenAskedFor) {
  const int before = chores_;
  {
    const Locked locked(lock_);
    progress_.request_chores();
  }
  const auto deadline = Deadline::after(kPatience);
  while (chores_ == before && !deadline.passed()) std::this_thread::yield();
  EXPECT_GT(chores_, before);
}

TEST(ProgressPoke, StoppingWaitsForAThreadThatOnlyLooks) {
  StateLock lock;
  ring::Mailbox mailbox = ring::Mailbox::create().value();
  ring::Doorbell bell = ring::Doorbell::attach(os::duplicate(mailbox.fd()).value(), 0).value();
  Progress progress(lock, mailbox);
  std::atomic<bool> ended{false};
  bool drained_late = false;  // by the thread that looks, as are these
  std::thread stopper;
  auto enough = Deadline::never();
  const auto drain = [&] {
    mailbox.collect([](std::uint32_t) {});
    if (!stopper.joinable()) {
      enough = Deadline::after(std::chrono::milliseconds(50));  // for stop() to come back too early
      stopper = std::thread([&] {
        progress.stop();
        ended = true;
      });
    }
    drained_late = ended;
    return !ended && !enough.passed();
  };
  ASSERT_TRUE(progress.start({.drain = drain, .idle = [] {}, .chores = [] {}}).is_ok());
  {
    Locked locked(lock);
    bell.ring();
    progress.poke(locked);  // before the helper, which needs the lock
    EXPECT_FALSE(drained_late);
  }
  stopper.join();
}

TEST_F(ProgressTest, StoppingEndsEveryWait) {
  std::vector<std::thread> waiters;
  for (int i = 0; i < 4; ++i) {
    waiters.emplace_back([&] { EXPECT_EQ(wait_for(0, 1, Deadline::after(kPatience)), WaitOutcome::kDone); });
  }
  progress_.stop();
  for (auto& waiter : waiters) waiter.join();
}

}  // namespace
}  // namespace beeline::runtime
