// The path "nixl" over an emulator of that library: what is moved, and what a library that cannot take back a transfer
// does to nobody's memory. Both sides live in this process. Python's conformance suite has the library itself.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <thread>

#include "beeline/transport/nixl/library.h"
#include "beeline/transport/nixl/session.h"
#include "beeline/transport/nixl/transport.h"
#include "nixl_emulator.h"
#include "no_threads.h"
#include "patience.h"

namespace beeline::transport::nixl {
namespace {

using nixl_emulator::Mode;
using Reach = NixlOptions::Reach;
namespace fs = std::filesystem;

// Sets a variable of the environment for the time of a test.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
  ~Variable() { ::unsetenv(name_); }
  Variable(const Variable&) = delete;

 private:
  const char* name_;
};

void set_mode(Mode mode) {
  static const auto set = reinterpret_cast<nixl_emulator_set_mode_t>(
      ::dlsym(::dlopen(NIXL_EMULATOR_PATH, RTLD_NOW | RTLD_LOCAL), "nixl_emulator_set_mode"));
  set(mode);
}

nixl_emulator::Counts counts() {
  static const auto count = reinterpret_cast<nixl_emulator_counts_t>(
      ::dlsym(::dlopen(NIXL_EMULATOR_PATH, RTLD_NOW | RTLD_LOCAL), "nixl_emulator_counts"));
  return count();
}

// An owner with some regions, and the line by which its exporter is asked.
class Owner final : public OwnerLine {
 public:
  explicit Owner(const NixlOptions& options) : transport_(make(options)) {}

  // Registers [data, data + length), but for its last 16 bytes.
  Region add(std::byte* data, std::uint64_t length) {
    const memory::PublicationId id{++last_slot_, 1};
    auto& own = regions_[id.slot];
    own.extents = {{0, length - 16}};
    own.held = {nullptr, data, length, {}, own.extents, &writes_};
    Region region;
    region.id = id;
    region.length = length;
    region.address = reinterpret_cast<std::uintptr_t>(data);
    return region;
  }
  void undo(const Region& region) {
    regions_.erase(region.id.slot);
    transport_->exporter()->withdraw(region.id);
  }

  Result<Bytes> contact(std::string_view /*path*/, const os::Wait& /*wait*/) override {
    return transport_->exporter()->contact();
  }
  Result<Bytes> key(std::string_view /*path*/, const Region& region, Access access, const os::Wait& /*wait*/) override {
    const auto found = regions_.find(region.id.slot);
    if (found == regions_.end()) return Status(Code::kStale, "no such region");
    ++keys_;
    return transport_->exporter()->key(region.id, found->second.held, access);
  }
  Result<std::uint64_t> writes(const Region& region, const os::Wait& /*wait*/) override {
    if (!regions_.contains(region.id.slot)) return Status(Code::kStale, "no such region");
    return std::uint64_t{0};
  }

  [[nodiscard]] int keys() const { return keys_; }
  [[nodiscard]] const Transport& transport() const { return *transport_; }

 private:
  struct Own {
    std::vector<memory::Range> extents;
    RegionSource::Held held;
  };
  std::unique_ptr<Transport> transport_;
  std::map<std::uint32_t, Own> regions_;
  std::uint32_t last_slot_ = 0;
  std::atomic<int> keys_{0};
  std::atomic<std::uint64_t> writes_{0};
};

class NixlTest : public ::testing::Test {
 protected:
  NixlTest() {
    std::iota(reinterpret_cast<std::uint8_t*>(memory_.data()),
              reinterpret_cast<std::uint8_t*>(memory_.data() + memory_.size()), std::uint8_t{0});
    set_mode(Mode::kPrompt);
  }
  ~NixlTest() override { set_mode(Mode::kPrompt); }

  std::unique_ptr<Endpoint> connect() {
    auto endpoint = reader_->connect(facts_, patience());
    EXPECT_TRUE(endpoint.is_ok()) << endpoint.status().message();
    return std::move(*endpoint);
  }

