// What a consumer sees of a producer's arena: isolation, staleness, cleaning, hostile input.
#include "beeline/memory/peer_arena.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "beeline/memory/arena.h"
#include "beeline/os/memory_calls.h"
#include "beeline/os/pagemap.h"
#include "memory/sizes.h"

namespace beeline::memory {
namespace {

std::uint8_t byte_at(const std::byte* data) {
  return static_cast<std::uint8_t>(*data);
}

class PeerArenaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    arena_ = Arena::open({.capacity_bytes = 256 * kMiB, .quota_bytes = 64 * kMiB}).value();
    peer_ = attach();
  }

  std::shared_ptr<PeerArena> attach() {
    const std::uint32_t holder = arena_->add_holder(::getpid()).value();
    return PeerArena::attach(os::Fd(::dup(arena_->data_fd())), os::Fd(::dup(arena_->control_fd())), holder).value();
  }

  struct Published {
    std::byte* data;
    Range range;
    PublicationId id;
  };
  Published publish(std::size_t size, int fill) {
    std::byte* data = arena_->allocate(size).value();
    std::memset(data, fill, size);
    const Range range{arena_->offset_of(data, size).value(), size};
    return {data, range, arena_->publish({&range, 1}).value()};
  }
  Lease acquire(const Published& published) { return peer_->acquire(published.id, {&published.range, 1}).value(); }

  std::shared_ptr<Arena> arena_;
  std::shared_ptr<PeerArena> peer_;
};

TEST_F(PeerArenaTest, SeesThePublishedBytes) {
  const auto published = publish(3 * kMiB, 7);
  const Lease lease = acquire(published);
  EXPECT_EQ(std::memcmp(lease.at(published.range.offset), published.data, published.range.length), 0);
  EXPECT_EQ(lease.at(published.range.offset + 4 * kMiB), nullptr);
}

TEST_F(PeerArenaTest, ConsumersWritesStayItsOwn) {
  const auto published = publish(kMiB, 1);
  auto other = attach();
  Lease lease = acquire(published);
  Lease second = other->acquire(published.id, {&published.range, 1}).value();
  std::memset(lease.at(published.range.offset), 9, published.range.length);
  EXPECT_EQ(byte_at(published.data), 1);
  EXPECT_EQ(byte_at(second.at(published.range.offset)), 1);
  EXPECT_EQ(byte_at(lease.at(published.range.offset)), 9);
}

TEST_F(PeerArenaTest, SecondLiveFetchOfTheSameBytesIsIndependent) {
  const auto published = publish(kMiB, 1);
  Lease first = acquire(published);
  Lease second = acquire(published);
  *first.at(published.range.offset) = std::byte{5};
  EXPECT_EQ(byte_at(second.at(published.range.offset)), 1);
  *second.at(published.range.offset) = std::byte{6};
  EXPECT_EQ(byte_at(first.at(published.range.offset)), 5);
}

TEST_F(PeerArenaTest, TwoSmallTensorsInOnePageAreIndependent) {
  std::byte* data = arena_->allocate(4096).value();
  std::memset(data, 1, 4096);
  const std::uint64_t offset = arena_->offset_of(data, 4096).value();
  const Range left{offset, 100};
  const Range right{offset + 200, 100};
  const auto left_id = arena_->publish({&left, 1}).value();
  const auto right_id = arena_->publish({&right, 1}).value();
  Lease first = peer_->acquire(left_id, {&left, 1}).value();
  Lease second = peer_->acquire(right_id, {&right, 1}).value();
  *first.at(offset) = std::byte{5};
  first.done_reading();
  *second.at(right.offset) = std::byte{6};
  peer_->clean();
  EXPECT_EQ(byte_at(second.at(right.offset)), 6);
}

TEST_F(PeerArenaTest, TheLastLeaseOfARetiredPublicationSaysThatItsEndIsAwaited) {
  const auto kept = publish(kMiB, 1);
  Lease first = acquire(kept);
  EXPECT_FALSE(first.done_reading()) << "it is published yet: whoever retires it sees that nobody reads";

  const auto published = publish(kMiB, 1);
  Lease one = acquire(published);
  Lease two = acquire(published);
  arena_->retire(published.id);
  EXPECT_FALSE(one.done_reading()) << "the other one reads";
  EXPECT_TRUE(two.done_reading());
  EXPECT_FALSE(two.done_reading()) << "it has ended";
}

