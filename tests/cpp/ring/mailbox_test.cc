// The mailbox and its doorbells: what was rung is collected, and no wake-up is lost between processes.
#include "beeline/ring/mailbox.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <set>
#include <thread>
#include <vector>

#include "patience.h"
#include "short_form.h"

namespace beeline::ring {
namespace {

class MailboxTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto mailbox = Mailbox::create();
    ASSERT_TRUE(mailbox.is_ok());
    mailbox_ = std::move(*mailbox);
  }
  Doorbell bell(std::uint32_t channel) {
    auto copy = os::duplicate(mailbox_.fd());
    EXPECT_TRUE(copy.is_ok());
    auto doorbell = Doorbell::attach(*copy, channel);
    EXPECT_TRUE(doorbell.is_ok());
    return std::move(*doorbell);
  }
  std::vector<std::uint32_t> collected() {
    std::vector<std::uint32_t> channels;
    mailbox_.collect([&](std::uint32_t channel) { channels.push_back(channel); });
    return channels;
  }
  Mailbox mailbox_;
};

TEST_F(MailboxTest, EveryChannelThatRangIsVisitedOnce) {
  const std::set<std::uint32_t> channels = {0, 1, 63, 64, 200, kMaxChannels - 1};
  for (const auto channel : channels) {
    const auto doorbell = bell(channel);
    doorbell.ring();
    doorbell.ring();
  }
  EXPECT_TRUE(mailbox_.has_mail());
  const auto seen = collected();
  EXPECT_EQ(std::set<std::uint32_t>(seen.begin(), seen.end()), channels);
  EXPECT_EQ(seen.size(), channels.size());
  EXPECT_FALSE(mailbox_.has_mail());
  EXPECT_TRUE(collected().empty());
}

TEST_F(MailboxTest, AMarkedChannelIsVisitedAgain) {
  bell(5).ring();
  mailbox_.collect([&](std::uint32_t channel) { mailbox_.mark(channel); });
  EXPECT_TRUE(mailbox_.has_mail());
  EXPECT_EQ(collected(), std::vector<std::uint32_t>{5});
}

TEST_F(MailboxTest, NonsenseIsRefused) {
  auto copy = os::duplicate(mailbox_.fd());
  ASSERT_TRUE(copy.is_ok());
  EXPECT_EQ(Doorbell::attach(*copy, kMaxChannels).status().code(), Code::kCorrupt);
  auto other = os::make_memfd("none", sizeof(MailboxPage));
  ASSERT_TRUE(other.is_ok());
  EXPECT_EQ(Doorbell::attach(*other, 0).status().code(), Code::kCorrupt);
  auto small = os::make_memfd("small", 64);
  ASSERT_TRUE(small.is_ok());
  EXPECT_FALSE(Doorbell::attach(*small, 0).is_ok());
}

TEST_F(MailboxTest, ASleepWithMailWaitingReturnsAtOnce) {
  bell(3).ring();
  EXPECT_EQ(mailbox_.sleep_draining(mailbox_.ticket(Sleeper::kWaiter), Deadline::never()), os::FutexWait::kWoken);
}

TEST_F(MailboxTest, AWakeAfterTheTicketEndsTheSleep) {
  const auto ticket = mailbox_.ticket(Sleeper::kWaiter);
  mailbox_.wake(Sleeper::kWaiter);
  EXPECT_EQ(mailbox_.sleep_draining(ticket, Deadline::never()), os::FutexWait::kWoken);
  const auto helper = mailbox_.ticket(Sleeper::kHelper);
  mailbox_.wake(Sleeper::kHelper);
  mailbox_.sleep_helping(helper, Deadline::never());
}

// What remains of a sender that is killed between the two: the page says that nobody sleeps.
TEST_F(MailboxTest, AWakeReachesAWaiterThatASenderTookOffThePageAndDidNotWake) {
  auto shared = os::Mapping::map(mailbox_.fd(), 0, sizeof(MailboxPage), os::Access::kReadWrite, os::Sharing::kShared);
  ASSERT_TRUE(shared.is_ok());
  auto& page = *reinterpret_cast<MailboxPage*>(shared->data());
  std::atomic<bool> woken{false};
  std::thread waiter([&] {
    woken =
        mailbox_.sleep_draining(mailbox_.ticket(Sleeper::kWaiter), Deadline::after(kPatience)) == os::FutexWait::kWoken;
  });
  const auto deadline = Deadline::after(kPatience);
  while (page.sleeper != static_cast<std::uint32_t>(Sleeper::kWaiter) && !deadline.passed()) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // until it is in the kernel
  page.sleeper = static_cast<std::uint32_t>(Sleeper::kNobody);
  mailbox_.wake(Sleeper::kWaiter);
  waiter.join();
  EXPECT_TRUE(woken);
}

