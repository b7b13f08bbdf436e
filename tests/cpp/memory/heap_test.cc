// The allocator against a model, under a quota, by threads, and across fork().
#include "beeline/memory/heap.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "memory/sizes.h"
#include "seed.h"

namespace beeline::memory {
namespace {

class HeapTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(heap_.open(1024 * kMiB, 256 * kMiB), 0); }
  void TearDown() override { heap_.close(); }

  std::uint64_t backed_bytes() const {
    struct stat info{};
    EXPECT_EQ(::fstat(heap_.fd(), &info), 0);
    return static_cast<std::uint64_t>(info.st_blocks) * 512;
  }
  std::byte* filled(std::size_t size, int value) {
    std::byte* data = heap_.allocate(size);
    EXPECT_NE(data, nullptr);
    std::memset(data, value, size);
    return data;
  }
  Heap heap_;
};

TEST(SizeClasses, RoundUpByLessThanAnEighth) {
  for (std::uint32_t pages = 1; pages < 100000; ++pages) {
    const std::uint32_t rounded = class_ceil(pages);
    ASSERT_GE(rounded, pages);
    ASSERT_LT(rounded - pages, pages / 8 + 1) << pages;
    ASSERT_EQ(class_ceil(rounded), rounded);
    ASSERT_LE(class_of(pages), class_of(rounded));
    ASSERT_EQ(class_of(pages) == class_of(rounded), pages == rounded) << pages;
  }
}

TEST(PageIndexTest, FindsPredecessorsLikeASet) {
  constexpr std::uint32_t kPages = 300000;
  std::vector<std::uint64_t> memory(PageIndex::words_for(kPages));
  PageIndex index;
  index.init(memory.data(), kPages);
  std::map<std::uint32_t, int> model;
  std::mt19937 random(7);
  for (int i = 0; i < 20000; ++i) {
    const std::uint32_t page = random() % kPages;
    if (random() % 3 != 0) {
      index.insert(page);
      model[page] = 1;
    } else if (model.erase(page) == 1) {
      index.erase(page);
    }
    const std::uint32_t probe = random() % kPages;
    const auto after = model.upper_bound(probe);
    ASSERT_EQ(index.at_or_before(probe), after == model.begin() ? PageIndex::kNone : std::prev(after)->first);
  }
}

TEST_F(HeapTest, AlignsAndReusesWarm) {
  std::byte* small = heap_.allocate(5000);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(small) % 4096, 0u);
  std::byte* large = filled(5 * kMiB, 1);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(large) % (2 * kMiB), 0u);
  std::byte* aligned = heap_.allocate(kMiB, 256 << 10);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(aligned) % (256 << 10), 0u);
  EXPECT_EQ(heap_.allocate(kMiB, 4 * kMiB), nullptr);
  const auto backed = backed_bytes();
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(heap_.release(large));
    large = filled(5 * kMiB, i);
  }
  EXPECT_EQ(backed_bytes(), backed);
  EXPECT_FALSE(heap_.release(large + 4096));
  EXPECT_TRUE(heap_.release(large));
  EXPECT_FALSE(heap_.release(large));
}

TEST_F(HeapTest, OffsetsHoldOnlyInsideOneAllocatedBlock) {
  std::byte* data = heap_.allocate(3 * 4096);
  const std::int64_t offset = heap_.offset_of(data, 3 * 4096);
  EXPECT_EQ(offset, data - heap_.base());
  EXPECT_EQ(heap_.offset_of(data + 100, 50), offset + 100);
  EXPECT_EQ(heap_.offset_of(data, 3 * 4096 + 1), -1);
  EXPECT_EQ(heap_.offset_of(data + 3 * 4096, 1), -1);
  EXPECT_EQ(heap_.offset_of(data, ~std::size_t{0}), -1);
  int local = 0;
  EXPECT_EQ(heap_.offset_of(&local, sizeof local), -1);
  heap_.release(data);
  EXPECT_EQ(heap_.offset_of(data, 1), -1);
}