TEST_F(PeerArenaTest, CleanDropsWrittenPagesByEveryMethod) {
  const auto best = os::page_scan_method();
  for (const auto method : {best, os::PageScan::kPagemap, os::PageScan::kNone}) {
    os::limit_page_scan(method);
    const auto published = publish(kMiB, 1);
    Lease lease = acquire(published);
    std::byte* const at = lease.at(published.range.offset);
    std::memset(at + 8192, 9, 8192);
    EXPECT_TRUE(os::any_page_written(at, kMiB));
    lease.done_reading();
    EXPECT_TRUE(peer_->needs_cleaning());
    peer_->clean();
    EXPECT_FALSE(peer_->needs_cleaning());
    EXPECT_EQ(os::any_page_written(at, kMiB), method == os::PageScan::kNone);
    // The mapping shows the producer's bytes again, at the same place.
    std::memset(published.data, 3, kMiB);
    Lease again = acquire(published);
    EXPECT_EQ(again.at(published.range.offset), at);
    EXPECT_EQ(byte_at(again.at(published.range.offset) + 8192), 3);
  }
  os::limit_page_scan(best);
}

TEST_F(PeerArenaTest, FetchAfterAnUncleanedOneSeesTheFileNotTheOldWrites) {
  const auto published = publish(kMiB, 1);
  {
    Lease lease = acquire(published);
    *lease.at(published.range.offset) = std::byte{9};
  }
  Lease again = acquire(published);
  EXPECT_EQ(byte_at(again.at(published.range.offset)), 1);
}

TEST_F(PeerArenaTest, RetiredPublicationsAreStale) {
  const auto published = publish(kMiB, 1);
  arena_->retire(published.id);
  EXPECT_EQ(peer_->acquire(published.id, {&published.range, 1}).status().code(), Code::kStale);
  // The slot is reused with another generation; the old id stays stale.
  const auto next = publish(kMiB, 2);
  EXPECT_EQ(next.id.slot, published.id.slot);
  EXPECT_EQ(peer_->acquire(published.id, {&published.range, 1}).status().code(), Code::kStale);
  EXPECT_TRUE(peer_->acquire(next.id, {&next.range, 1}).is_ok());
}

TEST_F(PeerArenaTest, MemoryIsReusedOnlyAfterTheLeaseCameBackClean) {
  const auto published = publish(4 * kMiB, 1);
  Lease lease = acquire(published);
  arena_->retire(published.id);
  arena_->release(published.data);
  EXPECT_EQ(arena_->sweep(), 1u);
  std::byte* other = arena_->allocate(4 * kMiB).value();
  EXPECT_NE(other, published.data);
  EXPECT_EQ(arena_->holds(published.id).reading, 1u);
  lease.done_reading();
  EXPECT_EQ(arena_->holds(published.id).reading, 0u);
  EXPECT_EQ(arena_->holds(published.id).holding, 1u);
  EXPECT_EQ(arena_->sweep(), 1u);
  const auto returned = peer_->clean();
  ASSERT_EQ(returned.size(), 1u);
  EXPECT_EQ(returned[0], published.id);
  EXPECT_EQ(arena_->sweep(), 0u);
  EXPECT_EQ(arena_->allocate(4 * kMiB).value(), published.data);
}

TEST_F(PeerArenaTest, WhatIsMovedOutIsNoMoreLeasedAndItsMemoryIsReused) {
  const auto published = publish(4 * kMiB, 1);
  arena_->release(published.data);
  ASSERT_TRUE(arena_->keep(published.id));
  EXPECT_FALSE(arena_->keep(published.id)) << "by two at once";
  EXPECT_FALSE(peer_->is_moved_out(published.id));
  EXPECT_TRUE(arena_->move_out(published.id));
  EXPECT_TRUE(peer_->is_moved_out(published.id));
  EXPECT_FALSE(peer_->is_published(published.id));
  EXPECT_EQ(peer_->acquire(published.id, {&published.range, 1}).status().code(), Code::kStale);
  EXPECT_FALSE(arena_->keep(published.id));
  EXPECT_FALSE(arena_->move_out(published.id)) << "twice";
  EXPECT_EQ(arena_->allocate(4 * kMiB).value(), published.data);
  EXPECT_EQ(arena_->stats().publications, 0u);

  arena_->retire(published.id);
  EXPECT_FALSE(peer_->is_moved_out(published.id));
  EXPECT_EQ(arena_->sweep(), 0u);
  EXPECT_EQ(publish(kMiB, 2).id.slot, published.id.slot) << "its slot is free";
}

