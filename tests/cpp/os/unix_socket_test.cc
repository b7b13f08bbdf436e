// Frames and descriptors over a unix socket: whole, in parts, and from a peer that lies.
#include "beeline/os/unix_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <future>
#include <random>
#include <thread>

#include "patience.h"
#include "seed.h"

namespace beeline::os {
namespace {

using Receive = FrameSocket::Receive;

struct Header {
  std::uint32_t size;
  std::uint32_t fd_count;
};

ino_t inode(int fd) {
  struct stat info{};
  return ::fstat(fd, &info) == 0 ? info.st_ino : 0;
}

std::size_t open_descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

class FrameSocketTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto ends = make_socket_pair();
    ASSERT_TRUE(ends.is_ok());
    left_ = FrameSocket(std::move(ends->first));
    right_ = FrameSocket(std::move(ends->second));
  }
  // Writes raw bytes as a peer without manners; with descriptors if there are any.
  void write_raw(BytesView bytes, const std::vector<int>& fds = {}) {
    iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    std::array<std::byte, CMSG_SPACE(sizeof(int) * 64)> control{};
    if (!fds.empty()) {
      message.msg_control = control.data();
      message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
      std::memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * fds.size());
    }
    ASSERT_EQ(::sendmsg(left_.fd(), &message, MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  static Bytes raw_frame(Header header, std::string_view body) {
    Bytes bytes;
    Writer writer(bytes);
    writer.write(header);
    writer.append(as_bytes(body));
    return bytes;
  }
  FrameSocket left_, right_;
};

TEST_F(FrameSocketTest, FramesAreTakenSomeAtATimeUntilOneIsRefused) {
  using Taken = FrameSocket::Taken;
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(left_.send(Bytes(1, static_cast<std::byte>(i))));
  std::vector<int> seen;
  const auto take = [&](const Frame& frame) {
    seen.push_back(static_cast<int>(frame.bytes.front()));
    return seen.size() < 80 ? Status::ok() : Status(Code::kCorrupt, "enough");
  };
  EXPECT_EQ(*right_.take_frames(take), Taken::kSome);
  EXPECT_LT(seen.size(), 80u);
  EXPECT_EQ(right_.take_frames(take).status().code(), Code::kCorrupt);
  EXPECT_EQ(seen.size(), 80u);
  seen.clear();
  EXPECT_EQ(*right_.take_frames(take), Taken::kAll);
  EXPECT_EQ(seen.front(), 80);
  EXPECT_EQ(seen.size(), 20u);
  left_.close();
  EXPECT_EQ(*right_.take_frames(take), Taken::kClosed);
}

TEST_F(FrameSocketTest, FramesArriveWholeAndInOrder) {
  for (const auto* text : {"one", "", "three"}) ASSERT_TRUE(left_.send(as_bytes(text)).is_ok());
  for (const auto* text : {"one", "", "three"}) {
    Frame frame;
    ASSERT_TRUE(right_.receive_within(frame, Deadline::after(kPatience)).is_ok());
    EXPECT_EQ(as_text(frame.bytes), text);
    EXPECT_TRUE(frame.fds.empty());
  }
  Frame frame;
  EXPECT_EQ(*right_.receive(frame), Receive::kNothing);
}

TEST_F(FrameSocketTest, AFrameInSingleBytesIsNothingUntilTheLast) {
  const Bytes raw = raw_frame({5, 0}, "hello");
  Frame frame;
  for (std::size_t i = 0; i < raw.size(); ++i) {
    EXPECT_EQ(*right_.receive(frame), Receive::kNothing) << i;
    write_raw(BytesView(raw).subspan(i, 1));
  }
  EXPECT_EQ(*right_.receive(frame), Receive::kFrame);
  EXPECT_EQ(as_text(frame.bytes), "hello");
}

TEST_F(FrameSocketTest, DescriptorsComeWithTheirOwnFrame) {
  std::vector<Fd> files;
  for (int i = 0; i < 3; ++i) {
    auto file = make_memfd("test", 4096);
    ASSERT_TRUE(file.is_ok());
    files.push_back(std::move(*file));
  }
  ASSERT_TRUE(left_.send(as_bytes("two"), {files[0].get(), files[1].get()}).is_ok());
  ASSERT_TRUE(left_.send(as_bytes("none")).is_ok());
  ASSERT_TRUE(left_.send(as_bytes("one"), {files[2].get()}).is_ok());
  const std::vector<std::vector<int>> expected = {{0, 1}, {}, {2}};
  for (const auto& indices : expected) {
    Frame frame;
    ASSERT_TRUE(right_.receive_within(frame, Deadline::after(kPatience)).is_ok());
    ASSERT_EQ(frame.fds.size(), indices.size());
    for (std::size_t i = 0; i < indices.size(); ++i) {
      EXPECT_EQ(inode(frame.fds[i].get()), inode(files[static_cast<std::size_t>(indices[i])].get()));
      EXPECT_NE(::fcntl(frame.fds[i].get(), F_GETFD) & FD_CLOEXEC, 0);
    }
  }
}

TEST_F(FrameSocketTest, ManyFramesOfRandomSizesSurviveAFullSocket) {
  const auto seed = test_seed();
  constexpr int kFrames = 400;
  const auto frame_of = [&](int i) {
    std::mt19937_64 random(seed + static_cast<unsigned>(i));
    Bytes bytes(i % 50 == 7 ? 300'000 : random() % 2000);
    for (auto& byte : bytes) byte = static_cast<std::byte>(random());
    return bytes;
  };
  std::thread sender([&] {
    for (int i = 0; i < kFrames; ++i) {
      std::vector<int> fds;
      if (i % 7 == 0) fds.push_back(STDIN_FILENO);
      EXPECT_TRUE(left_.send(frame_of(i), fds).is_ok());
      // Sometimes frames pile up behind a partial one.
      if (i % 16 == 0) {
        EXPECT_TRUE(left_.flush_all(Deadline::after(kPatience)).is_ok());
      }
    }
    EXPECT_TRUE(left_.flush_all(Deadline::after(kPatience)).is_ok());
  });
  for (int i = 0; i < kFrames; ++i) {
    Frame frame;
    const auto status = right_.receive_within(frame, Deadline::after(kPatience));
    EXPECT_TRUE(status.is_ok()) << status.message();
    if (!status.is_ok()) break;
    EXPECT_EQ(frame.bytes, frame_of(i)) << i;
    EXPECT_EQ(frame.fds.size(), i % 7 == 0 ? 1u : 0u);
  }
  sender.join();
}

TEST_F(FrameSocketTest, WhatWasSentBeforeTheEndArrivesThenTheEnd) {
  ASSERT_TRUE(left_.send(as_bytes("last words")).is_ok());
  left_.close();
  Frame frame;
  EXPECT_EQ(*right_.receive(frame), Receive::kFrame);
  EXPECT_EQ(as_text(frame.bytes), "last words");
  EXPECT_EQ(*right_.receive(frame), Receive::kClosed);
  EXPECT_EQ(right_.receive_within(frame, Deadline::never()).code(), Code::kPeerLost);
  EXPECT_EQ(right_.send(as_bytes("too late")).code(), Code::kPeerLost);
}

TEST_F(FrameSocketTest, APartOfAFrameAtTheEndIsTheEnd) {
  write_raw(raw_frame({100, 0}, "only this"));
  left_.close();
  Frame frame;
  EXPECT_EQ(right_.receive_within(frame, Deadline::never()).code(), Code::kPeerLost);
}

TEST_F(FrameSocketTest, AWaitForAFrameEndsAtItsDeadline) {
  Frame frame;
  EXPECT_EQ(right_.receive_within(frame, Deadline::after(std::chrono::milliseconds(5))).code(),
            Code::kDeadlineExceeded);
  ASSERT_TRUE(left_.send(as_bytes("later")).is_ok());
  EXPECT_TRUE(right_.receive_within(frame, Deadline::after(kPatience)).is_ok());
}

TEST_F(FrameSocketTest, HostileHeadersAreCorruptNotAllocated) {
  for (const Header header :
       {Header{FrameSocket::kMaxFrame + 1, 0}, Header{0xffffffff, 0xffffffff}, Header{1, FrameSocket::kMaxFds + 1}}) {
    SetUp();
    write_raw(raw_frame(header, "x"));
    Frame frame;
    auto outcome = right_.receive(frame);
    ASSERT_FALSE(outcome.is_ok());
    EXPECT_EQ(outcome.status().code(), Code::kCorrupt);
  }
}

TEST_F(FrameSocketTest, AFrameThatAnnouncesDescriptorsButBringsNoneIsCorrupt) {
  write_raw(raw_frame({4, 1}, "none"));
  Frame frame;
  auto outcome = right_.receive(frame);
  ASSERT_FALSE(outcome.is_ok());
  EXPECT_EQ(outcome.status().code(), Code::kCorrupt);
}

TEST_F(FrameSocketTest, DescriptorsThatNoFrameAnnouncesAreCorruptAndClosed) {
  auto file = make_memfd("test", 4096);
  ASSERT_TRUE(file.is_ok());
  const auto before = open_descriptors();
  write_raw(raw_frame({4, 0}, "four"), {file->get(), file->get()});
  Frame frame;
  auto outcome = right_.receive(frame);
  ASSERT_FALSE(outcome.is_ok());
  EXPECT_EQ(outcome.status().code(), Code::kCorrupt);
  right_ = FrameSocket();
  EXPECT_EQ(open_descriptors(), before - 1);
}

TEST_F(FrameSocketTest, MoreDescriptorsThanAFrameMayHaveAreAFailure) {
  write_raw(raw_frame({4, 16}, "many"), std::vector<int>(40, STDIN_FILENO));
  Frame frame;
  EXPECT_FALSE(right_.receive(frame).is_ok());
}

TEST_F(FrameSocketTest, FramesBeyondTheLimitsAreRefusedAtTheSender) {
  EXPECT_EQ(left_.send(as_bytes("x"), std::vector<int>(FrameSocket::kMaxFds + 1, STDIN_FILENO)).code(),
            Code::kInvalidArgument);
  EXPECT_EQ(left_.send(as_bytes("x"), {-1}).code(), Code::kSystem);
  // Neither left anything behind.
  ASSERT_TRUE(left_.send(as_bytes("fine")).is_ok());
  Frame frame;
  EXPECT_EQ(*right_.receive(frame), Receive::kFrame);
  EXPECT_EQ(as_text(frame.bytes), "fine");
}

// Who sends without pause, a frame that never ends in time, takes neither the thread nor the memory of who listens.
TEST_F(FrameSocketTest, AFloodIsReadInParts) {
  std::atomic<bool> stop{false};
  const Fd end(::dup(left_.fd()));
  std::thread flood([&] {
    struct {
      std::uint32_t size = FrameSocket::kMaxFrame, fds = 0;
    } header;
    ::send(end.get(), &header, sizeof header, MSG_NOSIGNAL);
    const std::vector<std::byte> bytes(1 << 20);
    while (!stop) ::send(end.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  });
  Frame frame;
  for (int i = 0; i < 20; ++i) {
    const auto begin = Clock::now();
    EXPECT_EQ(*right_.receive(frame), Receive::kNothing);
    EXPECT_LT(Clock::now() - begin, kPatience);
  }
  stop = true;
  right_.close();
  flood.join();
}

TEST_F(FrameSocketTest, FramesMayBeLimited) {
  right_.limit_frames(100);
  Frame frame;
  ASSERT_TRUE(left_.send(Bytes(100)));
  EXPECT_EQ(*right_.receive(frame), Receive::kFrame);
  ASSERT_TRUE(left_.send(Bytes(101)));
  EXPECT_EQ(right_.receive(frame).status().code(), Code::kCorrupt);
}

TEST(UnixListenerTest, AcceptsThePeerAndKnowsIt) {
  const auto path = (std::filesystem::temp_directory_path() / ("bsock-" + std::to_string(::getpid()))).string();
  auto listener = listen_unix(path);
  ASSERT_TRUE(listener.is_ok()) << listener.status().message();
  auto none = accept_unix(listener->get());
  ASSERT_TRUE(none.is_ok());
  EXPECT_FALSE(none->is_open());
  auto connected = connect_unix(path, Deadline::after(kPatience));
  ASSERT_TRUE(connected.is_ok());
  auto accepted = accept_unix(listener->get());
  ASSERT_TRUE(accepted.is_ok() && accepted->is_open());
  auto credentials = peer_credentials(accepted->get());
  ASSERT_TRUE(credentials.is_ok());
  EXPECT_EQ(credentials->pid, ::getpid());
  EXPECT_EQ(credentials->uid, ::geteuid());
  EXPECT_EQ(std::filesystem::status(path).permissions() & std::filesystem::perms(077), std::filesystem::perms::none);
  EXPECT_FALSE(is_left_behind(path));
  listener->reset();
  EXPECT_TRUE(is_left_behind(path));
  ::unlink(path.c_str());
  EXPECT_FALSE(is_left_behind(path));
  EXPECT_EQ(connect_unix(path, Deadline::after(kPatience)).status().system_error(), ENOENT);
  EXPECT_EQ(listen_unix("/" + std::string(200, 'x')).status().code(), Code::kInvalidArgument);
}

// Callers that nobody accepts: one more than a backlog of none has room for.
TEST(UnixListenerTest, WhoFindsNoRoomWaitsWithinBounds) {
  const std::string path = "@bsock-full-" + std::to_string(::getpid());
  auto listener = std::move(*listen_unix(path));
  ASSERT_EQ(::listen(listener.get(), 0), 0);
  std::vector<Fd> callers;
  const auto soon = [] { return Deadline::after(std::chrono::milliseconds(100)); };
  for (auto connected = connect_unix(path, soon()); connected; connected = connect_unix(path, soon())) {
    callers.push_back(std::move(*connected));
    ASSERT_LT(callers.size(), 10u);
  }
  const auto begin = Clock::now();
  const auto late = connect_unix(path, soon()).status();
  EXPECT_EQ(late.code(), Code::kDeadlineExceeded) << late.message();
  EXPECT_NE(late.message().find(path), std::string::npos) << late.message();
  EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(90));
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(5));
  const auto cancellation = *Cancellation::make();
  Wait cancelled;
  cancelled.cancellation = cancellation.get();
  cancellation->cancel();
  EXPECT_EQ(connect_unix(path, cancelled).status().code(), Code::kCancelled);
  auto waiting = std::async(std::launch::async, [&] { return connect_unix(path, Deadline::after(kPatience)); });
  EXPECT_TRUE(accept_unix(listener.get())->is_open());
  EXPECT_TRUE(waiting.get().is_ok());
}

}  // namespace
}  // namespace beeline::os