TEST_F(MailboxTest, SendersWakeWhoeverIsEntrusted) {
  const auto helper = mailbox_.ticket(Sleeper::kHelper);
  const auto waiter = mailbox_.ticket(Sleeper::kWaiter);
  EXPECT_FALSE(mailbox_.entrust(Sleeper::kHelper));
  bell(1).ring();
  EXPECT_EQ(mailbox_.ticket(Sleeper::kHelper), helper + 1);
  // One wake is enough: nobody is on the page any more.
  bell(2).ring();
  EXPECT_EQ(mailbox_.ticket(Sleeper::kHelper), helper + 1);
  EXPECT_EQ(mailbox_.ticket(Sleeper::kWaiter), waiter);
  EXPECT_TRUE(mailbox_.entrust(Sleeper::kWaiter)) << "mail is waiting";
  mailbox_.take_back();
  bell(1).ring();
  EXPECT_EQ(mailbox_.ticket(Sleeper::kWaiter), waiter);
}

TEST_F(MailboxTest, WhatHasTimeDoesNotWakeAHelperThatLooksByItself) {
  const auto helper = mailbox_.ticket(Sleeper::kHelper);
  const auto waiter = mailbox_.ticket(Sleeper::kWaiter);
  mailbox_.set_watched(true);
  mailbox_.entrust(Sleeper::kHelper);
  bell(1).ring(Urgency::kSoon);
  EXPECT_EQ(mailbox_.ticket(Sleeper::kHelper), helper);
  EXPECT_TRUE(mailbox_.has_mail()) << "it is found at the next look";
  bell(2).ring();
  EXPECT_EQ(mailbox_.ticket(Sleeper::kHelper), helper + 1) << "what has no time wakes it all the same";

  mailbox_.entrust(Sleeper::kWaiter);
  bell(1).ring(Urgency::kSoon);
  EXPECT_EQ(mailbox_.ticket(Sleeper::kWaiter), waiter + 1) << "nothing keeps a thread that waits";

  mailbox_.set_watched(false);
  mailbox_.entrust(Sleeper::kHelper);
  bell(1).ring(Urgency::kSoon);
  EXPECT_EQ(mailbox_.ticket(Sleeper::kHelper), helper + 2) << "nobody would look";
}

// Two processes hand a turn back and forth, each sleeping until the other rings: a lost wake-up is a time-out.
TEST_F(MailboxTest, NoWakeUpIsLostBetweenTwoProcesses) {
  auto second = Mailbox::create();
  ASSERT_TRUE(second.is_ok());
  auto copy = os::duplicate(second->fd());
  ASSERT_TRUE(copy.is_ok());
  auto to_second = Doorbell::attach(*copy, 77);
  ASSERT_TRUE(to_second.is_ok());
  const auto to_first = bell(4000);
  const int turns = is_short() ? 20'000 : 100'000;
  const auto play = [turns](Mailbox& mine, const Doorbell& other, std::uint32_t channel, bool begins) {
    for (int turn = 0; turn < turns; ++turn) {
      if (begins) other.ring();
      bool came = false;
      while (!came) {
        mine.collect([&](std::uint32_t rang) { came = rang == channel; });
        if (came) break;
        const auto ticket = mine.ticket(Sleeper::kWaiter);
        if (mine.sleep_draining(ticket, Deadline::after(kPatience)) == os::FutexWait::kTimedOut) return false;
      }
      if (!begins) other.ring();
    }
    return true;
  };
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(play(*second, to_first, 77, false) ? 0 : 1);
  EXPECT_TRUE(play(mailbox_, *to_second, 4000, true));
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// Many senders, one owner that sleeps whenever it has nothing: every ring is answered by a visit after it.
TEST_F(MailboxTest, NoRingIsLostAmongManySenders) {
  constexpr std::uint32_t kSenders = 4;
  const std::uint64_t rings = is_short() ? 20'000 : 50'000;
  std::array<std::atomic<std::uint64_t>, kSenders> sent{};
  std::array<std::uint64_t, kSenders> seen{};
  std::vector<std::thread> senders;
  for (std::uint32_t i = 0; i < kSenders; ++i) {
    senders.emplace_back([&, i] {
      const auto doorbell = bell(i * 64 + i);
      for (std::uint64_t n = 0; n < rings; ++n) {
        sent[i].fetch_add(1, std::memory_order_release);
        doorbell.ring();
      }
    });
  }
  bool timed_out = false;
  const auto done = [&] {
    for (const auto count : seen) {
      if (count != rings) return false;
    }
    return true;
  };
  while (!done() && !timed_out) {
    const bool any = mailbox_.collect(
        [&](std::uint32_t channel) { seen[channel / 64] = sent[channel / 64].load(std::memory_order_acquire); });
    if (any) continue;
    const auto ticket = mailbox_.ticket(Sleeper::kWaiter);
    timed_out = mailbox_.sleep_draining(ticket, Deadline::after(kPatience)) == os::FutexWait::kTimedOut;
  }
  EXPECT_FALSE(timed_out);
  for (auto& sender : senders) sender.join();
}

TEST(MailboxLayoutTest, TheLayoutIsWhatPeersExpect) {
  EXPECT_EQ(sizeof(MailboxPage), 704u);
  EXPECT_EQ(offsetof(MailboxPage, sleeper), 64u);
  EXPECT_EQ(offsetof(MailboxPage, waiter_word), 68u);
  EXPECT_EQ(offsetof(MailboxPage, helper_word), 72u);
  EXPECT_EQ(offsetof(MailboxPage, watched), 76u);
}

}  // namespace
}  // namespace beeline::ring
