// Agents that fetch from each other by every path that this machine has. Both live in this process: the kernel and the
// sockets between them are the real ones, NIXL is an emulator. Destinations are poisoned first.
#include "beeline/transfer/agent.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <future>
#include <numeric>

#include "beeline/transfer/fetch.h"
#include "beeline/transport/builtin.h"
#include "patience.h"
#include "poison.h"

namespace beeline::transfer {
namespace {

using transport::Region;

class AgentTest : public ::testing::TestWithParam<const char*> {
 protected:
  static std::string make_folder() {
    char place[] = "/tmp/bagentsXXXXXX";
    return ::mkdtemp(place);
  }
  static void SetUpTestSuite() { ::setenv("BEELINE_NIXL_LIBRARY", NIXL_EMULATOR_PATH, 1); }
  void SetUp() override {
    const char* const parameter = ::testing::UnitTest::GetInstance()->current_test_info()->value_param();
    if (parameter == nullptr || std::string_view(parameter).find("ucx") == std::string_view::npos) return;
    if (const auto found = transport::describe_ucx({}); !found) GTEST_SKIP() << found.status().message();
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  std::shared_ptr<Agent> open(const std::string& name, bool share_memory = true) const {
    Agent::Options options;
    options.name = name;
    options.folder = folder_;
    options.share_memory = share_memory;
    options.tcp = os::TcpAddress{"127.0.0.1", 0};
    options.token = "secret";
    options.arena = *memory::Arena::open({.capacity_bytes = 256u << 20, .quota_bytes = 256u << 20});
    auto agent = Agent::open(options);
    EXPECT_TRUE(agent.is_ok()) << agent.status().message();
    return std::move(*agent);
  }

  // Bytes of the agent's arena, counted up from 0.
  static Piece fill(Agent& agent, std::size_t size) {
    const Piece piece{*agent.arena()->allocate(size), size};
    for (std::size_t i = 0; i < size; ++i) piece.data[i] = static_cast<std::byte>(i * 31 + (i >> 8));
    return piece;
  }
  static std::shared_ptr<Registration> add(Agent& agent, std::vector<Piece> pieces) {
    auto added = agent.regions()->add(pieces, nullptr);
    EXPECT_TRUE(added.is_ok()) << added.status().message();
    return std::move(*added);
  }
  static std::shared_ptr<Peer> meet(Agent& from, Agent& to) {
    auto peer = from.peer(to.address().text(), patience());
    EXPECT_TRUE(peer.is_ok()) << peer.status().message();
    return std::move(*peer);
  }
  [[nodiscard]] Requirement by_path() const { return {GetParam(), 0}; }

  const std::string folder_ = make_folder();
  std::shared_ptr<Agent> owner_ = open("owner");
  std::shared_ptr<Agent> reader_ = open("reader");
};

TEST_P(AgentTest, AWholeRegionArrives) {
  for (const std::size_t size : {std::size_t{1}, std::size_t{1000}, std::size_t{1} << 20, (std::size_t{9} << 20) + 5}) {
    const Piece source = fill(*owner_, size);
    const auto registration = add(*owner_, {source});
    std::vector<std::byte> target(size + 2, kPoison);
    const Region region = registration->regions().at(0);
    const transport::Run run{&region, 0, target.data() + 1, size};
    const auto status = meet(*reader_, *owner_)->read({&run, 1}, by_path(), patience());
    ASSERT_TRUE(status.is_ok()) << status.message();
    EXPECT_EQ(std::memcmp(target.data() + 1, source.data, size), 0) << size;
    EXPECT_EQ(target.front(), kPoison);
    EXPECT_EQ(target.back(), kPoison);
  }
}

TEST_P(AgentTest, KeysThatCameWithReferencesServeAsThoseThatWereAskedFor) {
  const Piece source = fill(*owner_, 1000);
  const auto registration = add(*owner_, {source});
  auto keys = owner_->keys(registration->regions(), GetParam());
  ASSERT_TRUE(keys.is_ok()) << keys.status().message();
  Descriptor descriptor;
  descriptor.regions = registration->regions();
  descriptor.keys = *keys;
  const auto peer = meet(*reader_, *owner_);
  std::vector<std::byte> target(1000, kPoison);
  const transport::Run run{&descriptor.regions.at(0), 0, target.data(), 1000};
  for (int i = 0; i < 2; ++i) {
    peer->learn(descriptor);
    const auto status = peer->read({&run, 1}, by_path(), patience());
    ASSERT_TRUE(status.is_ok()) << status.message();
    EXPECT_EQ(std::memcmp(target.data(), source.data, 1000), 0);
  }
}

// One that somebody made up serves nobody but who reads by it.
TEST_F(AgentTest, AKeyOfALaterUseOfTheSlotHidesNothing) {
  const Piece source = fill(*owner_, 1000);
  const auto registration = add(*owner_, {source});
  const auto peer = meet(*reader_, *owner_);
  Descriptor made_up;
  made_up.regions = registration->regions();
  made_up.regions.at(0).id.generation = 0xFFFFFFFF;
  made_up.keys = {"nixl", {Bytes(3)}};
  peer->learn(made_up);
  std::vector<std::byte> target(1000, kPoison);
  const transport::Run run{&registration->regions().at(0), 0, target.data(), 1000};
  const auto status = peer->read({&run, 1}, {"nixl", 0}, patience());
  ASSERT_TRUE(status.is_ok()) << status.message();
  EXPECT_EQ(std::memcmp(target.data(), source.data, 1000), 0);
}

TEST_F(AgentTest, OfAPathThatThereIsNotThereAreNoKeys) {
  const auto registration = add(*owner_, {fill(*owner_, 10)});
  EXPECT_EQ(owner_->keys(registration->regions(), "nothing").status().code(), Code::kUnsupported);
}

TEST_P(AgentTest, ManySmallAndStridedRunsArrive) {
  const Piece source = fill(*owner_, 1 << 20);
  const auto registration = add(*owner_, {source});
  const Region region = registration->regions().at(0);
  std::vector<std::byte> target(1 << 20, kPoison);
  std::vector<std::byte> expected = target;
  std::vector<transport::Run> runs;
  std::size_t at = 0;
  for (std::size_t i = 0; i < 5000; ++i) {
    const transport::Run run{&region, i * 97, target.data() + at, 1 + i % 7, 1 + i % 3, 50, 20};
    runs.push_back(run);
    for (std::size_t k = 0; k < run.count; ++k) {
      std::memcpy(expected.data() + at + k * 20, source.data + run.offset + k * 50, run.length);
    }
    at += 80;
  }
  const auto status = meet(*reader_, *owner_)->read(runs, by_path(), patience());
  ASSERT_TRUE(status.is_ok()) << status.message();
  EXPECT_EQ(target, expected);
}

TEST_P(AgentTest, AnUndoneRegistrationIsStale) {
  const Piece source = fill(*owner_, 4096);
  auto registration = add(*owner_, {source});
  const Region region = registration->regions().at(0);
  const auto peer = meet(*reader_, *owner_);
  registration.reset();
  std::vector<std::byte> target(4096, kPoison);
  const transport::Run run{&region, 0, target.data(), 4096};
  EXPECT_EQ(peer->read({&run, 1}, by_path(), patience()).code(), Code::kStale);
  EXPECT_EQ(std::count(target.begin(), target.end(), kPoison), 4096);
}

TEST_P(AgentTest, RunsOutsideTheRegionAreRefusedBeforeAnythingMoves) {
  const auto registration = add(*owner_, {fill(*owner_, 4096)});
  const Region region = registration->regions().at(0);
  std::vector<std::byte> target(4097, kPoison);
  const transport::Run run{&region, 0, target.data(), 4097};
  EXPECT_EQ(meet(*reader_, *owner_)->read({&run, 1}, by_path(), patience()).code(), Code::kInvalidArgument);
  EXPECT_EQ(std::count(target.begin(), target.end(), kPoison), 4097);
}

TEST_P(AgentTest, APassedDeadlineAndACancelledWaitEndBeforeAnythingMoves) {
  const auto registration = add(*owner_, {fill(*owner_, 4096)});
  const Region region = registration->regions().at(0);
  const auto peer = meet(*reader_, *owner_);
  std::vector<std::byte> target(4096, kPoison);
  const transport::Run run{&region, 0, target.data(), 4096};
  EXPECT_EQ(peer->read({&run, 1}, by_path(), Deadline::after(Nanos(-1))).code(), Code::kDeadlineExceeded);
  const auto cancellation = *os::Cancellation::make();
  cancellation->cancel();
  os::Wait cancelled;
  cancelled.cancellation = cancellation.get();
  EXPECT_EQ(peer->read({&run, 1}, by_path(), cancelled).code(), Code::kCancelled);
  EXPECT_EQ(std::count(target.begin(), target.end(), kPoison), 4096);
}

TEST_P(AgentTest, AClosedOwnerIsGone) {
  const auto registration = add(*owner_, {fill(*owner_, 4096)});
  const Region region = registration->regions().at(0);
  const auto peer = meet(*reader_, *owner_);
  owner_.reset();
  std::vector<std::byte> target(4096);
  const transport::Run run{&region, 0, target.data(), 4096};
  const auto deadline = Deadline::after(std::chrono::seconds(20));
  while (!peer->is_gone() && !deadline.passed()) std::this_thread::yield();
  const auto status = peer->read({&run, 1}, by_path(), patience());
  EXPECT_EQ(status.code(), Code::kPeerLost) << status.message();
  EXPECT_NE(status.message().find("owner"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Paths, AgentTest, ::testing::Values("shm", "cma", "ucx", "nixl", "object_store", "tcp"),
                         [](const auto& param) { return std::string(param.param); });

using OneAgentTest = AgentTest;

TEST_P(OneAgentTest, WritingNeedsAGrant) {
  const Piece target = fill(*owner_, 100'000);
  const auto registration = add(*owner_, {target});
  const Region region = registration->regions().at(0);
  std::vector<std::byte> source(100'000, std::byte{7});
  const transport::Run run{&region, 0, source.data(), source.size()};
  const auto peer = meet(*reader_, *owner_);
  EXPECT_EQ(peer->write({&run, 1}, by_path(), patience()).code(), Code::kInvalidArgument);
  EXPECT_NE(target.data[1], std::byte{7});
  ASSERT_TRUE(owner_->regions()->grant(region.id, reader_->address().id));
  const auto status = peer->write({&run, 1}, by_path(), patience());
  ASSERT_TRUE(status.is_ok()) << status.message();
  EXPECT_TRUE(std::all_of(target.data, target.data + target.size, [](std::byte b) { return b == std::byte{7}; }));
}

INSTANTIATE_TEST_SUITE_P(Paths, OneAgentTest, ::testing::Values("cma", "ucx", "nixl", "object_store", "tcp"),
                         [](const auto& param) { return std::string(param.param); });

class PathsTest : public AgentTest {};

TEST_F(PathsTest, ARequiredPathThatCannotIsRefusedWithReasons) {
  std::vector<std::byte> heap(4096);
  const auto registration = add(*owner_, {{heap.data(), heap.size()}});
  const Region region = registration->regions().at(0);
  EXPECT_FALSE(region.in_arena());
  std::vector<std::byte> target(4096, kPoison);
  const transport::Run run{&region, 0, target.data(), 4096};
  const auto peer = meet(*reader_, *owner_);
  const auto status = peer->read({&run, 1}, {"shm", 0}, patience());
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_NE(status.message().find("does not lie in the peer's arena"), std::string::npos) << status.message();
  EXPECT_EQ(peer->read({&run, 1}, {"", 1e9}, patience()).code(), Code::kUnsupported);
  EXPECT_EQ(std::count(target.begin(), target.end(), kPoison), 4096);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(peer->read({&run, 1}, {}, patience()).is_ok());
  const auto explanation = peer->explain(region, 4096, {});
  EXPECT_EQ(explanation.chosen, "cma");
  ASSERT_EQ(explanation.candidates.size(), 8u);
  EXPECT_TRUE(explanation.candidates[1].measured);
}

TEST_F(PathsTest, AnAgentThatSharesNoMemoryIsReachedByTcp) {
  const auto remote = open("remote", false);
  const auto registration = add(*remote, {fill(*remote, 4096)});
  const Region region = registration->regions().at(0);
  std::vector<std::byte> target(4096, kPoison);
  const transport::Run run{&region, 0, target.data(), 4096};
  const auto peer = meet(*reader_, *remote);
  EXPECT_EQ(peer->explain(region, 4096, {}).chosen, "tcp");
  ASSERT_TRUE(peer->read({&run, 1}, {}, patience()).is_ok());
  EXPECT_EQ(std::memcmp(target.data(), fill(*remote, 4096).data, 4096), 0);
  EXPECT_EQ(peer->map(region, 0, 4096).status().code(), Code::kUnsupported);
}

TEST_F(PathsTest, AWrongTokenIsRefused) {
  Agent::Options options;
  options.name = "stranger";
  options.folder = folder_;
  options.token = "guess";
  options.arena = *memory::Arena::open({.capacity_bytes = 1u << 20, .quota_bytes = 1u << 20});
  const auto stranger = *Agent::open(options);
  const auto remote = open("remote", false);
  const auto refused = stranger->peer(remote->address().text(), patience());
  EXPECT_EQ(refused.status().code(), Code::kInvalidArgument) << refused.status().message();
  EXPECT_NE(refused.status().message().find("token"), std::string::npos) << refused.status().message();
}

TEST_F(PathsTest, AnAddressOfTlsIsSpokenToByTlsAlone) {
  Agent::Options options;
  options.name = "remote";
  options.folder = folder_;
  options.share_memory = false;
  options.tcp = os::TcpAddress{"127.0.0.1", 0};
  options.token = "secret";
  options.tls.emplace();
  options.arena = *memory::Arena::open({.capacity_bytes = 256u << 20, .quota_bytes = 256u << 20});
  const auto opened = Agent::open(options);
  if (opened.status().code() == Code::kUnsupported) GTEST_SKIP() << opened.status().message();
  ASSERT_TRUE(opened.is_ok()) << opened.status().message();
  Agent& remote = **opened;
  const Piece source = fill(remote, (9u << 20) + 5);
  const auto registration = add(remote, {source});
  const Region region = registration->regions().at(0);
  std::vector<std::byte> target(source.size, kPoison);
  const transport::Run run{&region, 0, target.data(), source.size};
  const auto status = meet(*reader_, remote)->read({&run, 1}, {"tcp", 0}, patience());
  ASSERT_TRUE(status.is_ok()) << status.message();
  EXPECT_EQ(std::memcmp(target.data(), source.data, source.size), 0);
  // Whoever takes TLS out of an address gets nothing but words.
  Address plain = remote.address();
  plain.certificate.clear();
  EXPECT_EQ(reader_->peer(plain.text(), patience()).status().code(), Code::kUnsupported);
  const auto deadline = Deadline::after(std::chrono::seconds(20));  // the caller may hear of it first
  while (remote.stats().refused == 0 && !deadline.passed()) std::this_thread::yield();
  EXPECT_EQ(remote.stats().refused, 1u);
  // One that was opened for TLS speaks nothing else by TCP.
  const auto other = open("plain", false);
  const auto refused = remote.peer(other->address().text(), patience()).status();
  EXPECT_EQ(refused.code(), Code::kUnsupported);
  EXPECT_NE(refused.message().find("TLS"), std::string::npos) << refused.message();
  EXPECT_EQ(other->stats().refused, 0u);
}

TEST_F(PathsTest, AMappingShowsTheOwnersBytesAndKeepsThem) {
  const Piece source = fill(*owner_, 1 << 20);
  auto registration = add(*owner_, {source});
  const Region region = registration->regions().at(0);
  auto mapped = *meet(*reader_, *owner_)->map(region, 100, 5000);
  EXPECT_EQ(std::memcmp(mapped.data, source.data + 100, 5000), 0);
  mapped.data[0] = std::byte{99};
  EXPECT_NE(source.data[100], std::byte{99});
  registration.reset();
  EXPECT_EQ(owner_->regions()->stats().waiting, 1u);
  mapped = {};
  const auto deadline = Deadline::after(std::chrono::seconds(20));
  while (owner_->regions()->sweep() > 0 && !deadline.passed()) std::this_thread::yield();
  EXPECT_EQ(owner_->regions()->stats().waiting, 0u);
}

TEST_F(PathsTest, TheSamePiecesAreRegisteredOnce) {
  const Piece a = fill(*owner_, 4096);
  const Piece b = fill(*owner_, 4096);
  const auto first = add(*owner_, {a, b});
  EXPECT_EQ(add(*owner_, {a, b}), first);
  EXPECT_NE(add(*owner_, {b, a}), first);
  EXPECT_EQ(first->regions().size(), 1u);
  EXPECT_EQ(owner_->regions()->stats().reused, 1u);
}

TEST_F(PathsTest, BytesBetweenRegisteredPiecesAreNotServed) {
  const auto remote = open("remote", false);
  const Piece whole = fill(*remote, 64 << 10);
  const auto registration = add(*remote, {{whole.data, 4096}, {whole.data + (32 << 10), 4096}});
  const Region region = registration->regions().at(0);
  std::vector<std::byte> target(8192, kPoison);
  const auto peer = meet(*reader_, *remote);
  const transport::Run between{&region, 4000, target.data(), 200};
  EXPECT_EQ(peer->read({&between, 1}, {}, patience()).code(), Code::kInvalidArgument);
  const transport::Run both{&region, 0, target.data(), 4096, 2, 32 << 10, 4096};
  EXPECT_TRUE(peer->read({&both, 1}, {}, patience()).is_ok());
}

Snapshot snapshot_of(Agent& agent, const std::vector<std::byte>& bytes) {
  const TensorSpec spec{{1, 8, 1}, {static_cast<std::int64_t>(bytes.size())}, {}};
  const Source source{&spec, bytes.data()};
  auto taken = take_snapshot(*agent.arena(), *agent.regions(), agent.address().text(), {&source, 1}, {}, false);
  EXPECT_TRUE(taken.is_ok()) << taken.status().message();
  return std::move(*taken);
}

TEST_F(PathsTest, ASubscriberGetsTheNewestVersion) {
  std::vector<std::byte> bytes(100'000, std::byte{1});
  EXPECT_EQ(*owner_->publish("weights", 0, snapshot_of(*owner_, bytes), 2), 1u);
  const auto subscription = *reader_->subscribe(owner_->address().text(), "weights", patience());
  auto version = *subscription->newer_than(0, patience());
  EXPECT_EQ(version.number, 1u);
  const auto schema = version.tensors->schema;
  for (std::uint8_t number = 2; number < 6; ++number) {
    std::fill(bytes.begin(), bytes.end(), std::byte{number});
    EXPECT_EQ(*owner_->publish("weights", number, snapshot_of(*owner_, bytes), 2), number);
    version = *subscription->newer_than(version.number, patience());
    EXPECT_EQ(version.number, number);
    EXPECT_EQ(version.tensors->schema, schema) << "told again, not by its hash";
    std::vector<std::byte> target(bytes.size(), kPoison);
    const auto remote = RemoteTensor::whole(version.tensors, 0);
    const Copy copy{&remote, {target.data(), {}}};
    const auto status = fetch(*meet(*reader_, *owner_), {&copy, 1}, {}, patience());
    ASSERT_TRUE(status.is_ok()) << status.message();
    EXPECT_EQ(target, bytes);
  }
  EXPECT_EQ(owner_->publish("weights", 5, snapshot_of(*owner_, bytes), 2).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(subscription->newer_than(5, Deadline::after(std::chrono::milliseconds(20))).status().code(),
            Code::kDeadlineExceeded);
  owner_.reset();
  EXPECT_EQ(subscription->newer_than(5, patience()).status().code(), Code::kPeerLost);
}

TEST_F(PathsTest, AQuestionForAPathThatIsNotThereIsAnswered) {
  const auto status = meet(*reader_, *owner_)->contact("carrier pigeon", patience()).status();
  EXPECT_EQ(status.code(), Code::kUnsupported) << status.message();
}

// That two agents share memory is proven, not believed: by what their addresses say alone they would.
TEST_F(PathsTest, AnAddressOfAnotherBootIsOfAnotherHost) {
  const auto registration = add(*owner_, {fill(*owner_, 4096)});
  Address elsewhere = owner_->address();
  elsewhere.boot_id = std::string(32, 'f');
  const auto peer = *reader_->peer(elsewhere.text(), patience());
  const auto explanation = peer->explain(registration->regions().at(0), 4096, {});
  EXPECT_EQ(explanation.chosen, "tcp");
  EXPECT_NE(explanation.candidates.front().reason.find("on another host"), std::string::npos);
}

TEST_F(PathsTest, ASocketThatIsNotReachableFromHereIsAnotherContainers) {
  const auto registration = add(*owner_, {fill(*owner_, 4096)});
  Address hidden = owner_->address();
  hidden.unix_path = folder_ + "/nothing.sock";
  const auto explanation =
      (*reader_->peer(hidden.text(), patience()))->explain(registration->regions().at(0), 4096, {});
  EXPECT_EQ(explanation.chosen, "tcp");
  EXPECT_NE(explanation.candidates.front().reason.find("not reachable from here"), std::string::npos);
  hidden.tcp.clear();
  EXPECT_EQ(reader_->peer(hidden.text(), patience()).status().code(), Code::kPeerLost);
}

TEST_F(PathsTest, AWelcomeThatShowsNoArenaIsNoneOfThisHost) {
  const std::string path = folder_ + "/impostor.sock";
  const os::Fd listener = *os::listen_unix(path);
  Address impostor = owner_->address();
  impostor.unix_path = path;
  impostor.tcp.clear();
  const auto no_arena = *os::make_memfd("none", 4096);
  for (const std::vector<int>& shown : {std::vector<int>{}, {no_arena.get()}, {no_arena.get(), no_arena.get()}}) {
    auto answering = std::async(std::launch::async, [&] {
      EXPECT_TRUE(os::wait_ready(listener.get(), POLLIN, patience(), "a caller"));
      os::FrameSocket caller(std::move(*os::accept_unix(listener.get())));
      os::Frame hello;
      EXPECT_TRUE(caller.receive_within(hello, patience()));
      const messages::Welcome welcome{messages::kVersion, impostor.id, "impostor", 0};
      EXPECT_TRUE(caller.send(messages::encode(messages::Type::kWelcome, welcome), shown));
      EXPECT_EQ(caller.receive_within(hello, patience()).code(), Code::kPeerLost) << "it hangs up";
    });
    const auto met = reader_->peer(impostor.text(), patience()).status();
    EXPECT_EQ(met.code(), Code::kCorrupt) << met.message();
    answering.get();
  }
  EXPECT_EQ(reader_->stats().peers, 0u);
}

TEST_F(PathsTest, AFloodOfQuestionsEndsItsConnectionAndHarmsNobody) {
  os::FrameSocket flood(std::move(*os::connect_unix(owner_->address().unix_path, patience())));
  ASSERT_TRUE(flood.send(messages::encode(messages::Type::kHello, messages::Hello{messages::kVersion, "x", "flood"})));
  const Bytes question = messages::encode(messages::Type::kAsk, messages::Ask{});
  const auto refused = owner_->stats().refused;
  const auto until = Deadline::after(std::chrono::seconds(60));
  // Nothing is read: answers wait at the owner, and it lets nobody ask without end.
  while (owner_->stats().refused == refused && !until.passed()) {
    for (int i = 0; i < 1000; ++i) {
      if (!flood.send(question)) break;
    }
    if (!flood.flush()) break;
  }
  EXPECT_EQ(owner_->stats().refused, refused + 1);
  EXPECT_EQ(meet(*reader_, *owner_)->contact("carrier pigeon", patience()).status().code(), Code::kUnsupported);
}

TEST_F(PathsTest, MoreSchemasThanAreRememberedArriveAllTheSame) {
  const auto subscription = *reader_->subscribe(owner_->address().text(), "weights", patience());
  std::uint64_t number = 0;
  for (int round = 0; round < 2; ++round) {
    for (std::size_t size = 1; size <= messages::kKnownSchemas + 5; ++size) {
      const std::vector<std::byte> bytes(size, std::byte{1});
      number = *owner_->publish("weights", 0, snapshot_of(*owner_, bytes), 2);
      const auto version = *subscription->newer_than(number - 1, patience());
      EXPECT_EQ(version.number, number);
      EXPECT_EQ(version.tensors->bytes(), size);
    }
  }
}

TEST_F(PathsTest, AReplacedVersionIsStaleAndKeptForWhoReadsIt) {
  const std::vector<std::byte> bytes(100'000, std::byte{1});
  auto first = snapshot_of(*owner_, bytes);
  const auto tensors = first.tensors;
  (void)owner_->publish("weights", 0, std::move(first), 1);
  const auto peer = meet(*reader_, *owner_);
  const auto mapped = *peer->map(tensors->regions[0], 0, bytes.size());
  for (int i = 0; i < 3; ++i) {
    (void)owner_->publish("weights", 0, snapshot_of(*owner_, std::vector<std::byte>(100'000, std::byte{2})), 1);
  }
  EXPECT_EQ(std::memcmp(mapped.data, bytes.data(), bytes.size()), 0);
  EXPECT_EQ(peer->map(tensors->regions[0], 0, 1).status().code(), Code::kStale);
}

TEST_F(PathsTest, WhoUnsubscribesIsToldNoMore) {
  auto subscription = *reader_->subscribe(owner_->address().text(), "weights", patience());
  EXPECT_EQ(*reader_->subscribe(owner_->address().text(), "weights", patience()), subscription);
  subscription.reset();
  const auto again = *reader_->subscribe(owner_->address().text(), "weights", patience());
  (void)owner_->publish("weights", 7, snapshot_of(*owner_, std::vector<std::byte>(10)), 1);
  EXPECT_EQ(again->newer_than(0, patience())->number, 7u);
  owner_->withdraw("weights");
}

}  // namespace
}  // namespace beeline::transfer
