// Subscribers that give versions on. All agents live in this process and share no memory: what they have of each other
// came over TCP.
#include "beeline/transfer/relay.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <atomic>
#include <filesystem>
#include <future>
#include <mutex>
#include <thread>
#include <utility>

#include "beeline/os/tcp_socket.h"
#include "beeline/transfer/agent.h"
#include "beeline/transfer/fetch.h"
#include "beeline/transport/builtin.h"
#include "patience.h"
#include "short_form.h"

namespace beeline::transfer {
namespace {

constexpr std::size_t kBytes = 5 << 20;

class RelayTest : public ::testing::Test {
 protected:
  static std::string make_folder() {
    char place[] = "/tmp/brelaysXXXXXX";
    return ::mkdtemp(place);
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  std::shared_ptr<Agent> open(const std::string& name, bool listens = true) const {
    Agent::Options options;
    options.name = name;
    options.folder = folder_;
    options.share_memory = false;
    if (listens) options.tcp = os::TcpAddress{"127.0.0.1", 0};
    options.token = "secret";
    options.arena = *memory::Arena::open({.capacity_bytes = 256u << 20, .quota_bytes = 64u << 20});
    options.warn = [this](const std::string& message) {
      const std::lock_guard guard(mutex_);
      warnings_.push_back(message);
    };
    auto agent = Agent::open(options);
    EXPECT_TRUE(agent.is_ok()) << agent.status().message();
    return std::move(*agent);
  }

  static std::vector<std::byte> bytes_of(std::uint8_t seed) {
    std::vector<std::byte> bytes(kBytes);
    for (std::size_t i = 0; i < kBytes; ++i) bytes[i] = static_cast<std::byte>(seed + i * 7 + (i >> 9));
    return bytes;
  }
  std::uint64_t publish(std::uint8_t seed, std::size_t keep, std::size_t fan_out, bool with_checksums = true) const {
    const auto bytes = bytes_of(seed);
    const TensorSpec spec{{1, 8, 1}, {static_cast<std::int64_t>(kBytes)}, {}};
    const Source source{&spec, bytes.data()};
    auto taken = take_snapshot(*publisher_->arena(), *publisher_->regions(), publisher_->address().text(), {&source, 1},
                               {}, with_checksums);
    EXPECT_TRUE(taken.is_ok()) << taken.status().message();
    return *publisher_->publish("w", 0, std::move(*taken), keep, fan_out);
  }
  std::shared_ptr<Subscription> subscribe(Agent& agent) const {
    auto subscription = agent.subscribe(publisher_->address().text(), "w", patience(), true);
    EXPECT_TRUE(subscription.is_ok()) << subscription.status().message();
    return std::move(*subscription);
  }
  static std::vector<std::byte> read(Agent& agent, const Version& version) {
    std::vector<std::byte> target(kBytes, std::byte{0xEE});
    const auto remote = RemoteTensor::whole(version.tensors, 0);
    const Copy copy{&remote, {target.data(), {}}};
    const auto peer = agent.peer(version.tensors->owner, patience());
    EXPECT_TRUE(peer.is_ok()) << peer.status().message();
    const auto status = fetch(**peer, {&copy, 1}, {.path = {}, .min_gbps = 0, .verify = true}, patience());
    EXPECT_TRUE(status.is_ok()) << status.message();
    return target;
  }
  // Bytes that the agents have read of the other one.
  static std::uint64_t moved(const std::vector<std::shared_ptr<Agent>>& agents, const Agent& from) {
    std::uint64_t bytes = 0;
    for (const auto& agent : agents) {
      const auto reading = read_counters(agent->stats().counters);
      EXPECT_TRUE(reading.is_ok()) << reading.status().message();
      for (const auto& row : reading->rows) {
        if (row.peer_id == from.address().id && row.operation == Operation::kFetch) bytes += row.bytes;
      }
    }
    return bytes;
  }

  // What agents have warned of since the last call.
  std::vector<std::string> take_warnings() const {
    const std::lock_guard guard(mutex_);
    return std::exchange(warnings_, {});
  }

  mutable std::mutex mutex_;
  mutable std::vector<std::string> warnings_;  // needs mutex_
  const std::string folder_ = make_folder();
  std::shared_ptr<Agent> publisher_ = open("publisher");
};

TEST_F(RelayTest, APublisherSendsNoMoreCopiesThanTheFanOutSays) {
  std::vector<std::shared_ptr<Agent>> readers;
  for (int i = 0; i < 8; ++i) readers.push_back(open("reader" + std::to_string(i)));
  publish(1, 2, 2);
  std::vector<std::future<bool>> whole;
  std::vector<std::shared_ptr<Subscription>> subscriptions;
  for (const auto& reader : readers) subscriptions.push_back(subscribe(*reader));
  for (std::size_t i = 0; i < readers.size(); ++i) {
    whole.push_back(std::async(std::launch::async, [&, i] {
      const auto version = subscriptions[i]->nearest_newer_than(0, patience());
      EXPECT_TRUE(version.is_ok()) << version.status().message();
      return version && version->number == 1 && read(*readers[i], *version) == bytes_of(1);
    }));
  }
  for (auto& each : whole) EXPECT_TRUE(each.get());
  EXPECT_LE(moved(readers, *publisher_), 2 * kBytes);
  EXPECT_GE(moved(readers, *publisher_), kBytes);
  wait_until([&] { return publisher_->stats().relays == 8; });
  EXPECT_EQ(publisher_->stats().reparented, 0u);
  EXPECT_EQ(publisher_->stats().overdue, 0u);
  EXPECT_EQ(subscriptions[0]->nearest_latest().number, 1u);
}

TEST_F(RelayTest, ACopyIsKeptAsLongAsItsPublisherKeepsTheVersionAndWhoHoldsIt) {
  const auto reader = open("reader");
  const auto subscription = subscribe(*reader);
  publish(1, 2, 2);
  auto version = *subscription->nearest_newer_than(0, patience());
  publish(2, 2, 2);
  EXPECT_EQ(subscription->nearest_newer_than(1, patience())->number, 2u);
  wait_until([&] { return publisher_->stats().relays == 2; });
  publish(3, 2, 2);
  wait_until([&] { return publisher_->stats().relays == 1; });
  EXPECT_EQ(subscription->nearest_newer_than(2, patience())->number, 3u);
  EXPECT_EQ(read(*reader, version), bytes_of(1)) << "held by who has the version";
  EXPECT_EQ(reader->regions()->stats().registrations, 3u);
  version = {};
  wait_until([&] { return reader->regions()->stats().registrations == 2; });
  publisher_->withdraw("w");
  wait_until([&] { return reader->regions()->stats().registrations == 0; });
  EXPECT_EQ(subscription->nearest_latest().number, 0u);
}

TEST_F(RelayTest, ThreadsOfOneSubscriberGetAVersionOnce) {
  const auto reader = open("reader");
  const auto subscription = subscribe(*reader);
  std::vector<std::future<std::uint64_t>> numbers;
  for (int i = 0; i < 4; ++i) {
    numbers.push_back(
        std::async(std::launch::async, [&] { return subscription->nearest_newer_than(0, patience())->number; }));
  }
  publish(1, 2, 2);
  for (auto& number : numbers) EXPECT_EQ(number.get(), 1u);
  EXPECT_EQ(moved({reader}, *publisher_), kBytes);
}

TEST_F(RelayTest, AReaderGoesOnWithAnotherParentWhereItsOwnHasNoCopyAnyMore) {
  const auto first = open("first");
  const auto first_subscription = subscribe(*first);
  publish(1, 2, 1);
  EXPECT_EQ(first_subscription->nearest_newer_than(0, patience())->number, 1u);
  const auto second = open("second");
  const auto subscription = subscribe(*second);
  wait_until([&] { return publisher_->stats().relays == 1; });
  // What it offers is gone, and its publisher does not know.
  (void)first_subscription->relay()->recall(1);
  const auto version = subscription->nearest_newer_than(0, patience());
  ASSERT_TRUE(version.is_ok()) << version.status().message();
  EXPECT_EQ(read(*second, *version), bytes_of(1));
  EXPECT_EQ(publisher_->stats().reparented, 1u);
  EXPECT_EQ(second->stats().parents_lost, 1u);
  const auto warnings = take_warnings();
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings.front().find("relay \"first\""), std::string::npos) << warnings.front();
}

TEST_F(RelayTest, WhatARelayGarblesIsFoundByItsChecksumAndReadAnew) {
  const auto first = open("first");
  const auto first_subscription = subscribe(*first);
  publish(1, 2, 1);
  const auto own = *first_subscription->nearest_newer_than(0, patience());
  wait_until([&] { return publisher_->stats().relays == 1; });
  reinterpret_cast<std::byte*>(own.tensors->regions.front().address)[kBytes / 2] ^= std::byte{1};  // this process's
  const auto second = open("second");
  const auto subscription = subscribe(*second);
  const auto version = subscription->nearest_newer_than(0, patience());
  ASSERT_TRUE(version.is_ok()) << version.status().message();
  EXPECT_EQ(read(*second, *version), bytes_of(1));
  EXPECT_EQ(second->stats().parents_lost, 1u);
  EXPECT_EQ(moved({second}, *first), kBytes);
  EXPECT_EQ(moved({second}, *publisher_), kBytes);
  EXPECT_EQ(publisher_->stats().reparented, 1u);
}

// Readers open, read some versions and close, each at its own pace, while versions come.
TEST_F(RelayTest, ReadersThatComeAndGoGetWholeVersions) {
  constexpr int kThreads = 3, kReads = 3;
  const int lives = is_short() ? 2 : 5;
  std::atomic<int> reads{0}, done{0};
  std::vector<std::future<void>> threads;
  publish(1, 2, 1);
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.push_back(std::async(std::launch::async, [&, thread] {
      for (int life = 0; life < lives; ++life) {
        const auto reader = open("reader" + std::to_string(thread));
        const auto subscription = subscribe(*reader);
        for (std::uint64_t number = 0; int read_here : {1, 2, 3}) {
          const auto version = subscription->nearest_newer_than(number, patience());
          ASSERT_TRUE(version.is_ok()) << version.status().message();
          EXPECT_GT(version->number, number);
          number = version->number;
          EXPECT_EQ(read(*reader, *version), bytes_of(static_cast<std::uint8_t>(number))) << read_here;
          ++reads;
        }
      }
      ++done;
    }));
  }
  // One more for each that was read: nobody waits for ever, and several read the same one.
  const os::Wait wait = patience();
  for (int published = 1; done < kThreads; std::this_thread::yield()) {
    ASSERT_FALSE(wait.deadline.passed());
    if (reads < published) continue;
    publish(static_cast<std::uint8_t>(++published), 2, 1);
  }
  for (auto& thread : threads) thread.get();
  EXPECT_GE(reads, kThreads * lives * kReads);
  wait_until([&] { return publisher_->stats().relays == 0; });
}

TEST_F(RelayTest, WhoIsReachedByNobodyMayNotRelay) {
  const auto mute = open("mute", false);
  const auto refused = mute->subscribe(publisher_->address().text(), "w", patience(), true);
  EXPECT_EQ(refused.status().code(), Code::kInvalidArgument);
  EXPECT_TRUE(mute->subscribe(publisher_->address().text(), "w", patience()).is_ok());
}

// A peer without manners.
class Visitor {
 public:
  Visitor(const Agent& to, const std::string& id, const std::string& address) : socket_(connect(to, id)) {
    EXPECT_TRUE(socket_.send(
        messages::encode(messages::Type::kHello, messages::Hello{messages::kVersion, id, "visitor", address})));
  }
  template <typename Message>
  void say(messages::Type type, const Message& message) {
    EXPECT_TRUE(socket_.send(messages::encode(type, message)));
    EXPECT_TRUE(socket_.flush_all(patience()));
  }
  // The next message of that type; none once the connection has ended.
  template <typename Message>
  std::optional<Message> hear(messages::Type type) {
    for (os::Frame frame;;) {
      if (!socket_.receive_within(frame, patience())) return std::nullopt;
      if (messages::type_of(frame.bytes) == type) return *messages::decode<Message>(type, frame.bytes);
    }
  }