TEST_F(HeapTest, QuotaHoldsAndIdleMemoryMakesRoom) {
  std::vector<std::byte*> blocks;
  while (std::byte* data = heap_.allocate(16 * kMiB)) {
    std::memset(data, 1, 16 * kMiB);
    blocks.push_back(data);
  }
  EXPECT_EQ(blocks.size(), 16u);
  EXPECT_EQ(heap_.allocate(4096), nullptr);
  for (std::byte* data : blocks) heap_.release(data);
  // No free piece is as large as this: warm pieces merge, or are given back for cold space.
  std::byte* whole = filled(240 * kMiB, 2);
  EXPECT_LE(backed_bytes(), 256 * kMiB);
  heap_.release(whole);
  EXPECT_GE(heap_.trim(64 * kMiB), 176 * kMiB);
  EXPECT_EQ(backed_bytes(), 64 * kMiB);
  EXPECT_EQ(heap_.trim(64 * kMiB), 0u);
  EXPECT_EQ(heap_.trim(), 64 * kMiB);
  EXPECT_EQ(backed_bytes(), 0u);
  EXPECT_EQ(heap_.stats().warm_free_bytes, 0u);
}

TEST_F(HeapTest, PinnedBlocksAreNotReusedNorTrimmed) {
  std::byte* data = filled(4 * kMiB, 1);
  const std::int64_t block = heap_.pin(static_cast<std::uint64_t>(heap_.offset_of(data, 1)) + 4096, 100);
  ASSERT_EQ(block, data - heap_.base());
  EXPECT_TRUE(heap_.release(data));
  EXPECT_EQ(heap_.pin(static_cast<std::uint64_t>(block), 1), -1);
  EXPECT_NE(heap_.allocate(4 * kMiB), data);
  heap_.trim();
  EXPECT_EQ(static_cast<int>(data[5000]), 1);
  heap_.unpin(static_cast<std::uint64_t>(block));
  EXPECT_EQ(heap_.stats().pinned_bytes, 0u);
  EXPECT_EQ(heap_.allocate(4 * kMiB), data);
}

TEST_F(HeapTest, GrowsIntoFreeNeighboursOnly) {
  std::byte* data = heap_.allocate(kMiB);
  EXPECT_TRUE(heap_.grow(data, 3 * kMiB));
  EXPECT_GE(heap_.usable_size(data), 3 * kMiB);
  std::memset(data, 1, 3 * kMiB);
  EXPECT_FALSE(heap_.grow(data, 300 * kMiB));  // quota
  std::byte* after = heap_.allocate(kMiB);
  ASSERT_GT(after, data);
  EXPECT_FALSE(heap_.grow(data, 2048 * kMiB));
  heap_.release(data);
  heap_.release(after);
  EXPECT_EQ(heap_.stats().used_bytes, 0u);
}

