// UCX as a path: which of its transports may be used, how it is found, and transfers between two of its engines in this
// process. What needs the library is skipped where there is none.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "beeline/memory/arena.h"
#include "beeline/memory/peer_arena.h"
#include "beeline/transport/exposures.h"
#include "beeline/transport/ucx/library.h"
#include "beeline/transport/ucx/selection.h"
#include "beeline/transport/ucx/transport.h"
#include "patience.h"
#include "poison.h"

namespace beeline::transport::ucx {
namespace {

TEST(UcxSelectionTest, TheUsersListLeavesOutAndAddsNothing) {
  const struct {
    const char* tls;
    const char* left;
  } cases[] = {
      {nullptr, "posix,cma,xpmem,dc_mlx5"},
      {"", "posix,cma,xpmem,dc_mlx5"},
      {"all", "posix,cma,xpmem,dc_mlx5"},
      {"tcp,cma,rc,ud,self,sysv", "cma"},
      {"shm", "posix,cma,xpmem"},
      {"sm,ib", "posix,cma,xpmem,dc_mlx5"},
      {"mm", "posix,xpmem"},
      {"dc_x", "dc_mlx5"},
      {"\\posix,\\cma", "posix,cma"},
      {"tcp", ""},
      {"^cma", "posix,xpmem,dc_mlx5"},
      {"^sm", "dc_mlx5"},
      {"^tcp,ib", "posix,cma,xpmem"},
  };
  for (const auto& each : cases) {
    const auto selected = select({.tls = each.tls, .has_xpmem = true, .has_rdma = true, .allows_rdma = true});
    EXPECT_EQ(selected.list(","), each.left) << (each.tls != nullptr ? each.tls : "unset");
  }
}

TEST(UcxSelectionTest, WhoIsNotReachedHasAReason) {
  const auto plain = select({});
  EXPECT_EQ(plain.list(","), "posix,cma");
  EXPECT_EQ(plain.not_here, "");
  EXPECT_NE(plain.not_across.find("BEELINE_UCX_RDMA=1"), std::string::npos);
  // A NIC is not touched unless the user says so.
  EXPECT_EQ(select({.has_rdma = true}).list(","), "posix,cma");
  EXPECT_NE(select({.allows_rdma = true}).not_across.find("mlx5"), std::string::npos);
  EXPECT_EQ(select({.has_rdma = true, .allows_rdma = true}).not_across, "");
  const auto narrowed = select({.tls = "cma,rc", .has_rdma = true, .allows_rdma = true});
  EXPECT_NE(narrowed.not_here.find("UCX_TLS=cma,rc"), std::string::npos);
  EXPECT_NE(narrowed.not_across.find("UCX_TLS=cma,rc"), std::string::npos);
  EXPECT_EQ(select({.tls = "xpmem", .has_xpmem = true}).not_here, "");
}

TEST(UcxLibraryTest, OneThatIsNotThereOrNoneIsSaidSo) {
  ::setenv("BEELINE_UCX_LIBRARY", "/nowhere/libucp.so.0", 1);
  const auto absent = Library::open("libm.so.6");
  EXPECT_EQ(absent.status().code(), Code::kUnsupported);
  EXPECT_NE(absent.status().message().find("/nowhere/libucp.so.0"), std::string::npos) << absent.status().message();
  EXPECT_NE(absent.status().message().find("pip install"), std::string::npos);
  ::unsetenv("BEELINE_UCX_LIBRARY");
  const auto other = Library::open("libm.so.6");
  EXPECT_EQ(other.status().code(), Code::kUnsupported);
  EXPECT_NE(other.status().message().find("libm.so.6 is no UCX"), std::string::npos) << other.status().message();
  EXPECT_EQ(describe("libm.so.6").status().message(), other.status().message());
}

// Memory of an owner, whose exporter answers at once.
class UcxTest : public ::testing::Test, private OwnerLine {
 protected:
  void SetUp() override {
    if (const auto found = describe({}); !found) GTEST_SKIP() << found.status().message();
    ASSERT_TRUE(reader_->reaches(facts_, region_));
    auto connected = reader_->connect(facts_, patience());
    ASSERT_TRUE(connected.is_ok()) << connected.status().message();
    endpoint_ = std::move(*connected);
  }