TEST_F(PeerArenaTest, WhatIsReadStaysWhereItIs) {
  const auto published = publish(4 * kMiB, 1);
  arena_->release(published.data);
  Lease lease = acquire(published);
  ASSERT_TRUE(arena_->keep(published.id));
  EXPECT_FALSE(arena_->move_out(published.id));
  arena_->let_go(published.id);
  EXPECT_FALSE(peer_->is_moved_out(published.id));
  EXPECT_EQ(byte_at(acquire(published).at(published.range.offset)), 1);
  lease.done_reading();
  peer_->clean();
  ASSERT_TRUE(arena_->keep(published.id));
  EXPECT_TRUE(arena_->move_out(published.id));
}

TEST_F(PeerArenaTest, WhatIsRetiredWhileItIsKeptKeepsItsMemoryUntilItIsLetGo) {
  const auto published = publish(4 * kMiB, 1);
  arena_->release(published.data);
  ASSERT_TRUE(arena_->keep(published.id));
  arena_->retire(published.id);
  EXPECT_NE(arena_->allocate(4 * kMiB).value(), published.data);
  EXPECT_FALSE(arena_->move_out(published.id));
  arena_->let_go(published.id);
  EXPECT_EQ(arena_->allocate(4 * kMiB).value(), published.data);
}

TEST_F(PeerArenaTest, ReadersAndWhoMovesOutNeverBothHaveTheMemory) {
  for (int round = 0; round < 300; ++round) {
    const auto published = publish(kMiB, 1);
    arena_->release(published.data);
    ASSERT_TRUE(arena_->keep(published.id));
    bool has_lease = false;
    std::thread reader([&] {
      auto lease = peer_->acquire(published.id, {&published.range, 1});
      has_lease = lease.is_ok();
      if (has_lease) {
        EXPECT_EQ(byte_at(lease->at(published.range.offset)), 1);
      }
    });
    const bool is_moved = arena_->move_out(published.id);
    if (is_moved) std::memset(published.data, 2, kMiB);
    arena_->let_go(published.id);
    reader.join();
    EXPECT_FALSE(is_moved && has_lease);
    peer_->clean();
    arena_->retire(published.id);
    EXPECT_EQ(arena_->sweep(), 0u);
  }
}

TEST_F(PeerArenaTest, AViewHoldsItsMemoryAndNeedsNoCleaning) {
  const auto published = publish(4 * kMiB, 1);
  auto view = peer_->acquire_view(published.id, published.range).value();
  EXPECT_EQ(std::memcmp(view.data, published.data, published.range.length), 0);
  auto again = peer_->acquire_view(published.id, {published.range.offset + 100, 50}).value();
  EXPECT_EQ(again.data, view.data + 100);
  again.hold.done_reading();
  EXPECT_FALSE(peer_->needs_cleaning());
  EXPECT_EQ(arena_->holds(published.id).reading, 1u);
  EXPECT_EQ(peer_->acquire_view(published.id, {256 * kMiB - 1, 2}).status().code(), Code::kInvalidArgument);
  arena_->retire(published.id);
  EXPECT_EQ(peer_->acquire_view(published.id, published.range).status().code(), Code::kStale);
  arena_->release(published.data);
  EXPECT_EQ(arena_->sweep(), 1u);
  view.hold.done_reading();
  EXPECT_TRUE(peer_->needs_cleaning()) << "its producer waits for word of it";
  EXPECT_EQ(peer_->clean(), std::vector{published.id});
  EXPECT_EQ(arena_->sweep(), 0u);
}