  static constexpr std::uint64_t kSize = (std::uint64_t{3} << 20) + 16;
  const Variable library_{"BEELINE_NIXL_LIBRARY", NIXL_EMULATOR_PATH};
  const NixlOptions options_{{}, Reach::kAny};
  std::vector<std::byte> memory_ = std::vector<std::byte>(kSize);
  std::vector<std::byte> target_ = std::vector<std::byte>(kSize, std::byte{0xEE});
  Owner owner_{options_};
  const std::unique_ptr<Transport> reader_ = make(options_);
  PeerFacts facts_ = [this] {
    PeerFacts facts;
    facts.name = "owner";
    facts.owner = &owner_;
    return facts;
  }();
};

TEST_F(NixlTest, RunsOfEveryLayoutArriveAndNothingElseIsTouched) {
  const Region region = owner_.add(memory_.data(), memory_.size());
  const auto endpoint = connect();
  auto expected = target_;
  std::vector<transport::Run> runs;
  runs.push_back({&region, 5, target_.data() + 1, std::uint64_t{1} << 20});
  std::memcpy(expected.data() + 1, memory_.data() + 5, std::size_t{1} << 20);
  std::size_t at = std::size_t{3} << 19;
  for (std::size_t i = 0; i < 9000; ++i) {
    const transport::Run run{&region, i * 97, target_.data() + at, 1 + i % 7, 1 + i % 3, 50, 20};
    runs.push_back(run);
    for (std::size_t k = 0; k < run.count; ++k) {
      std::memcpy(expected.data() + at + k * 20, memory_.data() + run.offset + k * 50, run.length);
    }
    at += 80;
  }
  runs.push_back({&region, 0, target_.data(), 0});
  const auto status = endpoint->read(runs, patience());
  ASSERT_TRUE(status.is_ok()) << status.message();
  EXPECT_EQ(target_, expected);
  EXPECT_TRUE(endpoint->read(runs, patience()));
  EXPECT_EQ(owner_.keys(), 1);
}

TEST_F(NixlTest, AWriteFillsTheOwnersMemory) {
  const Region region = owner_.add(memory_.data(), memory_.size());
  const auto endpoint = connect();
  const auto before = memory_;
  const transport::Run run{&region, 7, target_.data(), kSize - 30};
  ASSERT_TRUE(endpoint->write({&run, 1}, patience()));
  EXPECT_EQ(std::count(memory_.begin() + 7, memory_.end() - 23, std::byte{0xEE}), kSize - 30);
  EXPECT_TRUE(std::equal(memory_.begin(), memory_.begin() + 7, before.begin()));
  EXPECT_TRUE(std::equal(memory_.end() - 23, memory_.end(), before.end() - 23));
}

TEST_F(NixlTest, WhatWasNotRegisteredIsNotReached) {
  const Region region = owner_.add(memory_.data(), memory_.size());
  const transport::Run run{&region, kSize - 16, target_.data(), 1};
  EXPECT_EQ(connect()->read({&run, 1}, patience()).code(), Code::kInvalidArgument);
}

TEST_F(NixlTest, ADeadlineEndsATransferAndWhatMovesLaterTouchesNothing) {
  const Region region = owner_.add(memory_.data(), memory_.size());
  const auto endpoint = connect();
  const transport::Run run{&region, 0, target_.data(), kSize - 16};
  set_mode(Mode::kHeld);
  const auto begin = Clock::now();
  const auto status = endpoint->read({&run, 1}, Deadline::after(std::chrono::milliseconds(50)));
  EXPECT_EQ(status.code(), Code::kDeadlineExceeded) << status.message();
  EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(50));
  EXPECT_GT(counts().under_way, 0u);
  set_mode(Mode::kPrompt);
  // Others go on beside what is still under way.
  std::vector<std::byte> other(kSize - 16);
  const transport::Run again{&region, 0, other.data(), kSize - 16};
  ASSERT_TRUE(endpoint->read({&again, 1}, patience()));
  EXPECT_EQ(std::memcmp(other.data(), memory_.data(), other.size()), 0);
  EXPECT_EQ(std::count(target_.begin(), target_.end(), std::byte{0xEE}), kSize);
}

TEST_F(NixlTest, ACancellationEndsATransfer) {
  const Region region = owner_.add(memory_.data(), memory_.size());
  const auto endpoint = connect();
  const transport::Run run{&region, 0, target_.data(), 1000};
  set_mode(Mode::kHeld);
  const auto cancellation = *os::Cancellation::make();
  os::Wait wait;
  wait.cancellation = cancellation.get();
  std::thread canceller([&] {
    while (counts().under_way == 0) std::this_thread::yield();
    cancellation->cancel();
  });
  EXPECT_EQ(endpoint->read({&run, 1}, wait).code(), Code::kCancelled);
  canceller.join();
}

TEST_F(NixlTest, ASignalEndsAWait) {
  const Region region = owner_.add(memory_.data(), memory_.size());
  const auto endpoint = connect();
  const transport::Run run{&region, 0, target_.data(), 1000};
  set_mode(Mode::kHeld);
  const auto interrupted = [] { return true; };
  os::Wait wait;
  wait.interrupted = interrupted;
  EXPECT_EQ(endpoint->read({&run, 1}, wait).code(), Code::kInterrupted);
}

