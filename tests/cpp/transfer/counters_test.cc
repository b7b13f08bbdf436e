// Counters as their agent writes them and as any other process reads them: exact sums, whatever the threads, and
// refusals of files that are not theirs.
#include "beeline/transfer/counters.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <thread>

#include "beeline/transfer/agent.h"
#include "beeline/transfer/agent_file.h"
#include "patience.h"

namespace beeline::transfer {
namespace {

namespace fs = std::filesystem;

constexpr const char* kId = "0123456789abcdef0123456789abcdef";
constexpr const char* kPeer = "fedcba9876543210fedcba9876543210";
const Clock::time_point kThen{};

class CountersTest : public ::testing::Test {
 protected:
  static std::string make_folder() {
    char place[] = "/tmp/bcountXXXXXX";
    return ::mkdtemp(place);
  }
  void TearDown() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  [[nodiscard]] std::shared_ptr<Counters> make(const std::string& name = "owner") const {
    auto made = Counters::create(folder_, kId, name);
    EXPECT_TRUE(made.is_ok()) << made.status().message();
    EXPECT_TRUE((*made)->appear("beeline://owner?id=" + std::string(kId)));
    return std::move(*made);
  }
  static CountersReading read(const std::string& path) {
    auto reading = read_counters(path);
    EXPECT_TRUE(reading.is_ok()) << reading.status().message();
    return reading.is_ok() ? *reading : CountersReading{};
  }
  static std::uint64_t transfers(const CountersReading::Row& row) {
    return std::accumulate(row.latency.begin(), row.latency.end(), std::uint64_t{0});
  }
  static Bytes content(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const auto bytes = as_bytes(text);
    return {bytes.begin(), bytes.end()};
  }

