// Arena on top of the preload library: this program runs itself again with LD_PRELOAD.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "beeline/memory/arena.h"
#include "beeline/memory/peer_arena.h"
#include "memory/sizes.h"

#ifdef BEELINE_PRELOAD_PATH

namespace beeline::memory {
namespace {

constexpr const char* kMarker = "BEELINE_TEST_PRELOADED";

// Runs the named test in a fresh process that has the library; true when it passed there.
bool passes_preloaded(const char* test, const char* setting = "1") {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::setenv(kMarker, "1", 1);
    ::setenv("LD_PRELOAD", BEELINE_PRELOAD_PATH, 1);
    ::setenv("BEELINE_PRELOAD", setting, 1);
    const std::string filter = std::string("--gtest_filter=") + test;
    ::execl("/proc/self/exe", "memory_tests", filter.c_str(), nullptr);
    ::_exit(127);
  }
  int status = 0;
  return ::waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
bool is_preloaded() {
  return std::getenv(kMarker) != nullptr;
}

TEST(PreloadedArena, PublishesWhatMallocGave) {
  if (!is_preloaded()) {
    EXPECT_TRUE(passes_preloaded("PreloadedArena.PublishesWhatMallocGave"));
    return;
  }
  auto arena = Arena::open({.capacity_bytes = 256 * kMiB, .quota_bytes = 64 * kMiB}).value();
  if (!arena->serves_malloc()) {
    // A sanitizer's allocator goes first.
    ASSERT_NE(arena->stands_aside(), nullptr);
    return;
  }
  EXPECT_EQ(arena->stands_aside(), nullptr);
  EXPECT_EQ(Arena::open({}).value(), arena);

  void* data = std::malloc(2 * kMiB);
  std::memset(data, 5, 2 * kMiB);
  const Range range{arena->offset_of(data, 2 * kMiB).value(), 2 * kMiB};
  const auto id = arena->publish({&range, 1}).value();
  auto peer = PeerArena::attach(os::Fd(::dup(arena->data_fd())), os::Fd(::dup(arena->control_fd())),
                                arena->add_holder(::getpid()).value())
                  .value();
  Lease lease = peer->acquire(id, {&range, 1}).value();
  std::free(data);  // marks it: the publication holds it
  void* other = std::malloc(2 * kMiB);
  std::memset(other, 6, 2 * kMiB);
  EXPECT_NE(other, data);
  EXPECT_EQ(lease.at(range.offset)[2 * kMiB - 1], std::byte{5});
  lease.done_reading();
  arena->retire(id);
  ASSERT_EQ(peer->clean().size(), 1u);
  EXPECT_EQ(arena->sweep(), 0u);
  void* again = std::malloc(2 * kMiB);
  EXPECT_EQ(again, data);
  std::free(again);
  std::free(other);
}

TEST(PreloadedArena, MemoryOutlivesTheArenaObject) {
  if (!is_preloaded()) {
    EXPECT_TRUE(passes_preloaded("PreloadedArena.MemoryOutlivesTheArenaObject"));
    return;
  }
  auto arena = Arena::open({.capacity_bytes = 256 * kMiB, .quota_bytes = 64 * kMiB}).value();
  auto* data = static_cast<char*>(std::malloc(2 * kMiB));
  arena.reset();
  std::memset(data, 1, 2 * kMiB);
  // Whoever opens it next publishes what was made before, under the new quota.
  arena = Arena::open({.quota_bytes = 32 * kMiB}).value();
  const auto offset = arena->offset_of(data, 2 * kMiB);
  ASSERT_EQ(offset.has_value(), arena->serves_malloc());
  EXPECT_EQ(arena->stats().heap.quota_bytes, 32 * kMiB);
  if (offset) {
    const Range range{*offset, 2 * kMiB};
    EXPECT_TRUE(arena->publish({&range, 1}).is_ok());
  }
  std::free(data);
}

TEST(PreloadedArena, SwitchedOffItHasAnArenaOfItsOwn) {
  if (!is_preloaded()) {
    EXPECT_TRUE(passes_preloaded("PreloadedArena.SwitchedOffItHasAnArenaOfItsOwn", "0"));
    return;
  }
  auto arena = Arena::open({.capacity_bytes = 256 * kMiB, .quota_bytes = 64 * kMiB}).value();
  EXPECT_FALSE(arena->serves_malloc());
  ASSERT_NE(arena->stands_aside(), nullptr);
  EXPECT_NE(std::string(arena->stands_aside()).find("BEELINE_PRELOAD=0"), std::string::npos);
  void* data = std::malloc(2 * kMiB);
  EXPECT_FALSE(arena->offset_of(data, 2 * kMiB).has_value());
  std::free(data);
  EXPECT_TRUE(arena->allocate(kMiB).is_ok());
}

}  // namespace
}  // namespace beeline::memory

#endif  // BEELINE_PRELOAD_PATH