TEST_F(NixlTest, WhatMovesLateNeitherReachesLocalMemoryNorStagingThatIsGone) {
  const Region region = owner_.add(memory_.data(), memory_.size());
  for (const bool ends : {false, true}) {
    auto endpoint = connect();
    const transport::Run run{&region, 0, target_.data(), kSize - 16};
    set_mode(Mode::kHeld);
    EXPECT_EQ(endpoint->read({&run, 1}, Deadline::after(std::chrono::milliseconds(20))).code(),
              Code::kDeadlineExceeded);
    if (ends) endpoint.reset();
    set_mode(Mode::kPrompt);
    endpoint.reset();
    EXPECT_EQ(std::count(target_.begin(), target_.end(), std::byte{0xEE}), kSize);
  }
}

TEST_F(NixlTest, AFailureCostsItsTransferAloneAndWhatItHadUnderWayTouchesNothing) {
  const Region region = owner_.add(memory_.data(), memory_.size());
  const auto endpoint = connect();
  const transport::Run run{&region, 0, target_.data(), kSize - 16};
  set_mode(Mode::kFailing);
  EXPECT_EQ(endpoint->read({&run, 1}, patience()).code(), Code::kSystem);
  set_mode(Mode::kPrompt);
  EXPECT_EQ(std::count(target_.begin(), target_.end(), std::byte{0xEE}), kSize);
  ASSERT_TRUE(endpoint->read({&run, 1}, patience()));
  EXPECT_EQ(std::memcmp(target_.data(), memory_.data(), kSize - 16), 0);
}

// A session with the owner's region loaded, and the strip that is read of it.
class GivenUpTest : public NixlTest {
 protected:
  // Gives up a transfer while nothing moves; what it holds is what is returned.
  std::weak_ptr<int> give_up() {
    auto hold = std::make_shared<int>(0);
    std::weak_ptr<int> held = hold;
    set_mode(Mode::kHeld);
    const auto status =
        session_->transfer(capi::kRead, {&strip_, 1}, Deadline::after(std::chrono::milliseconds(20)), std::move(hold));
    EXPECT_EQ(status.code(), Code::kDeadlineExceeded) << status.message();
    EXPECT_FALSE(held.expired());
    return held;
  }
  static bool ends(const std::weak_ptr<int>& held) {
    const auto deadline = Deadline::after(std::chrono::seconds(20));
    while (!held.expired() && !deadline.passed()) std::this_thread::yield();
    return held.expired();
  }

  const Region region_ = owner_.add(memory_.data(), memory_.size());
  const std::shared_ptr<Session> session_ =
      *Session::open(**open_library(find_library(options_)), Reach::kAny,
                     *unpack<Contact>(*owner_.contact({}, patience()), "a contact"));
  const Strip strip_ = [this] {
    const auto keys = unpack<std::vector<std::tuple<std::uint64_t, std::uint64_t, Bytes>>>(
        *owner_.key({}, region_, Access::kRead, patience()), "keys");
    const auto reached = *unpack<ExtentContact>(std::get<2>(keys->front()), "a key");
    const Extent extent{reached.address, kSize - 16, reached.metadata};
    EXPECT_TRUE(*session_->load({&extent, 1}));
    return Strip{target_.data(), reached.address, 1000};
  }();
};

TEST_F(GivenUpTest, AHoldIsKeptUntilWhatWasGivenUpIsQuiet) {
  const auto held = give_up();
  set_mode(Mode::kPrompt);
  EXPECT_TRUE(ends(held));
  EXPECT_EQ(target_.front(), std::byte{0xEE});
}

TEST_F(GivenUpTest, WithoutAThreadAHoldIsKeptUntilTheNextOneIsGivenUp) {
  const LimitedUser user;
  if (!user.is_so()) GTEST_SKIP() << "this process cannot become another user's, and root's threads have no limit";
  std::weak_ptr<int> first;
  {
    const NoThreads none;
    first = give_up();
  }
  set_mode(Mode::kPrompt);
  EXPECT_TRUE(session_->transfer(capi::kRead, {&strip_, 1}, patience(), nullptr));
  EXPECT_EQ(std::memcmp(target_.data(), memory_.data(), 1000), 0);
  EXPECT_FALSE(first.expired());
  const auto second = give_up();
  set_mode(Mode::kPrompt);
  EXPECT_TRUE(ends(first));
  EXPECT_TRUE(ends(second));
}

