// The ring of records: wrap-around, a full ring, hostile positions, and a million records between two processes.
#include "beeline/ring/ring.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <random>
#include <thread>

#include "beeline/os/fd.h"
#include "seed.h"
#include "short_form.h"

namespace beeline::ring {
namespace {

using Peek = Consumer::Peek;

class RingTest : public ::testing::Test {
 protected:
  static constexpr std::size_t kCapacity = 1024;
  void SetUp() override { make(kCapacity); }
  void make(std::size_t capacity) {
    auto file = os::make_memfd("ring", ring_footprint(capacity));
    ASSERT_TRUE(file.is_ok());
    auto mapping =
        os::Mapping::map(file->get(), 0, ring_footprint(capacity), os::Access::kReadWrite, os::Sharing::kShared);
    ASSERT_TRUE(mapping.is_ok());
    memory_ = std::move(*mapping);
    producer_ = Producer::create(memory_.data(), capacity);
    auto consumer = Consumer::attach(memory_.data(), memory_.size());
    ASSERT_TRUE(consumer.is_ok());
    consumer_ = *consumer;
  }
  RingControl& control() { return *reinterpret_cast<RingControl*>(memory_.data()); }
  bool write(std::size_t size, unsigned fill, std::uint16_t type = 1) {
    std::byte* room = producer_.claim(size);
    if (room == nullptr) return false;
    std::memset(room, static_cast<int>(fill), size);
    producer_.commit(type, static_cast<std::uint16_t>(fill));
    return true;
  }
  os::Mapping memory_;
  Producer producer_;
  Consumer consumer_;
};

TEST_F(RingTest, ARecordIsVisibleOnlyOnceCommitted) {
  Record record{};
  EXPECT_EQ(consumer_.peek(record), Peek::kEmpty);
  std::byte* room = producer_.claim(5);
  ASSERT_NE(room, nullptr);
  std::memcpy(room, "hello", 5);
  EXPECT_EQ(consumer_.peek(record), Peek::kEmpty);
  producer_.commit(7, 3);
  ASSERT_EQ(consumer_.peek(record), Peek::kRecord);
  EXPECT_EQ(record.type, 7);
  EXPECT_EQ(record.flags, 3);
  EXPECT_EQ(as_text(record.payload), "hello");
  // Peeking again changes nothing.
  ASSERT_EQ(consumer_.peek(record), Peek::kRecord);
  consumer_.pop();
  EXPECT_EQ(consumer_.peek(record), Peek::kEmpty);
}

TEST_F(RingTest, AnEmptyRecordIsARecord) {
  ASSERT_TRUE(write(0, 9));
  Record record{};
  ASSERT_EQ(consumer_.peek(record), Peek::kRecord);
  EXPECT_TRUE(record.payload.empty());
}

TEST_F(RingTest, AFullRingRefusesUntilSpaceIsReleased) {
  int written = 0;
  while (write(56, 1)) ++written;
  EXPECT_EQ(written, static_cast<int>(kCapacity / 64));
  Record record{};
  ASSERT_EQ(consumer_.peek(record), Peek::kRecord);
  consumer_.pop();
  EXPECT_FALSE(write(56, 2)) << "popped, not released";
  EXPECT_FALSE(consumer_.release());
  EXPECT_TRUE(write(56, 2));
  EXPECT_FALSE(write(56, 2));
}

TEST_F(RingTest, AProducerThatAskedForSpaceIsToldOnce) {
  while (write(56, 1)) {
  }
  ASSERT_TRUE(producer_.request_space(56));
  Record record{};
  ASSERT_EQ(consumer_.peek(record), Peek::kRecord);
  consumer_.pop();
  EXPECT_TRUE(consumer_.release());
  EXPECT_FALSE(consumer_.release());
}

TEST_F(RingTest, SpaceThatAppearedMeanwhileNeedsNoBell) {
  while (write(56, 1)) {
  }
  Record record{};
  ASSERT_EQ(consumer_.peek(record), Peek::kRecord);
  consumer_.pop();
  EXPECT_FALSE(consumer_.release());
  EXPECT_FALSE(producer_.request_space(56));
  EXPECT_TRUE(write(56, 2));
}

TEST_F(RingTest, TheLargestRecordFitsWhereverTheRingStands) {
  for (std::size_t offset = 0; offset < kCapacity; offset += 8) {
    make(kCapacity);
    Record record{};
    // Brings the positions to `offset` with the ring empty.
    for (std::size_t at = 0; at < offset; at += 8) {
      ASSERT_TRUE(write(0, 0));
      ASSERT_EQ(consumer_.peek(record), Peek::kRecord);
      consumer_.pop();
      consumer_.release();
    }
    ASSERT_TRUE(write(max_record(kCapacity), 0xab)) << offset;
    ASSERT_EQ(consumer_.peek(record), Peek::kRecord);
    ASSERT_EQ(record.payload.size(), max_record(kCapacity));
    for (const auto byte : record.payload) ASSERT_EQ(byte, std::byte{0xab});
  }
}

TEST_F(RingTest, RandomRecordsAgreeWithAQueue) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  std::deque<std::pair<std::size_t, unsigned>> model;
  for (int step = 0; step < 100'000; ++step) {
    if (random() % 2 == 0) {
      const std::size_t size = random() % (max_record(kCapacity) + 1);
      const auto fill = static_cast<unsigned>(random() % 256);
      if (write(size, fill)) {
        model.emplace_back(size, fill);
      } else {
        ASSERT_FALSE(model.empty()) << "an empty ring takes any record";
      }
    } else {
      Record record{};
      if (model.empty()) {
        ASSERT_EQ(consumer_.peek(record), Peek::kEmpty);
        continue;
      }
      ASSERT_EQ(consumer_.peek(record), Peek::kRecord);
      ASSERT_EQ(record.payload.size(), model.front().first);
      ASSERT_EQ(record.flags, model.front().second);
      for (const auto byte : record.payload) ASSERT_EQ(std::to_integer<unsigned>(byte), model.front().second);
      consumer_.pop();
      consumer_.release();
      model.pop_front();
    }
  }
}

TEST_F(RingTest, AProducerAttachesWhereTheRingStands) {
  // Several times around, so that the positions lie beyond the capacity.
  Record record{};
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(write(100, 1));
    ASSERT_EQ(consumer_.peek(record), Peek::kRecord);
    consumer_.pop();
    consumer_.release();
  }
  auto second = Producer::attach(memory_.data(), memory_.size());
  ASSERT_TRUE(second.is_ok());
  producer_ = *second;
  int written = 0;
  while (written < 1000 && write(56, 5)) ++written;
  EXPECT_GE(written, static_cast<int>(kCapacity / 64) - 1);
  EXPECT_LE(written, static_cast<int>(kCapacity / 64));
  for (int i = 0; i < written; ++i) {
    ASSERT_EQ(consumer_.peek(record), Peek::kRecord);
    consumer_.pop();
  }
}