  const std::string folder_ = make_folder();
};

TEST_F(CountersTest, SizesAndLatenciesFallIntoTheirClasses) {
  EXPECT_EQ(size_class(0), 0u);
  EXPECT_EQ(size_class(4095), 0u);
  EXPECT_EQ(size_class(4096), 1u);
  EXPECT_EQ(size_class(65536), 2u);
  EXPECT_EQ(size_class(1u << 20), 3u);
  EXPECT_EQ(size_class(16u << 20), 4u);
  EXPECT_EQ(size_class(~std::uint64_t{0}), 4u);
  EXPECT_EQ(latency_bucket(0), 0u);
  EXPECT_EQ(latency_bucket(1), 0u);
  EXPECT_EQ(latency_bucket(2), 1u);
  EXPECT_EQ(latency_bucket(1023), 9u);
  EXPECT_EQ(latency_bucket(1024), 10u);
  EXPECT_EQ(latency_bucket(~std::uint64_t{0}), kLatencyBuckets - 1);
}

TEST_F(CountersTest, AReaderSeesExactlyWhatWasCounted) {
  const auto counters = make();
  PeerCounters peer(counters, kPeer, "peer", {"shm", "tcp"});
  peer.moved(0, Operation::kFetch, 1000, kThen, Nanos(300));
  peer.moved(0, Operation::kFetch, 24, kThen, Nanos(-5));  // a clock that ran backwards took no time
  peer.moved(1, Operation::kPush, 1 << 20, kThen, Nanos(1024));
  peer.failed(1, Operation::kPush, 1 << 20, kThen, Code::kPeerLost, true);
  peer.failed(1, Operation::kPush, 1 << 20, kThen, Code::kStale, false);
  counters->numbers().refused = 7;
  counters->numbers().peers = 1;
  const auto reading = read(counters->path());
  EXPECT_EQ(reading.name, "owner");
  EXPECT_EQ(reading.id, kId);
  EXPECT_EQ(reading.pid, ::getpid());
  EXPECT_EQ(reading.address, "beeline://owner?id=" + std::string(kId));
  EXPECT_TRUE(reading.alive);
  EXPECT_EQ(reading.refused, 7u);
  EXPECT_EQ(reading.peers, 1u);
  EXPECT_EQ(reading.rows_lost, 0u);
  ASSERT_EQ(reading.rows.size(), 2u);
  const auto& fetched = reading.rows[0];
  EXPECT_EQ(fetched.peer_id, kPeer);
  EXPECT_EQ(fetched.peer_name, "peer");
  EXPECT_EQ(fetched.path, "shm");
  EXPECT_EQ(fetched.operation, Operation::kFetch);
  EXPECT_EQ(fetched.size_class, 0u);
  EXPECT_EQ(fetched.bytes, 1024u);
  EXPECT_EQ(fetched.nanoseconds, 300u);
  EXPECT_EQ(fetched.latency[8], 1u);
  EXPECT_EQ(fetched.latency[0], 1u);
  EXPECT_EQ(transfers(fetched), 2u);
  const auto& pushed = reading.rows[1];
  EXPECT_EQ(pushed.path, "tcp");
  EXPECT_EQ(pushed.operation, Operation::kPush);
  EXPECT_EQ(pushed.size_class, 3u);
  EXPECT_EQ(pushed.failures, 2u);
  EXPECT_EQ(pushed.failovers, 1u);
  EXPECT_EQ(pushed.latency[10], 1u);
}

TEST_F(CountersTest, ManyThreadsLoseNothing) {
  const auto counters = make();
  PeerCounters peer(counters, kPeer, "peer", {"shm", "cma"});
  constexpr std::uint64_t kEach = 20'000;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (std::uint64_t k = 0; k < kEach; ++k) peer.moved(k % 2, Operation::kFetch, k % 3, kThen, Nanos(k));
    });
  }
  // Whatever moment a reader takes, what it sees is whole.
  for (int i = 0; i < 50; ++i) EXPECT_LE(read(counters->path()).rows.size(), 2u);
  for (auto& thread : threads) thread.join();
  const auto reading = read(counters->path());
  ASSERT_EQ(reading.rows.size(), 2u);
  EXPECT_EQ(transfers(reading.rows[0]) + transfers(reading.rows[1]), 4 * kEach);
  EXPECT_EQ(reading.rows[0].nanoseconds + reading.rows[1].nanoseconds, 4 * kEach * (kEach - 1) / 2);
}

TEST_F(CountersTest, TheSameKeyIsTheSameRow) {
  const auto counters = make();
  PeerCounters(counters, kPeer, "peer", {"tcp"}).moved(0, Operation::kFetch, 1, kThen, Nanos(1));
  PeerCounters(counters, kPeer, "peer", {"tcp"}).moved(0, Operation::kFetch, 1, kThen, Nanos(1));  // connected anew
  const auto reading = read(counters->path());
  ASSERT_EQ(reading.rows.size(), 1u);
  EXPECT_EQ(reading.rows[0].bytes, 2u);
}

TEST_F(CountersTest, WhatFindsNoRowIsCountedTogether) {
  const auto counters = make();
  constexpr std::uint64_t kPeers = 2 * kMaxCounterRows;
  for (std::uint64_t i = 0; i < kPeers; ++i) {
    PeerCounters peer(counters, "peer" + std::to_string(i), "peer", {"tcp"});
    peer.moved(0, Operation::kFetch, 10, kThen, Nanos(5));
    peer.moved(0, Operation::kFetch, 10, kThen, Nanos(5));
  }
  const auto reading = read(counters->path());
  EXPECT_EQ(reading.rows.size(), kMaxCounterRows - 1);
  EXPECT_EQ(reading.rows_lost, kPeers - (kMaxCounterRows - 1));
  EXPECT_EQ(transfers(reading.rest), 2 * std::uint64_t{reading.rows_lost});
  EXPECT_EQ(reading.rest.bytes, 20 * std::uint64_t{reading.rows_lost});
  EXPECT_EQ(reading.rows.back().bytes, 20u);
}