TEST_F(NixlTest, AnUndoneRegistrationIsStaleAndItsSuccessorReached) {
  const Region first = owner_.add(memory_.data(), memory_.size());
  const auto endpoint = connect();
  const transport::Run run{&first, 0, target_.data(), 100};
  ASSERT_TRUE(endpoint->read({&run, 1}, patience()));
  owner_.undo(first);
  EXPECT_EQ(endpoint->read({&run, 1}, patience()).code(), Code::kStale);
  // It lies where the first one lay, and is a byte shorter.
  const Region second = owner_.add(memory_.data(), memory_.size() - 1);
  const transport::Run later{&second, 0, target_.data(), kSize - 17};
  const auto status = endpoint->read({&later, 1}, patience());
  ASSERT_TRUE(status.is_ok()) << status.message();
  EXPECT_EQ(std::memcmp(target_.data(), memory_.data(), kSize - 17), 0);
}

TEST_F(NixlTest, RegistrationsThatOverlapAreReachedInTurn) {
  std::vector<Region> regions;
  for (std::uint64_t i = 0; i < 7; ++i) regions.push_back(owner_.add(memory_.data() + i, memory_.size() - 2 * i));
  const auto endpoint = connect();
  for (int round = 0; round < 3; ++round) {
    for (std::size_t i = 0; i < regions.size(); ++i) {
      std::ranges::fill(target_, std::byte{0xEE});
      const transport::Run run{&regions[i], 3, target_.data(), 5000};
      const auto status = endpoint->read({&run, 1}, patience());
      ASSERT_TRUE(status.is_ok()) << status.message();
      EXPECT_EQ(std::memcmp(target_.data(), memory_.data() + i + 3, 5000), 0);
    }
  }
  EXPECT_LE(counts().agents, 1u + 4u);
}

TEST_F(NixlTest, ManyThreadsShareAnEndpoint) {
  const Region region = owner_.add(memory_.data(), memory_.size());
  const auto endpoint = connect();
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      std::vector<std::byte> own(kSize - 16);
      const transport::Run run{&region, 0, own.data(), own.size()};
      for (int round = 0; round < 5; ++round) {
        good +=
            endpoint->read({&run, 1}, patience()).is_ok() && std::memcmp(own.data(), memory_.data(), own.size()) == 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 20);
}

TEST_F(NixlTest, EverythingIsUndoneAtTheEnd) {
  {
    Owner owner(options_);
    facts_.owner = &owner;
    const Region region = owner.add(memory_.data(), memory_.size());
    const auto endpoint = connect();
    const transport::Run run{&region, 0, target_.data(), 100};
    ASSERT_TRUE(endpoint->read({&run, 1}, patience()));
    ASSERT_TRUE(endpoint->write({&run, 1}, patience()));
    EXPECT_EQ(counts().agents, 2u);
    EXPECT_EQ(counts().registered, 2u);  // the region, once for both, and staging memory
    owner.undo(region);
    EXPECT_EQ(counts().registered, 1u);
  }
  EXPECT_EQ(counts().agents, 0u);
}

TEST_F(NixlTest, AnswersOfAnOwnerThatAreNoneAreRefused) {
  class Liar final : public OwnerLine {
   public:
    Result<Bytes> contact(std::string_view, const os::Wait&) override { return answer; }
    Result<Bytes> key(std::string_view, const Region&, Access, const os::Wait&) override {
      return Status(Code::kStale, "");
    }
    Result<std::uint64_t> writes(const Region&, const os::Wait&) override { return std::uint64_t{0}; }
    Bytes answer;
  } liar;
  facts_.owner = &liar;
  EXPECT_EQ(reader_->connect(facts_, patience()).status().code(), Code::kCorrupt);
  const auto good = *unpack<Contact>(*owner_.contact({}, patience()), "a contact");
  Contact other = good;
  other.format = 77;
  liar.answer = pack(other);
  EXPECT_EQ(reader_->connect(facts_, patience()).status().code(), Code::kUnsupported);
  other = good;
  other.version = "9.9.9";
  liar.answer = pack(other);
  EXPECT_EQ(reader_->connect(facts_, patience()).status().code(), Code::kUnsupported);
  other = good;
  other.name = "somebody else";
  liar.answer = pack(other);
  EXPECT_EQ(reader_->connect(facts_, patience()).status().code(), Code::kCorrupt);
  other = good;
  other.reach = static_cast<std::uint8_t>(Reach::kHost);
  liar.answer = pack(other);
  const auto refused = reader_->connect(facts_, patience()).status();
  EXPECT_EQ(refused.code(), Code::kUnsupported);
  EXPECT_NE(refused.message().find("its own host only"), std::string::npos) << refused.message();
  liar.answer = pack(good);
  EXPECT_TRUE(reader_->connect(facts_, patience()));
}