TEST_F(RingTest, MemoryThatIsNoRingIsRefused) {
  EXPECT_EQ(Consumer::attach(memory_.data(), kRingDataOffset - 1).status().code(), Code::kCorrupt);
  EXPECT_EQ(Consumer::attach(memory_.data(), memory_.size() - 1).status().code(), Code::kCorrupt);
  for (const std::uint64_t capacity :
       {std::uint64_t{0}, std::uint64_t{1000}, std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
    control().capacity = capacity;
    EXPECT_EQ(Consumer::attach(memory_.data(), memory_.size()).status().code(), Code::kCorrupt) << capacity;
  }
  control().capacity = kCapacity;
  control().magic ^= 1;
  EXPECT_EQ(Producer::attach(memory_.data(), memory_.size()).status().code(), Code::kCorrupt);
}

TEST_F(RingTest, PositionsThatCannotBeAreRefusedAtAttach) {
  control().tail.store(kCapacity + 8);
  EXPECT_EQ(Producer::attach(memory_.data(), memory_.size()).status().code(), Code::kCorrupt);
  control().tail.store(4);
  EXPECT_EQ(Producer::attach(memory_.data(), memory_.size()).status().code(), Code::kCorrupt);
  EXPECT_EQ(Consumer::attach(memory_.data(), memory_.size()).is_ok(), true) << "its head is fine; peek() judges tails";
  control().head.store(3);
  EXPECT_EQ(Consumer::attach(memory_.data(), memory_.size()).status().code(), Code::kCorrupt);
}

TEST_F(RingTest, CorruptTailsAndHeadersAreSeenNotFollowed) {
  Record record{};
  const auto peek_at_tail = [&](std::uint64_t tail) {
    auto consumer = Consumer::attach(memory_.data(), memory_.size());
    EXPECT_TRUE(consumer.is_ok());
    control().tail.store(tail);
    return consumer->peek(record);
  };
  EXPECT_EQ(peek_at_tail(kCapacity + 8), Peek::kCorrupt);
  EXPECT_EQ(peek_at_tail(12), Peek::kCorrupt);
  EXPECT_EQ(peek_at_tail(~std::uint64_t{7}), Peek::kCorrupt);
  auto* header = reinterpret_cast<RecordHeader*>(memory_.data() + kRingDataOffset);
  for (const std::uint32_t size : {9u, 64u, 0x7fffffffu, 0xffffffffu}) {
    *header = {size, 1, 0};
    EXPECT_EQ(peek_at_tail(16), Peek::kCorrupt) << size;
  }
  // A skip that leads beyond what was committed.
  *header = {0, 0, 0};
  EXPECT_EQ(peek_at_tail(16), Peek::kCorrupt);
}

TEST_F(RingTest, RandomBytesAreNeverFollowedOutsideTheRing) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  const std::byte* const begin = memory_.data() + kRingDataOffset;
  for (int round = 0; round < 5000; ++round) {
    for (std::size_t i = 0; i < kCapacity; i += 4) {
      const auto word = static_cast<std::uint32_t>(random() % 4 == 0 ? random() : random() % 64);
      std::memcpy(memory_.data() + kRingDataOffset + i, &word, sizeof word);
    }
    control().head.store((random() % 64) * 8);
    control().tail.store(control().head.load() + (random() % (kCapacity / 8 + 2)) * 8);
    auto consumer = Consumer::attach(memory_.data(), memory_.size());
    ASSERT_TRUE(consumer.is_ok());
    Record record{};
    int records = 0;
    while (consumer->peek(record) == Peek::kRecord) {
      ASSERT_GE(record.payload.data(), begin);
      ASSERT_LE(record.payload.data() + record.payload.size(), begin + kCapacity);
      ASSERT_LE(++records, static_cast<int>(kCapacity / 8));
      consumer->pop();
    }
  }
}