 private:
  // As an agent of this host, or as one of another.
  static os::FrameSocket connect(const Agent& to, const std::string& id) {
    const Address& address = to.address();
    if (!address.unix_path.empty()) return os::FrameSocket(std::move(*os::connect_unix(address.unix_path, patience())));
    transport::PeerFacts facts;
    facts.self_id = id;
    facts.peer_id = address.id;
    facts.token = "secret";
    auto stream = transport::connect_control(address.tcp.front(), facts, patience());
    EXPECT_TRUE(stream.is_ok()) << stream.status().message();
    return os::FrameSocket(std::move(*stream));
  }

  os::FrameSocket socket_;
};

class RudeTest : public RelayTest {
 protected:
  void SetUp() override {
    Agent::Options options;
    options.name = "publisher";
    options.folder = folder_;
    options.arena = *memory::Arena::open({.capacity_bytes = 256u << 20, .quota_bytes = 64u << 20});
    publisher_ = *Agent::open(options);
  }
  const std::string id_ = std::string(32, 'a');
  const std::string address_ = "beeline://visitor?id=" + id_ + "&tcp=127.0.0.1:9";
};

TEST_F(RudeTest, ACallerWithTheAddressOfAnotherIsNotLetIn) {
  Visitor visitor(*publisher_, std::string(32, 'b'), address_);
  EXPECT_FALSE(visitor.hear<messages::Welcome>(messages::Type::kWelcome));
  Visitor garbled(*publisher_, id_, "beeline://");
  EXPECT_FALSE(garbled.hear<messages::Welcome>(messages::Type::kWelcome));
}

TEST_F(RudeTest, WritesAtOnceAreBoundedAndEndsOfWritesThatThereAreNotHarmNobody) {
  const Piece piece{*publisher_->arena()->allocate(4096), 4096};
  const auto registration = *publisher_->regions()->add({&piece, 1}, nullptr);
  const transport::Region region = registration->regions().at(0);
  ASSERT_TRUE(publisher_->regions()->grant(region.id, id_).is_ok());
  Visitor visitor(*publisher_, id_, address_);
  std::uint64_t serial = 0;
  const auto begin = [&] {
    const auto question = static_cast<std::uint8_t>(messages::Question::kBeginWrite);
    visitor.say(
        messages::Type::kAsk,
        messages::Ask{question, {}, region.id.slot, region.id.generation, region.address, region.length, ++serial});
    const auto answer = visitor.hear<messages::Answer>(messages::Type::kAnswer);
    return answer ? static_cast<Code>(answer->code) : Code::kPeerLost;
  };
  while (serial < 4096) ASSERT_EQ(begin(), Code::kOk) << serial;
  EXPECT_EQ(begin(), Code::kResourceExhausted);
  for (std::uint64_t unknown = 0; unknown < 20'000; ++unknown) {
    visitor.say(messages::Type::kWritten, messages::Written{1'000'000 + unknown});
  }
  EXPECT_EQ(begin(), Code::kResourceExhausted);
  visitor.say(messages::Type::kWritten, messages::Written{1});
  EXPECT_EQ(begin(), Code::kOk);
}

TEST_F(RudeTest, OffersThatFitNothingAreRefusedAndHarmNobody) {
  publish(1, 2, 1);
  Visitor visitor(*publisher_, id_, address_);
  visitor.say(messages::Type::kSubscribe, messages::Topic{"w"});
  const auto published = visitor.hear<messages::Published>(messages::Type::kPublished);
  ASSERT_TRUE(published);
  const auto length = Descriptor::decode(published->tensors)->regions.front().length;
  const auto refused = publisher_->stats().refused;
  // Sent to nobody; another length; and one that ends beyond all memory.
  visitor.say(messages::Type::kOffer, messages::Offer{"w", 1, {1, 1, length, 4096, 0}});
  EXPECT_TRUE(visitor.hear<messages::Recall>(messages::Type::kRecall));
  visitor.say(messages::Type::kSeek, messages::Seek{"w", 1, 0, 5});
  const auto parent = visitor.hear<messages::Parent>(messages::Type::kParent);
  ASSERT_TRUE(parent);
  EXPECT_EQ(parent->serial, 5u);
  EXPECT_EQ(parent->owner, "");
  visitor.say(messages::Type::kOffer, messages::Offer{"w", 1, {1, 1, length + 64, 4096, 0}});
  EXPECT_TRUE(visitor.hear<messages::Recall>(messages::Type::kRecall));
  EXPECT_EQ(publisher_->stats().refused, refused + 2);
  EXPECT_EQ(publisher_->stats().relays, 0u);
  // Of a version that there is not: answered, and nobody's fault.
  visitor.say(messages::Type::kSeek, messages::Seek{"w", 9, 0, 6});
  const auto none = visitor.hear<messages::Parent>(messages::Type::kParent);
  ASSERT_TRUE(none);
  EXPECT_EQ(static_cast<Code>(none->code), Code::kStale);
  visitor.say(messages::Type::kOffer, messages::Offer{"w", 1, {1, 1, length, ~std::uint64_t{0}, 0}});
  EXPECT_FALSE(visitor.hear<messages::Recall>(messages::Type::kRecall)) << "its connection ends";
}

// A relay that has offered a version, and is gone, or stands still, before it gives it to anybody; its publisher does
// not know yet.
class UnseenEndTest : public RelayTest {
 protected:
  // It stays connected to the publisher as long as the visitor lives.
  std::unique_ptr<Visitor> offer_of(const std::string& tcp_address) const {
    const std::string id(32, 'c');
    auto visitor = std::make_unique<Visitor>(*publisher_, id, "beeline://visitor?id=" + id + "&tcp=" + tcp_address);
    visitor->say(messages::Type::kSubscribe, messages::Topic{"w"});
    const auto published = visitor->hear<messages::Published>(messages::Type::kPublished);
    EXPECT_TRUE(published);
    visitor->say(messages::Type::kSeek, messages::Seek{"w", 1, 0, 1});
    EXPECT_TRUE(visitor->hear<messages::Parent>(messages::Type::kParent));
    const auto length = Descriptor::decode(published->tensors)->regions.front().length;
    visitor->say(messages::Type::kOffer, messages::Offer{"w", 1, {1, 1, length, 4096, 0}});
    wait_until([&] { return publisher_->stats().relays == 1; });
    return visitor;
  }
  // A reader that is sent to the relay gets the version of the publisher in the end.
  void expect_a_reader_to_go_on(std::chrono::milliseconds within) const {
    const auto reader = open("reader");
    const auto subscription = subscribe(*reader);
    const auto version = subscription->nearest_newer_than(0, os::Wait(Deadline::after(within)));
    ASSERT_TRUE(version.is_ok()) << version.status().message();
    EXPECT_EQ(read(*reader, *version), bytes_of(1));
    EXPECT_EQ(moved({reader}, *publisher_), kBytes);
    EXPECT_EQ(reader->stats().parents_lost, 1u);
    EXPECT_EQ(publisher_->stats().reparented, 1u);
    const auto warnings = take_warnings();
    ASSERT_EQ(warnings.size(), 1u);
    EXPECT_NE(warnings.front().find("relay \"visitor\" failed"), std::string::npos) << warnings.front();
  }
};

TEST_F(UnseenEndTest, ARelayThatNobodyReachesIsGivenUp) {
  publish(1, 2, 1);
  const auto listener = *os::listen_tcp({"127.0.0.1", 0});
  const auto address = os::local_address(listener.get())->text();
  const auto relay = offer_of(address);
  ::shutdown(listener.get(), SHUT_RDWR);  // from now on it refuses
  expect_a_reader_to_go_on(std::chrono::seconds(60));
}

TEST_F(UnseenEndTest, ARelayThatAnswersNothingIsGivenUpAfterAPartOfTheTime) {
  publish(1, 2, 1);
  const auto listener = *os::listen_tcp({"127.0.0.1", 0});  // connections wait in its backlog
  const auto relay = offer_of(os::local_address(listener.get())->text());
  const auto begin = Clock::now();
  expect_a_reader_to_go_on(std::chrono::seconds(8));
  EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(1500)) << "its part is a quarter";
}

}  // namespace
}  // namespace beeline::transfer