TEST_F(HeapTest, RandomUseAgreesWithAModel) {
  const auto seed = test_seed();
  struct Live {
    std::size_t size;
    std::uint8_t mark;
    bool pinned;
  };
  std::mt19937 random(seed);
  std::map<std::byte*, Live> live;
  std::map<std::uint64_t, std::size_t> zombies;  // released while pinned: block offset, size
  const auto overlaps = [&](std::byte* data, std::size_t size) {
    const auto after = live.lower_bound(data + size);
    if (after != live.begin() && std::prev(after)->first + std::prev(after)->second.size > data) return true;
    const auto start = static_cast<std::uint64_t>(data - heap_.base());
    const auto zombie = zombies.lower_bound(start + size);
    return zombie != zombies.begin() && std::prev(zombie)->first + std::prev(zombie)->second > start;
  };
  for (int step = 0; step < 100000; ++step) {
    const unsigned choice = random() % 16;
    const auto picked =
        live.empty() ? live.end() : std::next(live.begin(), random() % std::min<std::size_t>(live.size(), 40));
    if (choice < 7) {
      std::size_t size = 1 + random() % (std::size_t{1} << (random() % 24));
      std::byte* data = heap_.allocate(size);
      if (data == nullptr) continue;
      size = heap_.usable_size(data);
      ASSERT_FALSE(overlaps(data, size)) << "step " << step;
      const auto mark = static_cast<std::uint8_t>(random());
      data[0] = data[size - 1] = std::byte{mark};
      live[data] = {size, mark, false};
    } else if (choice < 13 && picked != live.end()) {
      ASSERT_EQ(static_cast<std::uint8_t>(picked->first[0]), picked->second.mark) << "step " << step;
      ASSERT_EQ(static_cast<std::uint8_t>(picked->first[picked->second.size - 1]), picked->second.mark);
      if (picked->second.pinned)
        zombies[static_cast<std::uint64_t>(picked->first - heap_.base())] = picked->second.size;
      ASSERT_TRUE(heap_.release(picked->first));
      live.erase(picked);
    } else if (choice == 13 && picked != live.end() && !picked->second.pinned) {
      const auto offset = heap_.offset_of(picked->first, picked->second.size);
      ASSERT_EQ(heap_.pin(static_cast<std::uint64_t>(offset), picked->second.size), offset);
      picked->second.pinned = true;
    } else if (choice == 14 && !zombies.empty()) {
      heap_.unpin(zombies.begin()->first);
      zombies.erase(zombies.begin());
    } else if (choice == 15 && picked != live.end()) {
      const std::size_t size = picked->second.size + random() % kMiB;
      if (heap_.grow(picked->first, size)) {
        const std::size_t grown = heap_.usable_size(picked->first);
        Live entry = picked->second;
        std::byte* const data = picked->first;
        live.erase(picked);
        ASSERT_FALSE(overlaps(data, grown)) << "step " << step;
        data[grown - 1] = std::byte{entry.mark};
        entry.size = grown;
        live[data] = entry;
      }
      if (random() % 200 == 0) heap_.trim();
    }
    const HeapStats stats = heap_.stats();
    ASSERT_LE(stats.used_bytes + stats.warm_free_bytes, stats.quota_bytes);
    ASSERT_EQ(stats.blocks, live.size());
  }
  EXPECT_LE(backed_bytes(), heap_.stats().used_bytes + heap_.stats().warm_free_bytes);
  for (const auto& [data, entry] : live) {
    ASSERT_TRUE(heap_.release(data));
    if (entry.pinned) heap_.unpin(static_cast<std::uint64_t>(data - heap_.base()));
  }
  for (const auto& [offset, size] : zombies) heap_.unpin(offset);
  heap_.trim();
  EXPECT_EQ(heap_.stats().used_bytes, 0u);
  EXPECT_EQ(backed_bytes(), 0u);
  // All of it is one piece again.
  ASSERT_NE(heap_.allocate(256 * kMiB), nullptr);
}