// One record of the stream between two sides: what it must be follows from its number.
std::uint32_t size_of(std::uint64_t number) {
  return static_cast<std::uint32_t>((number * 2654435761u >> 7) % 200);
}
std::uint64_t word_of(std::uint64_t number) {
  return number * 0x9e3779b97f4a7c15ull;
}

bool produce(Producer& producer, std::uint64_t count) {
  for (std::uint64_t number = 0; number < count; ++number) {
    const auto size = size_of(number) + 8;
    std::byte* room = producer.claim(size);
    while (room == nullptr) {
      if (producer.request_space(size)) ::sched_yield();
      room = producer.claim(size);
    }
    const auto word = word_of(number);
    std::memcpy(room, &word, 8);
    std::memset(room + 8, static_cast<int>(number & 0xff), size - 8);
    producer.commit(static_cast<std::uint16_t>(number % 65535 + 1), 0);
  }
  return true;
}

// The number of the first record that is not as it should be, or `count`.
std::uint64_t consume(Consumer& consumer, std::uint64_t count) {
  Record record{};
  for (std::uint64_t number = 0; number < count; ++number) {
    auto peek = consumer.peek(record);
    while (peek == Peek::kEmpty) {
      consumer.release();
      ::sched_yield();
      peek = consumer.peek(record);
    }
    std::uint64_t word = 0;
    if (peek != Peek::kRecord || record.payload.size() != size_of(number) + 8 || record.type != number % 65535 + 1) {
      return number;
    }
    std::memcpy(&word, record.payload.data(), 8);
    if (word != word_of(number)) return number;
    for (const auto byte : record.payload.subspan(8)) {
      if (std::to_integer<std::uint64_t>(byte) != (number & 0xff)) return number;
    }
    consumer.pop();
    if (number % 3 == 0) consumer.release();
  }
  consumer.release();
  return count;
}

TEST_F(RingTest, AMillionRecordsBetweenTwoProcesses) {
  make(4096);
  const std::uint64_t count = is_short() ? 100'000 : 1'000'000;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(produce(producer_, count) ? 0 : 1);
  EXPECT_EQ(consume(consumer_, count), count);
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(RingTest, RecordsBetweenTwoThreads) {
  make(4096);
  const std::uint64_t count = is_short() ? 50'000 : 300'000;
  std::thread producer([&] { produce(producer_, count); });
  EXPECT_EQ(consume(consumer_, count), count);
  producer.join();
}

TEST(RingLayoutTest, TheLayoutIsWhatPeersExpect) {
  // docs/wire_format.md: a change here is a new version of the format, with a new magic.
  EXPECT_EQ(sizeof(RingControl), 256u);
  EXPECT_EQ(offsetof(RingControl, capacity), 8u);
  EXPECT_EQ(offsetof(RingControl, tail), 64u);
  EXPECT_EQ(offsetof(RingControl, head), 128u);
  EXPECT_EQ(offsetof(RingControl, producer_waits), 192u);
  EXPECT_EQ(sizeof(RecordHeader), 8u);
  EXPECT_EQ(max_record(1024), 496u);
}

}  // namespace
}  // namespace beeline::ring
