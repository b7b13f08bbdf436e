// Two ends of a link in one process: the test decides which socket is read, and when.
#include "beeline/runtime/peers.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "beeline/runtime/control.h"

namespace beeline::runtime {
namespace {

constexpr ProcessIndex kOwner = 1;
constexpr ProcessIndex kBorrower = 2;

class End : public PeerEvents {
 public:
  End(const std::string& dir, ProcessIndex self)
      : mailbox_(*ring::Mailbox::create()),
        arena_(*memory::Arena::open({.capacity_bytes = 16u << 20, .quota_bytes = 16u << 20})),
        peers_(*this, mailbox_, *arena_) {
    peers_.listen(std::move(*os::listen_unix(control::link_socket(dir, self))), dir, self);
  }
  ~End() { peers_.close(); }

  Status on_message(ProcessIndex /*from*/, Message type, BytesView /*body*/) override {
    heard.push_back(type);
    return Status::ok();
  }
  void on_peer_ending(ProcessIndex /*process*/) override { heard_before_ending = heard.size(); }
  void on_peer_lost(ProcessIndex process, const Status& /*reason*/) override { lost.push_back(process); }
  void watch_socket(int fd, bool /*also_writable*/, std::function<void(std::uint32_t)> handler) override {
    sockets_[fd] = std::move(handler);
  }
  void forget_socket(int fd) override { sockets_.erase(fd); }

  // Reads what lies in any of its sockets, and in those of links that it accepts meanwhile.
  void read_sockets() {
    for (int pass = 0; pass < 2; ++pass) {
      for (const auto& [fd, handler] : std::map(sockets_)) {
        if (sockets_.contains(fd)) handler(EPOLLIN);
      }
    }
  }
  void drain() {
    while (peers_.drain(SIZE_MAX)) {
    }
  }
  [[nodiscard]] bool has_mail() const { return mailbox_.has_mail(); }
  [[nodiscard]] Peers& peers() { return peers_; }

  std::vector<Message> heard;
  std::size_t heard_before_ending = 0;
  std::vector<ProcessIndex> lost;

 private:
  std::map<int, std::function<void(std::uint32_t)>> sockets_;
  ring::Mailbox mailbox_;
  std::shared_ptr<memory::Arena> arena_;
  Peers peers_;
};

class PeersTest : public ::testing::Test {
 protected:
  static std::string make_dir() {
    char place[] = "/tmp/bpeersXXXXXX";
    return ::mkdtemp(place);
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(dir_, ignored);
  }

  const std::string dir_ = make_dir();
  End owner_{dir_, kOwner};
  End borrower_{dir_, kBorrower};
};

TEST_F(PeersTest, WhatWasWrittenBeforeTheOwnerAcceptsIsPending) {
  borrower_.peers().send(kOwner, Message::kBorrow, {});
  EXPECT_FALSE(owner_.has_mail());
  owner_.peers().accept_pending();
  EXPECT_TRUE(owner_.has_mail());
  owner_.drain();
  EXPECT_EQ(owner_.heard, std::vector{Message::kBorrow});
}

TEST_F(PeersTest, WhatIsWrittenBeforeTheAnswerIsReadIsPending) {
  borrower_.peers().send(kOwner, Message::kRelease, {});
  owner_.read_sockets();
  owner_.drain();
  ASSERT_EQ(owner_.heard, std::vector{Message::kRelease});
  borrower_.peers().send(kOwner, Message::kBorrow, {});  // knows no doorbell yet
  EXPECT_FALSE(owner_.has_mail());
  owner_.peers().accept_pending();
  EXPECT_TRUE(owner_.has_mail());
  owner_.drain();
  EXPECT_EQ(owner_.heard, (std::vector{Message::kRelease, Message::kBorrow}));
}

TEST_F(PeersTest, AfterTheAnswerEachMessageRings) {
  borrower_.peers().connect(kOwner);
  owner_.read_sockets();
  borrower_.read_sockets();
  owner_.drain();
  borrower_.peers().send(kOwner, Message::kBorrow, {});
  EXPECT_TRUE(owner_.has_mail());
  owner_.drain();
  EXPECT_EQ(owner_.heard, std::vector{Message::kBorrow});
  owner_.peers().accept_pending();
  EXPECT_FALSE(owner_.has_mail());
}

TEST_F(PeersTest, ThatAPeerHasEndedIsKnownBeforeItsLastMessagesAreHandled) {
  {
    End third(dir_, 3);
    third.peers().send(kOwner, Message::kBorrow, {});
    owner_.read_sockets();
    owner_.drain();
    third.peers().send(kOwner, Message::kResult, {});
  }
  owner_.read_sockets();
  EXPECT_EQ(owner_.heard_before_ending, 1u);
  EXPECT_EQ(owner_.heard, (std::vector{Message::kBorrow, Message::kResult}));
  EXPECT_EQ(owner_.lost, std::vector<ProcessIndex>{3});
}

TEST_F(PeersTest, APeerThatEndsBeforeItReadTheAnswerLeavesNothingToLookInto) {
  {
    End third(dir_, 3);
    third.peers().send(kOwner, Message::kBorrow, {});
    owner_.read_sockets();
    owner_.drain();
    third.peers().send(kOwner, Message::kBorrow, {});
  }
  owner_.read_sockets();
  EXPECT_EQ(owner_.heard, (std::vector{Message::kBorrow, Message::kBorrow}));
  EXPECT_EQ(owner_.lost, std::vector<ProcessIndex>{3});
  owner_.peers().accept_pending();
  EXPECT_FALSE(owner_.has_mail());
}

}  // namespace
}  // namespace beeline::runtime