TEST_F(HeapTest, ThreadsShareIt) {
  std::vector<std::thread> threads;
  for (unsigned id = 0; id < 4; ++id) {
    threads.emplace_back([this, id] {
      std::mt19937 random(id);
      std::vector<std::pair<std::byte*, std::size_t>> mine;
      for (int i = 0; i < 3000; ++i) {
        if (mine.size() < 8) {
          const std::size_t size = 1 + random() % (256 << 10);
          std::byte* data = heap_.allocate(size);
          ASSERT_NE(data, nullptr);
          data[0] = data[size - 1] = std::byte(id);
          mine.emplace_back(data, size);
        } else {
          const auto [data, size] = mine[random() % mine.size()];
          ASSERT_EQ(data[0], std::byte(id));
          ASSERT_EQ(data[size - 1], std::byte(id));
          ASSERT_GE(heap_.offset_of(data, size), 0);
          std::swap(*std::find(mine.begin(), mine.end(), std::pair(data, size)), mine.back());
          mine.pop_back();
          ASSERT_TRUE(heap_.release(data));
        }
      }
      for (const auto& [data, size] : mine) heap_.release(data);
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(heap_.stats().used_bytes, 0u);
}

// Runs `body` in a child of fork() and returns its exit status.
template <typename Body>
pid_t in_child(Body body) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(body() ? 0 : 1);
  return pid;
}
bool succeeded(pid_t pid) {
  int status = 0;
  return ::waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

class HeapForkTest : public HeapTest {
 protected:
  void SetUp() override {
    HeapTest::SetUp();
    ASSERT_EQ(::pipe(go_), 0);
  }
  // The child waits for the parent's word; the parent says it by let_go().
  bool wait_in_child() {
    ::close(go_[1]);
    char byte = 0;
    return ::read(go_[0], &byte, 1) == 0;
  }
  void let_go() { ::close(go_[1]); }
  int go_[2];
};

TEST_F(HeapForkTest, BothSidesCopyOnWrite) {
  std::byte* data = filled(4 * kMiB, 1);
  const pid_t pid = in_child([&] {
    data[0] = std::byte{2};
    if (!wait_in_child()) return false;
    for (std::size_t i = 1; i < 4 * kMiB; ++i) {
      if (data[i] != std::byte{1}) return false;
    }
    return data[0] == std::byte{2};
  });
  std::memset(data + 1, 3, 4 * kMiB - 1);
  let_go();
  EXPECT_TRUE(succeeded(pid));
  EXPECT_EQ(data[0], std::byte{1});
}

TEST_F(HeapForkTest, FrozenMemoryIsReusedOnlyAfterTheChildEnded) {
  std::byte* data = filled(4 * kMiB, 1);
  const pid_t pid = in_child([&] {
    if (!wait_in_child()) return false;
    for (std::size_t i = 0; i < 4 * kMiB; ++i) {
      if (data[i] != std::byte{1}) return false;
    }
    return true;
  });
  EXPECT_EQ(heap_.stats().fork_children, 1u);
  heap_.release(data);
  std::byte* other = filled(4 * kMiB, 9);
  EXPECT_NE(other, data);
  heap_.release(other);
  heap_.trim();
  EXPECT_EQ(heap_.stats().used_bytes, 4 * kMiB);
  let_go();
  EXPECT_TRUE(succeeded(pid));
  heap_.trim();
  EXPECT_EQ(heap_.stats().used_bytes, 0u);
  EXPECT_EQ(heap_.stats().fork_children, 0u);
  // Shared again: what is written now reaches the file.
  std::byte* again = filled(4 * kMiB, 7);
  std::byte byte{};
  ASSERT_EQ(::pread(heap_.fd(), &byte, 1, again - heap_.base()), 1);
  EXPECT_EQ(byte, std::byte{7});
}

TEST_F(HeapForkTest, WrittenAfterForkIsNoLongerTheFilesContent) {
  std::byte* data = filled(4 * kMiB, 1);
  EXPECT_TRUE(succeeded(in_child([] { return true; })));
  const std::int64_t offset = data - heap_.base();
  EXPECT_EQ(heap_.offset_of(data, 4 * kMiB), offset);
  data[kMiB] = std::byte{2};
  EXPECT_EQ(heap_.offset_of(data, 4 * kMiB), -1);
  EXPECT_EQ(heap_.offset_of(data, kMiB), offset);
  std::byte* fresh = heap_.allocate(kMiB);
  EXPECT_EQ(heap_.offset_of(fresh, kMiB), fresh - heap_.base());
}

TEST_F(HeapForkTest, ChildServesItselfFromElsewhere) {
  std::byte* data = filled(4 * kMiB, 1);
  EXPECT_TRUE(succeeded(in_child([&] {
    return heap_.allocate(4096) == nullptr && !heap_.release(data) && heap_.usable_size(data) >= 4 * kMiB &&
           heap_.contains(data) && heap_.offset_of(data, 1) == -1 && data[100] == std::byte{1};
  })));
  EXPECT_TRUE(heap_.release(data));
}

TEST_F(HeapForkTest, SeveralForksEachHoldWhatTheySaw) {
  std::byte* early = filled(2 * kMiB, 1);
  const auto check = [&](std::byte* block, int value) {
    return [=, this] { return wait_in_child() && block[4096] == std::byte(value); };
  };
  const pid_t first = in_child(check(early, 1));
  heap_.release(early);
  std::byte* late = filled(2 * kMiB, 2);
  EXPECT_NE(early, late);
  const pid_t second = in_child(check(late, 2));
  std::memset(late, 5, 2 * kMiB);
  heap_.release(late);
  std::byte* third = filled(2 * kMiB, 9);
  EXPECT_NE(third, early);
  EXPECT_NE(third, late);
  let_go();
  EXPECT_TRUE(succeeded(first));
  EXPECT_TRUE(succeeded(second));
  heap_.trim();
  EXPECT_EQ(heap_.stats().used_bytes, 2 * kMiB);
}

}  // namespace
}  // namespace beeline::memory