// Sizes of files are limited as a full disk would do it, until it ends.
struct FullDisk {
  explicit FullDisk(rlim_t bytes) {
    ::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before);
    const rlimit limited{bytes, before.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limited);
  }
  ~FullDisk() { ::setrlimit(RLIMIT_FSIZE, &before); }
  rlimit before{};
};

TEST_F(CountersTest, AFullDiskCostsRowsAndNothingElse) {
  const auto counters = make();
  {
    const FullDisk full(sizeof(CountersHeader) + 33 * sizeof(CounterRow));
    for (int i = 0; i < 40; ++i) {
      PeerCounters peer(counters, "peer" + std::to_string(i), "peer", {"tcp"});
      peer.moved(0, Operation::kFetch, 10, kThen, Nanos(5));
    }
  }
  const auto reading = read(counters->path());
  EXPECT_EQ(reading.rows.size(), 31u);  // and row 0: what the file began with
  EXPECT_EQ(reading.rows_lost, 9u);
  EXPECT_EQ(reading.rest.bytes, 90u);
}

TEST_F(CountersTest, AFullDiskIsAnErrorThatLeavesNothing) {
  const FullDisk full(4096);
  const auto made = Counters::create(folder_, kId, "owner");
  EXPECT_EQ(made.status().system_error(), EFBIG) << made.status().message();
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(CountersTest, ADiskWithoutRoomForSpansIsAnErrorThatLeavesNothing) {
  const FullDisk full(100u << 10);
  const auto made = Counters::create(folder_, kId, "owner");
  EXPECT_EQ(made.status().system_error(), EFBIG) << made.status().message();
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(CountersTest, LongNamesAreCutBetweenCharacters) {
  std::string name(63, 'x');
  name += "\u00e9";  // two bytes: 65
  const auto counters = make(name);
  EXPECT_EQ(read(counters->path()).name, std::string(63, 'x'));
}

TEST_F(CountersTest, TheFileIsItsUsersAlone) {
  const auto counters = make();
  struct stat info{};
  ASSERT_EQ(::stat(counters->path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777u, 0600u);
}

TEST_F(CountersTest, ALiveFileIsKeptAndOneLeftBehindIsRemoved) {
  auto counters = make();
  const std::string path = counters->path();
  remove_if_left_behind(path);
  EXPECT_TRUE(fs::exists(path));
  EXPECT_TRUE(read(path).alive);
  EXPECT_TRUE(read(path).alive);  // a reader that came before changes nothing
  counters.reset();               // as if its process had been killed: nothing is removed
  EXPECT_FALSE(read(path).alive);
  remove_if_left_behind(path);
  EXPECT_FALSE(fs::exists(path));
  EXPECT_EQ(read_counters(path).status().code(), Code::kNotFound);
}

TEST_F(CountersTest, AForkedChildKeepsItAlive) {
  auto counters = make();
  const std::string path = counters->path();
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    char byte = 0;
    ::close(ends[1]);
    (void)!::read(ends[0], &byte, 1);
    ::_exit(0);
  }
  ::close(ends[0]);
  counters.reset();
  EXPECT_TRUE(read(path).alive);
  remove_if_left_behind(path);
  EXPECT_TRUE(fs::exists(path));
  ::close(ends[1]);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_FALSE(read(path).alive);
}

TEST_F(CountersTest, EveryShorterFileIsRefused) {
  const auto counters = make();
  PeerCounters peer(counters, kPeer, "peer", {"tcp"});
  peer.moved(0, Operation::kFetch, 1, kThen, Nanos(1));
  const Bytes whole = content(counters->path());
  const std::size_t needed = sizeof(CountersHeader) + 2 * sizeof(CounterRow);
  ASSERT_GE(whole.size(), needed);
  for (std::size_t size = 0; size < needed; size += 7) {
    const auto reading = decode_counters(BytesView(whole).first(size));
    EXPECT_EQ(reading.status().code(), Code::kCorrupt) << size;
  }
  EXPECT_TRUE(decode_counters(BytesView(whole).first(needed)).is_ok());
}

TEST_F(CountersTest, HostileHeadersAreRefused) {
  const auto counters = make();
  PeerCounters(counters, kPeer, "peer", {"tcp"}).moved(0, Operation::kFetch, 1, kThen, Nanos(1));
  const Bytes whole = content(counters->path());
  ASSERT_TRUE(decode_counters(whole).is_ok());
  const auto with = [&](std::size_t offset, std::uint32_t value) {
    Bytes changed = whole;
    std::memcpy(changed.data() + offset, &value, sizeof value);
    return decode_counters(changed).status();
  };
  EXPECT_NE(with(0, 1).message().find("BELcntr1"), std::string::npos);
  EXPECT_NE(with(8, 2).message().find("version 2"), std::string::npos);
  const std::size_t rows = offsetof(CountersHeader, numbers);
  const std::size_t row = sizeof(CountersHeader) + sizeof(CounterRow);
  for (const auto& [offset, value] : std::vector<std::pair<std::size_t, std::uint32_t>>{{12, 0},
                                                                                        {12, 513},
                                                                                        {16, ~0u},
                                                                                        {20, 0},
                                                                                        {20, ~0u},
                                                                                        {128, 4097},
                                                                                        {128, ~0u},
                                                                                        {rows, 0},
                                                                                        {rows, 1025},
                                                                                        {rows, ~0u},
                                                                                        {row + 112, 3},
                                                                                        {row + 112, 5u << 8}}) {
    EXPECT_EQ(with(offset, value).code(), Code::kCorrupt) << offset << " " << value;
  }
}

TEST_F(CountersTest, WhatIsNoFileIsRefusedWithoutWaiting) {
  const std::string pipe = folder_ + "/pipe.counters";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(read_counters(pipe).status().code(), Code::kInvalidArgument);
  const std::string link = folder_ + "/link.counters";
  fs::create_symlink("/etc/passwd", link);
  EXPECT_FALSE(read_counters(link).is_ok());
  const std::string folder = folder_ + "/folder.counters";
  fs::create_directory(folder);
  EXPECT_EQ(read_counters(folder).status().code(), Code::kInvalidArgument);
}

// Moves nothing; fails as it is told.
class FakeTransport final : public transport::Transport {
 public:
  FakeTransport(std::string name, Code code) : name_(std::move(name)), code_(code) {}
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] const transport::Capabilities& capabilities() const override { return capabilities_; }
  [[nodiscard]] Status reaches(const transport::PeerFacts&, const transport::Region&) const override {
    return Status::ok();
  }
  Result<std::unique_ptr<transport::Endpoint>> connect(const transport::PeerFacts&, const os::Wait&) const override {
    return std::unique_ptr<transport::Endpoint>(std::make_unique<FakeEndpoint>(code_));
  }

 private:
  struct FakeEndpoint final : transport::Endpoint {
    explicit FakeEndpoint(Code failure) : code(failure) {}
    Status read(std::span<const transport::Run>, const os::Wait&) override {
      return code == Code::kOk ? Status::ok() : Status(code, "it was told to fail");
    }
    Status write(std::span<const transport::Run> runs, const os::Wait& wait) override { return read(runs, wait); }
    const Code code;
  };
  const std::string name_;
  const Code code_;
  const transport::Capabilities capabilities_;
};

TEST_F(CountersTest, FailuresAndFailoversAreCountedWhereTheyHappened) {
  const auto counters = make();
  const auto paths_with = [&](Code first, const std::string& peer) {
    auto transports = std::make_shared<transport::Transports>();
    transports->push_back(std::make_unique<FakeTransport>("first", first));
    transports->push_back(std::make_unique<FakeTransport>("second", Code::kOk));
    transport::PeerFacts facts;
    facts.name = peer;
    auto paths = std::make_unique<Paths>(std::move(transports), std::move(facts), "");
    paths->count_in(counters, peer);
    return paths;
  };
  std::byte target{};
  transport::Region region;
  region.length = 1;
  const transport::Run run{&region, 0, &target, 1};
  EXPECT_TRUE(paths_with(Code::kSystem, "a")->read({&run, 1}, {}, patience()).is_ok());
  EXPECT_EQ(paths_with(Code::kStale, "b")->read({&run, 1}, {}, patience()).code(), Code::kStale);
  const auto reading = read(counters->path());
  ASSERT_EQ(reading.rows.size(), 3u);
  EXPECT_EQ(reading.rows[0].path, "first");
  EXPECT_EQ(reading.rows[0].failures, 1u);
  EXPECT_EQ(reading.rows[0].failovers, 1u);
  EXPECT_EQ(transfers(reading.rows[0]), 0u);
  EXPECT_EQ(reading.rows[0].bytes, 0u);
  EXPECT_EQ(reading.rows[1].path, "second");
  EXPECT_EQ(transfers(reading.rows[1]), 1u);
  EXPECT_EQ(reading.rows[1].failures, 0u);
  EXPECT_EQ(reading.rows[2].peer_id, "b");  // no other path would do better
  EXPECT_EQ(reading.rows[2].failures, 1u);
  EXPECT_EQ(reading.rows[2].failovers, 0u);
}

TEST_F(CountersTest, WhatNoPathWillDoIsCounted) {
  const auto counters = make();
  auto transports = std::make_shared<transport::Transports>();
  transports->push_back(std::make_unique<FakeTransport>("first", Code::kOk));
  Paths paths(std::move(transports), {}, "");
  paths.count_in(counters, kPeer);
  std::byte target{};
  transport::Region region;
  region.length = 1;
  const transport::Run run{&region, 0, &target, 1};
  EXPECT_EQ(paths.read({&run, 1}, {"second", 0}, patience()).code(), Code::kUnsupported);
  const auto reading = read(counters->path());
  ASSERT_EQ(reading.rows.size(), 1u);
  EXPECT_EQ(reading.rows[0].path, "none");
  EXPECT_EQ(reading.rows[0].failures, 1u);
}

TEST_F(CountersTest, AnAgentCountsWhatItMoves) {
  const auto open = [&](const std::string& name) {
    Agent::Options options;
    options.name = name;
    options.folder = folder_;
    options.arena = *memory::Arena::open({.capacity_bytes = 64u << 20, .quota_bytes = 64u << 20});
    return *Agent::open(options);
  };
  auto owner = open("owner");
  auto reader = open("reader");
  const Piece piece{*owner->arena()->allocate(1 << 20), 1 << 20};
  auto registration = *owner->regions()->add({&piece, 1}, nullptr);
  const transport::Region region = registration->regions().at(0);
  EXPECT_EQ(read(owner->stats().counters).registrations, 1u);
  const auto peer = *reader->peer(owner->address().text(), patience());
  std::vector<std::byte> target(1 << 20);
  const transport::Run run{&region, 0, target.data(), target.size()};
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(peer->read({&run, 1}, {"shm", 0}, patience()).is_ok());
  ASSERT_TRUE(peer->read({&run, 1}, {"cma", 0}, patience()).is_ok());
  ASSERT_TRUE(peer->map(region, 0, 5000).is_ok());
  const auto reading = read(reader->stats().counters);
  EXPECT_EQ(reading.address, reader->address().text());
  EXPECT_EQ(reading.peers, 1u);
  EXPECT_EQ(read(owner->stats().counters).visitors, 1u);
  ASSERT_EQ(reading.rows.size(), 3u);
  EXPECT_EQ(reading.rows[0].path, "shm");
  EXPECT_EQ(transfers(reading.rows[0]), 3u);
  EXPECT_EQ(reading.rows[0].bytes, 3u << 20);
  EXPECT_EQ(reading.rows[0].peer_id, owner->address().id);
  EXPECT_EQ(reading.rows[1].path, "cma");
  EXPECT_EQ(transfers(reading.rows[1]), 1u);
  EXPECT_EQ(reading.rows[2].operation, Operation::kMap);
  EXPECT_EQ(reading.rows[2].bytes, 5000u);
  registration.reset();
  EXPECT_EQ(read(owner->stats().counters).registrations, 0u);
  // What no path has to answer for.
  EXPECT_EQ(peer->read({&run, 1}, {}, patience()).code(), Code::kStale);
  EXPECT_EQ(peer->write({&run, 1}, {}, patience()).code(), Code::kStale);
  EXPECT_EQ(peer->map(region, 0, 5000).status().code(), Code::kStale);
  const auto failed = read(reader->stats().counters);
  ASSERT_EQ(failed.rows.size(), 6u);
  for (std::size_t i = 3; i < 6; ++i) {
    EXPECT_EQ(failed.rows[i].path, "none");
    EXPECT_EQ(static_cast<std::size_t>(failed.rows[i].operation), i - 3);
    EXPECT_EQ(failed.rows[i].failures, 1u);
    EXPECT_EQ(transfers(failed.rows[i]), 0u);
  }
  const std::string path = reader->stats().counters;
  reader.reset();
  EXPECT_FALSE(fs::exists(path));
}

TEST_F(CountersTest, AnAgentThatSharesNoMemoryHasAFileToo) {
  Agent::Options options;
  options.name = "remote";
  options.folder = folder_;
  options.share_memory = false;
  options.tcp = os::TcpAddress{"127.0.0.1", 0};
  options.token = "secret";
  const auto remote = *Agent::open(options);
  EXPECT_TRUE(remote->address().unix_path.empty());
  EXPECT_EQ(read(remote->stats().counters).address, remote->address().text());
  options.token = "guess";
  options.tcp.reset();
  const auto stranger = *Agent::open(options);
  EXPECT_FALSE(stranger->peer(remote->address().text(), patience()).is_ok());
  EXPECT_EQ(read(stranger->stats().counters).unreached, 1u);
  // The caller may hear of it first.
  const auto deadline = Deadline::after(std::chrono::seconds(20));
  while (read(remote->stats().counters).refused == 0 && !deadline.passed()) std::this_thread::yield();
  EXPECT_EQ(read(remote->stats().counters).refused, 1u);
}

TEST_F(CountersTest, WithoutAFolderAnAgentThatSharesNoMemoryDoesWithoutAFile) {
  Agent::Options options;
  options.name = "remote";
  options.folder = "/proc/no-such-folder";
  options.share_memory = false;
  const auto remote = Agent::open(options);
  ASSERT_TRUE(remote.is_ok()) << remote.status().message();
  EXPECT_TRUE((*remote)->stats().counters.empty());
  EXPECT_NE((*remote)->stats().uncounted.find("/proc/no-such-folder"), std::string::npos);
  options.share_memory = true;
  EXPECT_FALSE(Agent::open(options).is_ok());
}

TEST_F(CountersTest, ANewAgentRemovesWhatKilledOnesLeft) {
  (void)make();  // nobody holds it any more
  ASSERT_TRUE(fs::exists(folder_ + "/" + kId + ".counters"));
  ASSERT_TRUE(fs::exists(folder_ + "/" + kId + ".spans"));
  std::ofstream(folder_ + "/unfinished.counters.new") << "x";
  Agent::Options options;
  options.name = "next";
  options.folder = folder_;
  const auto next = *Agent::open(options);
  EXPECT_FALSE(fs::exists(folder_ + "/" + kId + ".counters"));
  EXPECT_FALSE(fs::exists(folder_ + "/" + kId + ".spans"));
  EXPECT_FALSE(fs::exists(folder_ + "/unfinished.counters.new"));
  EXPECT_TRUE(fs::exists(next->stats().counters));
}

}  // namespace
}  // namespace beeline::transfer
