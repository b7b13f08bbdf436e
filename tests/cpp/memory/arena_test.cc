// The producer's side by itself, and with consumers that are real processes.
#include "beeline/memory/arena.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "beeline/memory/peer_arena.h"
#include "beeline/os/unix_socket.h"
#include "memory/sizes.h"

namespace beeline::memory {
namespace {

TEST(IntervalSetTest, InsertsErasesAndFinds) {
  IntervalSet set;
  set.insert(10, 20);
  set.insert(30, 40);
  EXPECT_FALSE(set.overlaps(20, 30));
  EXPECT_TRUE(set.overlaps(19, 31));
  set.insert(20, 30);
  EXPECT_EQ(set.size(), 1u);
  EXPECT_TRUE(set.contains(10, 40));
  set.erase(12, 14);
  set.erase(35, 50);
  EXPECT_TRUE(set.contains(10, 12));
  EXPECT_TRUE(set.contains(14, 35));
  EXPECT_FALSE(set.overlaps(12, 14));
  EXPECT_FALSE(set.overlaps(35, 100));
  set.erase(0, 100);
  EXPECT_EQ(set.size(), 0u);
}

class ArenaTest : public ::testing::Test {
 protected:
  void SetUp() override { arena_ = Arena::open({.capacity_bytes = 256 * kMiB, .quota_bytes = 32 * kMiB}).value(); }
  std::shared_ptr<Arena> arena_;
};

TEST_F(ArenaTest, HandsOutItsDataReadOnly) {
  const char byte = 1;
  EXPECT_EQ(::pwrite(arena_->data_fd(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, EBADF);
  EXPECT_EQ(os::Mapping::map(arena_->data_fd(), 0, 4096, os::Access::kReadWrite, os::Sharing::kShared).status().code(),
            Code::kSystem);
  EXPECT_NE(::ftruncate(arena_->control_fd(), 0), 0);
}

TEST_F(ArenaTest, NamesTheQuotaWhenItIsExhausted) {
  std::byte* first = arena_->allocate(20 * kMiB).value();
  const Status status = arena_->allocate(20 * kMiB).status();
  EXPECT_EQ(status.code(), Code::kResourceExhausted);
  EXPECT_NE(status.message().find(std::to_string(20 * kMiB)), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("quota " + std::to_string(32 * kMiB)), std::string::npos) << status.message();
  arena_->release(first);
  EXPECT_TRUE(arena_->allocate(20 * kMiB).is_ok());
  EXPECT_EQ(arena_->allocate(0).status().code(), Code::kInvalidArgument);
}

TEST_F(ArenaTest, PublishesOnlyWhatIsAllocated) {
  std::byte* data = arena_->allocate(kMiB).value();
  const std::uint64_t offset = arena_->offset_of(data, kMiB).value();
  for (const Range range : {Range{offset, 2 * kMiB}, Range{offset + kMiB, 1}, Range{~0ull, 1}, Range{offset, ~0ull}}) {
    const Range ranges[] = {{offset, kMiB}, range};
    EXPECT_EQ(arena_->publish(ranges).status().code(), Code::kInvalidArgument);
  }
  // A refused publication pins nothing.
  EXPECT_EQ(arena_->stats().heap.pinned_bytes, 0u);
  arena_->release(data);
  EXPECT_EQ(arena_->stats().heap.used_bytes, 0u);
}

TEST_F(ArenaTest, PublicationsOfOneBlockPinItTogether) {
  std::byte* data = arena_->allocate(kMiB).value();
  const Range range{arena_->offset_of(data, kMiB).value(), kMiB};
  const auto first = arena_->publish({&range, 1}).value();
  const auto second = arena_->publish({&range, 1}).value();
  EXPECT_EQ(arena_->stats().publications, 2u);
  arena_->release(data);
  arena_->retire(first);
  arena_->retire(first);
  EXPECT_EQ(arena_->stats().heap.used_bytes, kMiB);
  arena_->retire(second);
  EXPECT_EQ(arena_->stats().heap.used_bytes, 0u);
  arena_->retire({12345, 1});
  EXPECT_EQ(arena_->stats().publications, 0u);
}

TEST_F(ArenaTest, SlotsRunOutWithATypedErrorAndComeBack) {
  std::vector<PublicationId> ids;
  for (std::uint32_t i = 0; i < kMaxPublications; ++i) ids.push_back(arena_->publish({}).value());
  EXPECT_EQ(arena_->publish({}).status().code(), Code::kResourceExhausted);
  arena_->retire(ids[777]);
  const auto again = arena_->publish({}).value();
  EXPECT_EQ(again.slot, ids[777].slot);
  EXPECT_NE(again.generation, ids[777].generation);
}

TEST_F(ArenaTest, HolderIndicesRunOutWithATypedErrorAndComeBack) {
  for (std::uint32_t i = 0; i < kMaxHolders; ++i)
    EXPECT_EQ(arena_->add_holder(1000 + static_cast<pid_t>(i)).value(), i);
  EXPECT_EQ(arena_->add_holder(1).status().code(), Code::kResourceExhausted);
  arena_->drop_holder(99);
  arena_->drop_holder(99);
  EXPECT_EQ(arena_->add_holder(1).value(), 99u);
  EXPECT_EQ(arena_->stats().holders, kMaxHolders);
}

TEST_F(ArenaTest, AForkedChildManagesNothing) {
  std::byte* data = arena_->allocate(kMiB).value();
  std::memset(data, 7, kMiB);
  const Range range{arena_->offset_of(data, kMiB).value(), kMiB};
  const auto id = arena_->publish({&range, 1}).value();
  const pid_t pid = ::fork();
  if (pid == 0) {
    const bool refused = !arena_->allocate(kMiB).is_ok() && !arena_->publish({&range, 1}).is_ok() &&
                         !arena_->offset_of(data, 1).has_value() && data[5] == std::byte{7};
    arena_->retire(id);
    arena_->release(data);
    arena_.reset();
    ::_exit(refused ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(arena_->stats().publications, 1u);
}

TEST_F(ArenaTest, WhatIsToBeFollowedIsDetachedByAFork) {
  const auto publish = [&](Arena::Content content) {
    std::byte* data = arena_->allocate(kMiB).value();
    const Range range{arena_->offset_of(data, kMiB).value(), kMiB};
    return std::pair(arena_->publish({&range, 1}, content).value(), range);
  };
  const auto peer =
      PeerArena::attach(os::duplicate(arena_->data_fd()).value(), os::duplicate(arena_->control_fd()).value(),
                        arena_->add_holder(::getpid()).value())
          .value();
  const auto [fixed, fixed_range] = publish(Arena::Content::kAsPublished);
  const auto [followed, range] = publish(Arena::Content::kAsWritten);
  EXPECT_FALSE(peer->is_detached(followed));
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(arena_->allocate(kMiB).is_ok() ? 1 : 0);
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(peer->is_detached(followed));
  EXPECT_FALSE(peer->is_detached(fixed));
  // The block stays private, whatever has become of the child.
  EXPECT_TRUE(peer->is_detached(arena_->publish({&range, 1}, Arena::Content::kAsWritten).value()));
  EXPECT_FALSE(peer->is_detached(arena_->publish({&range, 1}, Arena::Content::kAsPublished).value()));
  EXPECT_FALSE(peer->is_detached(publish(Arena::Content::kAsWritten).first));
}

TEST_F(ArenaTest, ForksAndPublicationsOfManyThreads) {
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      while (!done) {
        const auto allocated = arena_->allocate(kMiB);
        if (!allocated) continue;  // children hold what was freed until they have ended
        std::byte* const data = *allocated;
        const Range range{arena_->offset_of(data, kMiB).value(), kMiB};
        arena_->retire(arena_->publish({&range, 1}, Arena::Content::kAsWritten).value());
        arena_->release(data);
      }
    });
  }
  for (int i = 0; i < 30; ++i) {
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(0);
    int status = 0;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  }
  done = true;
  for (auto& thread : threads) thread.join();
}

// Consumers that are processes of their own, driven over a socket: one letter asks, one answers.
class ArenaProcessTest : public ArenaTest {
 protected:
  struct Task {
    std::uint32_t holder;
    PublicationId id;
    Range range;
  };
  struct Consumer {
    pid_t pid = -1;
    std::uint32_t holder = 0;
    os::FrameSocket socket;
  };

  // The child is forked before the arena has blocks, so that nothing is inherited: it gets descriptors.
  Consumer start() {
    auto [here, there] = os::make_socket_pair().value();
    Consumer consumer;
    consumer.pid = ::fork();
    if (consumer.pid == 0) {
      here.reset();
      ::_exit(consume(os::FrameSocket(std::move(there))));
    }
    consumer.socket = os::FrameSocket(std::move(here));
    consumer.holder = arena_->add_holder(consumer.pid).value();
    return consumer;
  }

  // Attaches, leases, and obeys: r(ead), w(rite), d(one), c(lean), q(uit).
  static int consume(os::FrameSocket socket) {
    const Deadline deadline = Deadline::after(std::chrono::seconds(60));
    os::Frame frame;
    if (!socket.receive_within(frame, deadline) || frame.fds.size() != 2) return 10;
    Task task{};
    std::memcpy(&task, frame.bytes.data(), sizeof task);
    auto peer = PeerArena::attach(std::move(frame.fds[0]), std::move(frame.fds[1]), task.holder);
    if (!peer) return 11;
    auto lease = (*peer)->acquire(task.id, {&task.range, 1});
    if (!lease) return 12;
    std::byte* const data = lease->at(task.range.offset);
    while (true) {
      if (!socket.receive_within(frame, deadline)) return 15;
      std::byte answer{};
      switch (static_cast<char>(frame.bytes[0])) {
        case 'r':
          answer = data[task.range.length - 1];
          break;
        case 'w':
          std::memset(data, 0x77, task.range.length);
          break;
        case 'd':
          lease->done_reading();
          break;
        case 'c':
          answer = std::byte((*peer)->clean().size());
          break;
        case 'q':
          return 0;
        default:
          return 13;
      }
      if (!socket.send({&answer, 1}) || !socket.flush_all(deadline)) return 14;
    }
    return 0;
  }

  void hand_over(Consumer& consumer, PublicationId id, Range range) {
    const Task task{consumer.holder, id, range};
    ASSERT_TRUE(consumer.socket.send({reinterpret_cast<const std::byte*>(&task), sizeof task},
                                     {arena_->data_fd(), arena_->control_fd()}));
  }
  int ask(Consumer& consumer, char what) {
    const Deadline deadline = Deadline::after(std::chrono::seconds(60));
    os::Frame frame;
    EXPECT_TRUE(consumer.socket.send({reinterpret_cast<const std::byte*>(&what), 1}));
    EXPECT_TRUE(consumer.socket.receive_within(frame, deadline));
    return frame.bytes.empty() ? -1 : static_cast<int>(frame.bytes[0]);
  }
  static void stop(Consumer& consumer) {
    const char quit = 'q';
    EXPECT_TRUE(consumer.socket.send({reinterpret_cast<const std::byte*>(&quit), 1}));
    int status = 0;
    ASSERT_EQ(::waitpid(consumer.pid, &status, 0), consumer.pid);
    EXPECT_EQ(status, 0);
  }
};

TEST_F(ArenaProcessTest, TwoProcessesReadAndWriteIndependently) {
  Consumer first = start();
  Consumer second = start();
  std::byte* data = arena_->allocate(3 * kMiB).value();
  std::memset(data, 0x11, 3 * kMiB);
  const Range range{arena_->offset_of(data, 3 * kMiB).value(), 3 * kMiB};
  const auto id = arena_->publish({&range, 1}).value();
  hand_over(first, id, range);
  hand_over(second, id, range);
  EXPECT_EQ(ask(first, 'r'), 0x11);
  ask(first, 'w');
  EXPECT_EQ(ask(first, 'r'), 0x77);
  EXPECT_EQ(ask(second, 'r'), 0x11);
  EXPECT_EQ(data[0], std::byte{0x11});
  EXPECT_EQ(arena_->holds(id).reading, 2u);

  arena_->release(data);
  arena_->retire(id);
  ask(first, 'd');
  EXPECT_EQ(arena_->holds(id).reading, 1u);
  EXPECT_EQ(ask(first, 'c'), 1);
  EXPECT_EQ(arena_->holds(id).holding, 1u);
  EXPECT_EQ(arena_->sweep(), 1u);
  ask(second, 'd');
  EXPECT_EQ(ask(second, 'c'), 1);
  EXPECT_EQ(arena_->sweep(), 0u);
  EXPECT_EQ(arena_->stats().heap.used_bytes, 0u);
  stop(first);
  stop(second);
}

TEST_F(ArenaProcessTest, AKilledConsumersHoldsAreDropped) {
  Consumer doomed = start();
  std::byte* data = arena_->allocate(3 * kMiB).value();
  std::memset(data, 0x11, 3 * kMiB);
  const Range range{arena_->offset_of(data, 3 * kMiB).value(), 3 * kMiB};
  const auto id = arena_->publish({&range, 1}).value();
  hand_over(doomed, id, range);
  EXPECT_EQ(ask(doomed, 'r'), 0x11);
  arena_->release(data);
  arena_->retire(id);
  ASSERT_EQ(::kill(doomed.pid, SIGKILL), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(doomed.pid, &status, 0), doomed.pid);
  EXPECT_EQ(arena_->sweep(), 1u);
  arena_->drop_holder(doomed.holder);
  EXPECT_EQ(arena_->sweep(), 0u);
  EXPECT_EQ(arena_->stats().heap.used_bytes, 0u);
}

}  // namespace
}  // namespace beeline::memory