// A folder laid out as a wheel lays out its own.
class PlaceTest : public ::testing::Test {
 protected:
  PlaceTest() {
    char place[] = "/tmp/bnixlXXXXXX";
    site_ = ::mkdtemp(place);
    fs::create_directory(folder_ = site_ / ".nixl_cu12.mesonpy.libs");
    fs::create_symlink(NIXL_EMULATOR_PATH, folder_ / "libnixl_capi.so");
    fs::create_directory(site_ / "nixl_cu12-1.5.1.dist-info");
  }
  ~PlaceTest() override { fs::remove_all(site_); }

  fs::path site_, folder_;
};

TEST_F(PlaceTest, APackagesLibraryIsFoundWithItsVersion) {
  for (const fs::path& named : {folder_, folder_ / "libnixl_capi.so"}) {
    const Place place = find_library({named, Reach::kHost});
    EXPECT_TRUE(place.usable) << place.usable.message();
    EXPECT_EQ(place.version, "1.5.1");
    EXPECT_EQ(place.library, folder_ / "libnixl_capi.so");
  }
  EXPECT_EQ(check({folder_, Reach::kHost}).status().message(), "");
}

TEST_F(PlaceTest, AnotherVersionIsRefused) {
  fs::rename(site_ / "nixl_cu12-1.5.1.dist-info", site_ / "nixl_cu12-1.4.1.dist-info");
  const Place place = find_library({folder_, Reach::kHost});
  EXPECT_EQ(place.usable.code(), Code::kUnsupported);
  EXPECT_NE(place.usable.message().find("1.4.1"), std::string::npos) << place.usable.message();
  EXPECT_EQ(open_library(place).status().code(), Code::kUnsupported);
  fs::remove(site_ / "nixl_cu12-1.4.1.dist-info");
  EXPECT_EQ(find_library({folder_, Reach::kHost}).usable.code(), Code::kUnsupported);
}

TEST_F(PlaceTest, TheEnvironmentGoesBeforeAndIsTakenAtItsWord) {
  const Variable named("BEELINE_NIXL_LIBRARY", NIXL_EMULATOR_PATH);
  const Place place = find_library({folder_, Reach::kHost});
  EXPECT_TRUE(place.usable) << place.usable.message();
  EXPECT_EQ(place.library, NIXL_EMULATOR_PATH);
  const Variable nowhere("BEELINE_NIXL_LIBRARY", "/nowhere/libnixl_capi.so");
  EXPECT_NE(find_library({folder_, Reach::kHost}).usable.message().find("BEELINE_NIXL_LIBRARY"), std::string::npos);
}

TEST_F(PlaceTest, NothingAndWhatIsNoLibraryAreRefusedWithWhatToInstall) {
  const Place none = find_library({});
  EXPECT_NE(none.usable.message().find("pip install"), std::string::npos) << none.usable.message();
  fs::remove(folder_ / "libnixl_capi.so");
  std::ofstream(folder_ / "libnixl_capi.so") << "no library";
  const Place place = find_library({folder_, Reach::kHost});
  EXPECT_TRUE(place.usable);
  EXPECT_EQ(open_library(place).status().code(), Code::kUnsupported);
  EXPECT_EQ(check({folder_, Reach::kHost}).status().code(), Code::kUnsupported);
  EXPECT_EQ(make({})->exporter(), nullptr);
  const Region region;
  EXPECT_EQ(make({})->reaches({}, region).code(), Code::kUnsupported);
}

TEST_F(PlaceTest, TheEnvironmentOfUcxMayNarrowAndNotWiden) {
  const auto is_usable = [&](const char* value, Reach reach) {
    const Variable set("UCX_TLS", value);
    return find_library({folder_, reach}).usable.is_ok();
  };
  for (const char* value : {"sm", "cma,posix", "self"}) EXPECT_TRUE(is_usable(value, Reach::kHost)) << value;
  for (const char* value : {"", "tcp", "all", "sm,tcp", "^tcp", "rc"}) {
    EXPECT_FALSE(is_usable(value, Reach::kHost)) << value;
    EXPECT_TRUE(is_usable(value, Reach::kAny)) << value;
  }
  for (const char* value : {"rc", "rc,sm"}) EXPECT_TRUE(is_usable(value, Reach::kRdma)) << value;
  for (const char* value : {"tcp", "rc,tcp", "all", "^sm"}) EXPECT_FALSE(is_usable(value, Reach::kRdma)) << value;
}

}  // namespace
}  // namespace beeline::transport::nixl
