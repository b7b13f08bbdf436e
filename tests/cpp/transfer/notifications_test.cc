// Notifications: in order, bounded, and never lost without somebody being told or a count.
#include "beeline/transfer/notifications.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <future>
#include <string>

#include "beeline/transfer/agent.h"
#include "patience.h"

namespace beeline::transfer {
namespace {

using WhenFull = Notifications::WhenFull;

Bytes bytes_of(const std::string& text) {
  const auto view = as_bytes(text);
  return {view.begin(), view.end()};
}
std::string text_of(const Notification& notification) {
  return {reinterpret_cast<const char*>(notification.payload.data()), notification.payload.size()};
}

TEST(NotificationsTest, OneMoreThanTheLimitIsRefusedOrDropsTheOldest) {
  const auto refusing = *Notifications::make("t", 2, WhenFull::kRefuse);
  const auto dropping = *Notifications::make("t", 2, WhenFull::kDropOldest);
  for (const char* text : {"a", "b", "c"}) {
    const Status status = refusing->add({"id", "name", bytes_of(text)});
    EXPECT_EQ(status.code(), *text == 'c' ? Code::kResourceExhausted : Code::kOk);
    EXPECT_TRUE(dropping->add({"id", "name", bytes_of(text)}).is_ok());
  }
  EXPECT_EQ(text_of(*refusing->poll()), "a");
  EXPECT_EQ(text_of(*dropping->poll()), "b");
  EXPECT_EQ(refusing->stats().refused, 1u);
  EXPECT_EQ(refusing->stats().dropped, 0u);
  EXPECT_EQ(dropping->stats().dropped, 1u);
  EXPECT_EQ(dropping->stats().waiting, 1u);
  EXPECT_TRUE(refusing->add({"id", "name", bytes_of("d")}).is_ok());
  EXPECT_EQ(Notifications::make("t", 0, WhenFull::kRefuse).status().code(), Code::kInvalidArgument);
}

TEST(NotificationsTest, AWaitEndsWithWhatComesAtItsDeadlineOrAtTheEnd) {
  const auto own = *Notifications::make("t", 2, WhenFull::kRefuse);
  auto waiting = std::async(std::launch::async, [&] { return text_of(*own->next(patience())); });
  EXPECT_TRUE(own->add({"id", "name", bytes_of("a")}).is_ok());
  EXPECT_EQ(waiting.get(), "a");
  EXPECT_EQ(own->next(Deadline::after(std::chrono::milliseconds(5))).status().code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(own->add({"id", "name", bytes_of("b")}).is_ok());
  own->end({Code::kPeerLost, "closed"});
  EXPECT_EQ(text_of(*own->next(patience())), "b");
  EXPECT_EQ(own->next(patience()).status().code(), Code::kPeerLost);
}

class NotifyTest : public ::testing::TestWithParam<bool> {
 protected:
  static std::string make_folder() {
    char place[] = "/tmp/bnotifyXXXXXX";
    return ::mkdtemp(place);
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  std::shared_ptr<Agent> open(const std::string& name) const {
    Agent::Options options;
    options.name = name;
    options.folder = folder_;
    options.share_memory = GetParam();
    options.tcp = os::TcpAddress{"127.0.0.1", 0};
    options.token = "secret";
    options.arena = *memory::Arena::open({.capacity_bytes = 64u << 20, .quota_bytes = 64u << 20});
    return *Agent::open(options);
  }
  [[nodiscard]] std::shared_ptr<Peer> receiver_as_peer() const {
    return *sender_->peer(receiver_->address().text(), patience());
  }

  const std::string folder_ = make_folder();
  std::shared_ptr<Agent> receiver_ = open("receiver");
  std::shared_ptr<Agent> sender_ = open("sender");
};
INSTANTIATE_TEST_SUITE_P(Connections, NotifyTest, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "unix" : "tcp"; });

TEST_P(NotifyTest, TheyArriveInOrderWithTheirSender) {
  const auto taken = *receiver_->notifications("t", 1000, WhenFull::kRefuse);
  const auto peer = receiver_as_peer();
  for (int i = 0; i < 500; ++i) {
    const Status status = peer->notify("t", bytes_of(std::to_string(i)), patience());
    ASSERT_TRUE(status.is_ok()) << status.message();
  }
  for (int i = 0; i < 500; ++i) {
    const auto notification = *taken->poll();  // who was told that it is there finds it there
    EXPECT_EQ(text_of(notification), std::to_string(i));
    EXPECT_EQ(notification.sender_id, sender_->address().id);
    EXPECT_EQ(notification.sender, "sender");
  }
  EXPECT_FALSE(taken->poll().has_value());
}

TEST_P(NotifyTest, WhatIsNotTakenIsRefusedToItsSender) {
  const auto peer = receiver_as_peer();
  Status status = peer->notify("t", bytes_of("x"), patience());
  EXPECT_EQ(status.code(), Code::kNotFound) << status.message();
  EXPECT_NE(status.message().find("\"receiver\" takes no notifications of topic \"t\""), std::string::npos)
      << status.message();
  auto taken = *receiver_->notifications("t", 1, WhenFull::kRefuse);
  EXPECT_TRUE(peer->notify("t", bytes_of("x"), patience()).is_ok());
  status = peer->notify("t", bytes_of("y"), patience());
  EXPECT_EQ(status.code(), Code::kResourceExhausted) << status.message();
  EXPECT_EQ(peer->notify("t", Bytes(kMaxNotification + 1), patience()).code(), Code::kInvalidArgument);
  EXPECT_TRUE(taken->poll().has_value());
  EXPECT_TRUE(peer->notify("t", Bytes(kMaxNotification), patience()).is_ok());
  EXPECT_EQ(taken->poll()->payload.size(), kMaxNotification);
  EXPECT_EQ(*receiver_->notifications("t", 1, WhenFull::kRefuse), taken);
  EXPECT_EQ(receiver_->notifications("t", 2, WhenFull::kRefuse).status().code(), Code::kAlreadyExists);
  taken.reset();
  EXPECT_EQ(peer->notify("t", bytes_of("x"), patience()).code(), Code::kNotFound);
  EXPECT_TRUE(receiver_->notifications("t", 2, WhenFull::kRefuse).is_ok());
}

TEST_P(NotifyTest, ThreadsOfOneSenderAreEachToldOfTheirOwn) {
  const auto taken = *receiver_->notifications("even", 10'000, WhenFull::kRefuse);
  const auto peer = receiver_as_peer();
  std::vector<std::future<bool>> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.push_back(std::async(std::launch::async, [&, thread] {
      for (int i = 0; i < 200; ++i) {
        const bool is_taken = thread % 2 == 0;
        const Status status = peer->notify(is_taken ? "even" : "odd", bytes_of(std::to_string(thread)), patience());
        if (status.code() != (is_taken ? Code::kOk : Code::kNotFound)) return false;
      }
      return true;
    }));
  }
  for (auto& thread : threads) EXPECT_TRUE(thread.get());
  EXPECT_EQ(taken->stats().waiting, 400u);
}

TEST_P(NotifyTest, AClosedReceiverIsGone) {
  auto taken = *receiver_->notifications("t", 10, WhenFull::kRefuse);
  const auto peer = receiver_as_peer();
  auto waiting = std::async(std::launch::async, [&] { return taken->next(patience()).status().code(); });
  receiver_.reset();
  EXPECT_EQ(waiting.get(), Code::kPeerLost);
  EXPECT_EQ(peer->notify("t", bytes_of("x"), patience()).code(), Code::kPeerLost);
}

}  // namespace
}  // namespace beeline::transfer