TEST_F(PeerArenaTest, SeveralLeasesOfOneProcessCountOnce) {
  const auto published = publish(kMiB, 1);
  Lease first = acquire(published);
  Lease second = acquire(published);
  EXPECT_EQ(arena_->holds(published.id).holding, 1u);
  first.done_reading();
  peer_->clean();
  EXPECT_EQ(arena_->holds(published.id).reading, 1u);
  second.done_reading();
  peer_->clean();
  EXPECT_EQ(arena_->holds(published.id).holding, 0u);
}

TEST_F(PeerArenaTest, DroppedHolderLosesItsLeases) {
  const auto published = publish(kMiB, 1);
  auto holder = arena_->add_holder(4711).value();
  auto dying = PeerArena::attach(os::Fd(::dup(arena_->data_fd())), os::Fd(::dup(arena_->control_fd())), holder).value();
  Lease lease = dying->acquire(published.id, {&published.range, 1}).value();
  Lease alive = acquire(published);
  arena_->retire(published.id);
  arena_->drop_holder(holder);
  EXPECT_EQ(arena_->holds(published.id).holding, 1u);
  alive.done_reading();
  peer_->clean();
  EXPECT_EQ(arena_->sweep(), 0u);
  EXPECT_EQ(arena_->add_holder(4712).value(), holder);
}