  Result<Bytes> contact(std::string_view /*path*/, const os::Wait& /*wait*/) override {
    return owner_->exporter()->contact();
  }
  Result<Bytes> key(std::string_view /*path*/, const Region& region, Access access, const os::Wait& /*wait*/) override {
    ++questions_;
    if (is_garbling_) {  // as many extents, of keys that are too short
      Exposures exposures;
      return exposures.key(region.id, {nullptr, memory_.data(), memory_.size(), {}, extents_, nullptr}, access,
                           [](std::byte*, std::uint64_t) { return Exposures::Exposed{nullptr, Bytes(3)}; });
    }
    auto* const data = reinterpret_cast<std::byte*>(region.address);  // NOLINT: it is this process's
    const std::span<const memory::Range> extents = region.id == region_.id ? extents_ : page_;
    return owner_->exporter()->key(region.id, {nullptr, data, region.length, {}, extents, nullptr}, access);
  }
  Result<std::uint64_t> writes(const Region& /*region*/, const os::Wait& /*wait*/) override { return 0; }

  static std::vector<std::byte> make_memory() {
    std::vector<std::byte> memory(std::size_t{64} << 20);
    for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::byte>(i * 31 + (i >> 8));
    return memory;
  }

  static std::shared_ptr<memory::PeerArena> attach(memory::Arena& arena) {
    return *memory::PeerArena::attach(os::Fd(::dup(arena.data_fd())), os::Fd(::dup(arena.control_fd())),
                                      *arena.add_holder(::getpid()));
  }

  // All but the last 4096 bytes are registered, in two extents.
  std::vector<std::byte> memory_ = make_memory();
  std::vector<memory::Range> extents_{{0, 1000}, {1000, memory_.size() - 5096}};
  std::vector<memory::Range> page_{{0, 4096}};  // likewise, of other regions
  Region region_{{1, 1}, memory_.size(), reinterpret_cast<std::uintptr_t>(memory_.data()), 0, {}};
  std::atomic<int> questions_{0};
  bool is_garbling_ = false;
  std::shared_ptr<memory::Arena> arena_ = *memory::Arena::open({});
  PeerFacts facts_{.name = "owner",
                   .self_id = "reader",
                   .pid = ::getpid(),
                   .arena = attach(*arena_),
                   .tcp = {},
                   .token = {},
                   .owner = this};
  std::unique_ptr<Transport> owner_ = make({});
  std::unique_ptr<Transport> reader_ = make({});
  std::unique_ptr<Endpoint> endpoint_;
};

TEST_F(UcxTest, EveryByteArrivesAndNothingElseIsTouched) {
  for (const std::size_t size : {1u, 1000u, (1u << 20) + 3, 40u << 20}) {
    const std::uint64_t offset = size <= 1000 ? 0 : 1000;
    std::vector<std::byte> target(size + 2, kPoison);
    const transport::Run run{&region_, offset, target.data() + 1, size};
    const auto status = endpoint_->read({&run, 1}, patience());
    ASSERT_TRUE(status.is_ok()) << status.message();
    EXPECT_TRUE(std::equal(target.begin() + 1, target.end() - 1, memory_.begin() + static_cast<long>(offset))) << size;
    EXPECT_EQ(target.front(), kPoison);
    EXPECT_EQ(target.back(), kPoison);
  }
  EXPECT_EQ(questions_, 1);
}

TEST_F(UcxTest, ManyRunsOfBothExtentsArrive) {
  std::vector<std::byte> target(1 << 20, kPoison);
  std::vector<std::byte> expected = target;
  std::vector<transport::Run> runs;
  for (std::size_t i = 0; i < 5000; ++i) {
    const transport::Run run{&region_, i * 97, target.data() + i * 80, 1 + i % 7, 1 + i % 3, 50, 20};
    runs.push_back(run);
    for (std::size_t k = 0; k < run.count; ++k) {
      std::copy_n(memory_.begin() + static_cast<long>(run.offset + k * 50), run.length,
                  expected.begin() + static_cast<long>(i * 80 + k * 20));
    }
  }
  const auto status = endpoint_->read(runs, patience());
  ASSERT_TRUE(status.is_ok()) << status.message();
  EXPECT_EQ(target, expected);
}

TEST_F(UcxTest, WhatIsNotRegisteredIsRefused) {
  std::vector<std::byte> target(4096, kPoison);
  for (const std::uint64_t offset : {memory_.size() - 4096, memory_.size() - 4097}) {
    const transport::Run run{&region_, offset, target.data(), 2};
    EXPECT_EQ(endpoint_->read({&run, 1}, patience()).code(), Code::kInvalidArgument) << offset;
  }
  EXPECT_EQ(std::count(target.begin(), target.end(), kPoison), 4096);
}

TEST_F(UcxTest, WritesAreThereWhenTheyAreDone) {
  for (const std::size_t size : {std::size_t{1}, std::size_t{4096}, std::size_t{20} << 20}) {
    const std::vector<std::byte> source(size, static_cast<std::byte>(size % 251));
    const std::byte before = memory_[1000 + size];
    const transport::Run run{&region_, 1000, const_cast<std::byte*>(source.data()), size};
    const auto status = endpoint_->write({&run, 1}, patience());
    ASSERT_TRUE(status.is_ok()) << status.message();
    EXPECT_TRUE(std::equal(source.begin(), source.end(), memory_.begin() + 1000));
    EXPECT_EQ(memory_[1000 + size], before);
  }
}

TEST_F(UcxTest, WhoGivesUpIsNotWrittenToLaterAndTheNextTransferWorks) {
  std::vector<std::byte> given_up(60u << 20);
  std::vector<std::byte> target(given_up.size());
  const transport::Run run{&region_, 1000, given_up.data(), given_up.size()};
  const auto cancellation = *os::Cancellation::make();
  cancellation->cancel();
  os::Wait cancelled = patience();
  cancelled.cancellation = cancellation.get();
  for (const auto& [wait, code] : {std::pair{cancelled, Code::kCancelled},
                                   {os::Wait(Deadline::after(std::chrono::microseconds(100))), Code::kDeadlineExceeded},
                                   {os::Wait(Deadline::after(Nanos(-1))), Code::kDeadlineExceeded}}) {
    const auto status = endpoint_->read({&run, 1}, wait);
    EXPECT_EQ(status.code(), code) << status.message();
    std::fill(given_up.begin(), given_up.end(), kPoison);
    const transport::Run next{&region_, 1000, target.data(), target.size()};
    ASSERT_TRUE(endpoint_->read({&next, 1}, patience()));
    EXPECT_TRUE(std::equal(target.begin(), target.end(), memory_.begin() + 1000));
    EXPECT_EQ(std::count(given_up.begin(), given_up.end(), kPoison), static_cast<long>(given_up.size()));
  }
}

TEST_F(UcxTest, ThreadsThatGiveUpDoNotDisturbOthers) {
  constexpr std::size_t kSize = std::size_t{4} << 20;
  const auto read_often = [&](bool gives_up) {
    std::vector<std::byte> target(kSize);
    const transport::Run run{&region_, 1000, target.data(), kSize};
    for (int i = 0; i < 30; ++i) {
      std::fill(target.begin(), target.end(), kPoison);
      const auto status =
          endpoint_->read({&run, 1}, gives_up ? os::Wait(Deadline::after(std::chrono::microseconds(50))) : patience());
      if (gives_up) continue;
      ASSERT_TRUE(status.is_ok()) << status.message();
      ASSERT_TRUE(std::equal(target.begin(), target.end(), memory_.begin() + 1000));
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) threads.emplace_back(read_often, i % 3 == 0);
  for (std::thread& thread : threads) thread.join();
}

// Nobody takes anything out of the owner's queue of messages.
TEST_F(UcxTest, ManyEndpointsOneAfterTheOtherLeaveNothingAtTheOwner) {
  std::byte value{};
  const transport::Run run{&region_, 0, &value, 1};
  for (int i = 0; i < 300; ++i) {
    auto endpoint = reader_->connect(facts_, patience());
    ASSERT_TRUE(endpoint.is_ok()) << endpoint.status().message();
    value = static_cast<std::byte>(i);
    const auto status = (*endpoint)->write({&run, 1}, patience());
    ASSERT_TRUE(status.is_ok()) << i << ": " << status.message();
    ASSERT_EQ(memory_[0], value);
  }
}

TEST_F(UcxTest, MemoryThatIsGoneIsAnErrorAndTheNextTransferWorks) {
  void* const page = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const Region other{{2, 1}, 4096, reinterpret_cast<std::uintptr_t>(page), Region::kOutsideArena, {}};
  std::vector<std::byte> target(4096);
  const transport::Run run{&other, 0, target.data(), 4096};
  ASSERT_TRUE(endpoint_->read({&run, 1}, patience()));
  ::munmap(page, 4096);
  for (const auto& status : {endpoint_->read({&run, 1}, patience()), endpoint_->write({&run, 1}, patience())}) {
    EXPECT_EQ(status.code(), Code::kSystem);
    EXPECT_NE(status.message().find("UCX says"), std::string::npos) << status.message();
  }
  const transport::Run next{&region_, 1000, target.data(), 4096};
  ASSERT_TRUE(endpoint_->read({&next, 1}, patience()));
  EXPECT_TRUE(std::equal(target.begin(), target.end(), memory_.begin() + 1000));
}

TEST_F(UcxTest, AGarbledKeyIsRefused) {
  is_garbling_ = true;
  std::vector<std::byte> target(8, kPoison);
  const transport::Run run{&region_, 0, target.data(), 8};
  EXPECT_EQ(endpoint_->read({&run, 1}, patience()).code(), Code::kCorrupt);
}

}  // namespace
}  // namespace beeline::transport::ucx