TEST_F(PeerArenaTest, RefusesHostileInput) {
  const auto published = publish(kMiB, 1);
  const std::uint64_t end = peer_->capacity_bytes();
  for (const Range range :
       {Range{end, 1}, Range{end - 1, 2}, Range{~0ull, ~0ull}, Range{1, ~0ull}, Range{~0ull - 4095, 4096}}) {
    EXPECT_EQ(peer_->acquire(published.id, {&range, 1}).status().code(), Code::kInvalidArgument);
  }
  EXPECT_EQ(peer_->acquire({kMaxPublications, 1}, {}).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(peer_->acquire({~0u, ~0u}, {}).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(peer_->acquire({published.id.slot, published.id.generation + 1}, {}).status().code(), Code::kStale);
  EXPECT_EQ(arena_->holds(published.id).holding, 0u);

  const auto attach_with = [&](os::Fd data, os::Fd control, std::uint32_t holder) {
    return PeerArena::attach(std::move(data), std::move(control), holder).status().code();
  };
  EXPECT_EQ(attach_with(os::Fd(::dup(arena_->data_fd())), os::Fd(::dup(arena_->control_fd())), kMaxHolders),
            Code::kInvalidArgument);
  EXPECT_EQ(attach_with(os::Fd(::dup(arena_->data_fd())), os::make_memfd("zeroes", 128 * kMiB).value(), 0),
            Code::kCorrupt);
  EXPECT_EQ(attach_with(os::make_memfd("short", 4096).value(), os::Fd(::dup(arena_->control_fd())), 0), Code::kCorrupt);
  EXPECT_EQ(attach_with(os::Fd(::dup(arena_->data_fd())), os::make_memfd("short", 4096).value(), 0), Code::kCorrupt);
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  EXPECT_EQ(attach_with(os::Fd(ends[0]), os::Fd(ends[1]), 0), Code::kCorrupt);
}

TEST_F(PeerArenaTest, ManyRangesUnorderedAndOverlapping) {
  std::byte* data = arena_->allocate(64 * 4096).value();
  for (int i = 0; i < 64; ++i) std::memset(data + i * 4096, i, 4096);
  const std::uint64_t offset = arena_->offset_of(data, 64 * 4096).value();
  std::vector<Range> ranges;
  for (int i = 63; i >= 0; i -= 2) ranges.push_back({offset + static_cast<std::uint64_t>(i) * 4096 - 100, 300});
  ranges.push_back({offset, 0});
  const auto id = arena_->publish(ranges).value();
  const Lease lease = peer_->acquire(id, ranges).value();
  for (const Range& range : ranges) {
    if (range.length == 0) continue;
    EXPECT_EQ(std::memcmp(lease.at(range.offset), data + (range.offset - offset), range.length), 0);
  }
}

// A range that was read whole is watched from then on: what is written later must still be found, each time.
TEST_F(PeerArenaTest, WritesToAWatchedRangeAreDroppedEachTime) {
  const auto published = publish(8 * kMiB, 4);
  std::byte* at = nullptr;
  {
    const Lease lease = acquire(published);
    at = lease.at(published.range.offset);
    EXPECT_EQ(std::memcmp(at, published.data, published.range.length), 0);
  }
  peer_->clean();
  for (int round = 1; round <= 3; ++round) {
    Lease lease = acquire(published);
    ASSERT_EQ(lease.at(published.range.offset), at);
    EXPECT_FALSE(os::any_page_written(at, published.range.length)) << "round " << round;
    for (std::size_t page = 3; page < 2000; page += 7) at[page * 4096 + 5] = std::byte{9};
    at[8 * kMiB - 1] = std::byte{9};
    EXPECT_TRUE(os::any_page_written(at, published.range.length));
    lease.done_reading();
    peer_->clean();
    std::memset(published.data, 10 + round, published.range.length);
    EXPECT_EQ(std::memcmp(at, published.data, published.range.length), 0) << "round " << round;
  }
}

// As after mlockall() in the program: its pages cannot be dropped.
TEST_F(PeerArenaTest, WritesToLockedMemoryAreNotSeenByTheNextFetch) {
  const auto published = publish(kMiB, 4);
  Lease lease = acquire(published);
  std::byte* const at = lease.at(published.range.offset);
  ASSERT_EQ(::mlock(at, kMiB), 0);
  std::memset(at, 9, kMiB);
  lease.done_reading();
  peer_->clean();
  const Lease again = acquire(published);
  ASSERT_EQ(again.at(published.range.offset), at);
  EXPECT_EQ(byte_at(at), 4);
  EXPECT_EQ(byte_at(at + kMiB - 1), 4);
}

TEST_F(PeerArenaTest, AWatchedRangeUnderAnotherPublication) {
  const auto published = publish(8 * kMiB, 4);
  {
    const Lease lease = acquire(published);
    EXPECT_EQ(std::memcmp(lease.at(published.range.offset), published.data, published.range.length), 0);
  }
  peer_->clean();
  const Range inner{published.range.offset + kMiB + 100, 3 * kMiB};
  const auto id = arena_->publish({&inner, 1}).value();
  Lease lease = peer_->acquire(id, {&inner, 1}).value();
  std::byte* const at = lease.at(inner.offset);
  std::memset(at, 9, inner.length);
  lease.done_reading();
  peer_->clean();
  EXPECT_FALSE(os::any_page_written(at - 100, 3 * kMiB));
  EXPECT_EQ(byte_at(at), 4);
}

// The bytes of a leased publication never change under the reader, whatever other threads do.
TEST_F(PeerArenaTest, ThreadsAcquireWhileTheProducerReuses) {
  constexpr int kRounds = 300;
  constexpr std::size_t kSize = 64 << 10;
  std::mutex mutex;
  Published current = publish(kSize, 1);
  std::atomic<bool> stop{false};
  std::atomic<int> reads{0};
  std::vector<std::thread> consumers;
  for (int i = 0; i < 3; ++i) {
    consumers.emplace_back([&] {
      while (!stop) {
        Published seen{};
        {
          const std::lock_guard guard(mutex);
          seen = current;
        }
        auto lease = peer_->acquire(seen.id, {&seen.range, 1});
        if (!lease) {
          EXPECT_EQ(lease.status().code(), Code::kStale);
          continue;
        }
        std::byte* const at = lease->at(seen.range.offset);
        const auto first = byte_at(at);
        for (std::size_t k = 0; k < kSize; k += 512) EXPECT_EQ(byte_at(at + k), first);
        *at = std::byte{0xee};
        ++reads;
        lease->done_reading();
        if (first % 2 == 0) peer_->clean();
      }
    });
  }
  for (int round = 0; round < kRounds || reads < 100; ++round) {
    const Published next = publish(kSize, 1 + round % 200);
    Published old{};
    {
      const std::lock_guard guard(mutex);
      old = std::exchange(current, next);
    }
    arena_->retire(old.id);
    arena_->release(old.data);
    arena_->sweep();
  }
  stop = true;
  for (auto& consumer : consumers) consumer.join();
  peer_->clean();
  arena_->retire(current.id);
  EXPECT_EQ(arena_->sweep(), 0u);
}

}  // namespace
}  // namespace beeline::memory
