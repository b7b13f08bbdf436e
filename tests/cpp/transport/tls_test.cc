// TLS below the protocol of agents: what arrives, what is refused, and what becomes of bytes that were changed, cut off
// or never TLS. Certificates of files are in tests/conformance/test_tls.py.
#include "beeline/os/tls.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <random>
#include <thread>

#include "beeline/os/unix_socket.h"
#include "beeline/transport/builtin.h"
#include "beeline/transport/tcp/opening.h"
#include "beeline/transport/tcp/stream.h"
#include "patience.h"
#include "seed.h"
#include "transport/no_region.h"

namespace beeline::transport::tcp {
namespace {

using Stream = std::unique_ptr<os::ByteStream>;
using TlsPtr = std::shared_ptr<const os::Tls>;

TlsPtr make_tls(bool listens, std::uint64_t rekey_bytes = std::uint64_t{1} << 20) {
  os::TlsOptions options;
  options.rekey_bytes = rekey_bytes;
  auto tls = os::Tls::make(options, listens);
  EXPECT_TRUE(tls.is_ok()) << tls.status().message();
  return std::move(*tls);
}

class TlsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const auto made = os::Tls::make({}, false); made.status().code() == Code::kUnsupported) {
      GTEST_SKIP() << made.status().message();
    }
    listening_ = make_tls(true);
    connecting_ = make_tls(false);
  }

  struct Pair {
    Stream caller, listener;
  };
  // Two ends that have not begun.
  [[nodiscard]] Pair make_pair(std::string fingerprint = {}) const {
    auto sockets = os::make_socket_pair();
    EXPECT_TRUE(sockets.is_ok());
    if (fingerprint.empty()) fingerprint = listening_->fingerprint();
    return {connecting_->connecting_stream(std::move(sockets->first), "somewhere", std::move(fingerprint)),
            listening_->listening_stream(std::move(sockets->second))};
  }
  static std::future<Status> begin(const Stream& stream) {
    return std::async(std::launch::async, [&stream] { return stream->begin(patience()); });
  }
  [[nodiscard]] Pair make_begun_pair() const {
    Pair pair = make_pair();
    auto listening = begin(pair.listener);
    const auto connected = pair.caller->begin(patience());
    const auto listened = listening.get();
    EXPECT_TRUE(connected.is_ok()) << connected.message();
    EXPECT_TRUE(listened.is_ok()) << listened.message();
    return pair;
  }

  TlsPtr listening_, connecting_;
};

Bytes random_bytes(std::size_t size, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Bytes bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// The bytes in pieces of random sizes.
std::vector<iovec> cut(Bytes& bytes, std::mt19937_64& random) {
  constexpr std::array<std::size_t, 6> kSizes{1, 40, 1000, 16384, 16385, 300'000};
  std::vector<iovec> pieces;
  for (std::size_t at = 0; at < bytes.size();) {
    const auto size = std::min<std::size_t>(bytes.size() - at, random() % (kSizes[random() % kSizes.size()] + 1));
    pieces.push_back({bytes.data() + at, size});
    at += size;
  }
  return pieces;
}

TEST_F(TlsTest, BytesArriveBothWaysAlsoUnderNewKeys) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  const Pair pair = make_begun_pair();
  for (const auto& [from, to] : {std::pair(&pair.caller, &pair.listener), std::pair(&pair.listener, &pair.caller)}) {
    Bytes sent = random_bytes((5u << 20) + 3, seed);
    Bytes received(sent.size());
    auto pieces = cut(sent, random);
    auto sending = std::async(std::launch::async, [&] { return send_all(**from, pieces, patience()); });
    auto targets = cut(received, random);
    const auto status = receive_all(**to, targets, patience());
    ASSERT_TRUE(status.is_ok()) << status.message() << ", seed " << seed;
    ASSERT_TRUE(sending.get().is_ok()) << "seed " << seed;
    ASSERT_TRUE(received == sent) << "seed " << seed;
  }
}

TEST_F(TlsTest, BothEndsHaveOneBindingAndNoOtherConnectionHasIt) {
  const Pair pair = make_begun_pair();
  const Pair other = make_begun_pair();
  EXPECT_EQ(pair.caller->binding()->size(), 32u);
  EXPECT_EQ(*pair.caller->binding(), *pair.listener->binding());
  EXPECT_NE(*pair.caller->binding(), *other.caller->binding());
}

TEST_F(TlsTest, EachListenerHasACertificateOfItsOwn) {
  EXPECT_EQ(listening_->fingerprint().size(), 64u);
  EXPECT_NE(listening_->fingerprint(), make_tls(true)->fingerprint());
  EXPECT_EQ(connecting_->fingerprint(), "");
}

TEST_F(TlsTest, AnotherCertificateIsRefused) {
  const Pair pair = make_pair(make_tls(true)->fingerprint());
  auto listening = begin(pair.listener);
  const auto connected = pair.caller->begin(patience());
  EXPECT_EQ(connected.code(), Code::kInvalidArgument);
  EXPECT_NE(connected.message().find(listening_->fingerprint()), std::string::npos) << connected.message();
  EXPECT_TRUE(listening.get().is_ok());  // it knows nothing of it, and the opening that follows never comes
}

TEST_F(TlsTest, WhatIsNoHandshakeIsAnErrorOnEitherSide) {
  const auto seed = test_seed();
  for (std::uint64_t round = 0; round < 200; ++round) {
    for (const bool to_listener : {true, false}) {
      auto sockets = os::make_socket_pair();
      const auto hostile = os::plain_stream(std::move(sockets->first));
      const Stream stream = to_listener ? listening_->listening_stream(std::move(sockets->second))
                                        : connecting_->connecting_stream(std::move(sockets->second), "somewhere", "");
      Bytes bytes = random_bytes(round, seed + round);
      if (bytes.size() > 5 && round % 2 == 0) {
        constexpr std::array<unsigned char, 5> kRecord{22, 3, 1, 0, 64};
        std::memcpy(bytes.data(), kRecord.data(), kRecord.size());
      }
      std::vector<iovec> pieces{{bytes.data(), bytes.size()}};
      ASSERT_TRUE(send_all(*hostile, pieces, patience()).is_ok());
      ::shutdown(hostile->fd(), SHUT_WR);
      const auto status = stream->begin(patience());
      ASSERT_TRUE(status.code() == Code::kInvalidArgument || status.code() == Code::kPeerLost)
          << status.message() << ", seed " << seed << ", " << round << " bytes";
    }
  }
}

TEST_F(TlsTest, SilenceIsWaitedForNoLongerThanTheDeadline) {
  const Pair pair = make_pair();
  for (const Stream* stream : {&pair.listener, &pair.caller}) {
    const auto status = (*stream)->begin(Deadline::after(std::chrono::milliseconds(20)));
    EXPECT_EQ(status.code(), Code::kDeadlineExceeded) << status.message();
  }
}

TEST_F(TlsTest, AConnectionThatBreaksIsLost) {
  Pair pair = make_begun_pair();
  ::shutdown(pair.caller->fd(), SHUT_RDWR);
  pair.caller.reset();
  std::array<std::byte, 10> target{};
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(receive_exactly(*pair.listener, target.data(), target.size(), patience()).code(), Code::kPeerLost);
  }
  Bytes bytes(1 << 20);
  std::vector<iovec> pieces{{bytes.data(), bytes.size()}};
  EXPECT_EQ(send_all(*pair.listener, pieces, patience()).code(), Code::kPeerLost);
}

// Two pairs of sockets, and what passes bytes on from one to the other.
class Wire {
 public:
  os::Fd left, right;

  Wire() {
    auto first = os::make_socket_pair();
    auto second = os::make_socket_pair();
    left = std::move(first->first);
    right = std::move(second->second);
    inner_left_ = std::move(first->second);
    inner_right_ = std::move(second->first);
    threads_.emplace_back([this] { pass(inner_left_.get(), inner_right_.get(), change_next_); });
    threads_.emplace_back([this] { pass(inner_right_.get(), inner_left_.get(), never_); });
  }
  ~Wire() {
    ::shutdown(inner_left_.get(), SHUT_RDWR);
    ::shutdown(inner_right_.get(), SHUT_RDWR);
    for (std::thread& thread : threads_) thread.join();
  }
  // Of what comes from the left, the last byte of what is passed on next.
  void change_next() { change_next_ = true; }

 private:
  static void pass(int from, int to, std::atomic<bool>& change) {
    std::array<unsigned char, 65536> buffer{};
    for (;;) {
      const ssize_t got = ::recv(from, buffer.data(), buffer.size(), 0);
      if (got <= 0) break;
      if (change.exchange(false)) buffer[static_cast<std::size_t>(got) - 1] ^= 1;
      if (::send(to, buffer.data(), static_cast<std::size_t>(got), MSG_NOSIGNAL) != got) break;
    }
    ::shutdown(to, SHUT_WR);
  }

  os::Fd inner_left_, inner_right_;
  std::atomic<bool> change_next_{false}, never_{false};
  std::vector<std::thread> threads_;
};

TEST_F(TlsTest, AByteThatIsChangedOnTheWayEndsTheStream) {
  Wire wire;
  const Pair pair{connecting_->connecting_stream(std::move(wire.left), "somewhere", listening_->fingerprint()),
                  listening_->listening_stream(std::move(wire.right))};
  auto listening = begin(pair.listener);
  ASSERT_TRUE(pair.caller->begin(patience()).is_ok());
  ASSERT_TRUE(listening.get().is_ok());
  std::array<std::byte, 100> bytes{};
  for (const bool changes : {false, true}) {
    if (changes) wire.change_next();
    std::vector<iovec> pieces{{bytes.data(), bytes.size()}};
    ASSERT_TRUE(send_all(*pair.caller, pieces, patience()).is_ok());
    const auto status = receive_exactly(*pair.listener, bytes.data(), bytes.size(), patience());
    EXPECT_EQ(status.code(), changes ? Code::kCorrupt : Code::kOk) << status.message();
  }
}

TEST_F(TlsTest, FilesThatDoNotDoAreNamed) {
  char place[] = "/tmp/btlsXXXXXX";
  const std::string folder = ::mkdtemp(place);
  const std::string garbage = folder + "/garbage.pem";
  std::ofstream(garbage) << "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n";
  const std::string missing = folder + "/missing.pem";
  for (const os::TlsOptions& options : {os::TlsOptions{garbage, "", ""}, os::TlsOptions{"", garbage, ""},
                                        os::TlsOptions{garbage, garbage, ""}, os::TlsOptions{"", "", garbage}}) {
    const auto status = os::Tls::make(options, true).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_NE(status.message().find(garbage), std::string::npos) << status.message();
  }
  for (const os::TlsOptions& options : {os::TlsOptions{missing, garbage, ""}, os::TlsOptions{"", "", missing}}) {
    const auto status = os::Tls::make(options, true).status();
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_NE(status.message().find("No such file"), std::string::npos) << status.message();
  }
  std::filesystem::remove_all(folder);
}

// Registers nothing.
class TlsServerTest : public TlsTest {
 protected:
  void SetUp() override {
    TlsTest::SetUp();
    if (IsSkipped()) return;
    server_ = serve(listening_);
  }
  std::unique_ptr<Server> serve(TlsPtr tls) {
    auto served = serve_tcp({{"127.0.0.1", 0}, "secret", "listener", {}, std::move(tls)}, nothing_,
                            [](Stream, const std::string&) {});
    EXPECT_TRUE(served.is_ok());
    return std::move(*served);
  }
  [[nodiscard]] PeerFacts facts() const {
    PeerFacts peer;
    peer.self_id = "caller";
    peer.peer_id = "listener";
    peer.token = "secret";
    peer.certificate = listening_->fingerprint();
    return peer;
  }
  [[nodiscard]] Status connecting_with(const PeerFacts& peer) const {
    return connect(server_->address(), Purpose::kStream, peer, patience()).status();
  }

  NoRegion nothing_;
  std::unique_ptr<Server> server_;
};

TEST_F(TlsServerTest, ARequestIsAnsweredWithinTls) {
  for (const auto& own : {TlsPtr(), connecting_}) {
    PeerFacts peer = facts();
    peer.tls = own;
    const auto stream = connect(server_->address(), Purpose::kStream, peer, patience());
    ASSERT_TRUE(stream.is_ok()) << stream.status().message();
    RequestHeader header;
    header.runs = 1;
    header.bytes = 8;
    const RunRecord run{1, 1, 0, 8, 1, 0};
    std::vector<iovec> pieces{{&header, sizeof header}, {const_cast<RunRecord*>(&run), sizeof run}};
    ASSERT_TRUE(send_all(**stream, pieces, patience()).is_ok());
    ReplyHeader reply;
    ASSERT_TRUE(receive_exactly(**stream, &reply, sizeof reply, patience()).is_ok());
    EXPECT_EQ(static_cast<Code>(reply.code), Code::kStale);
  }
}

TEST_F(TlsServerTest, AWrongTokenIsToldSoWithinTls) {
  PeerFacts peer = facts();
  peer.token = "guess";
  const auto status = connecting_with(peer);
  EXPECT_EQ(status.code(), Code::kInvalidArgument);
  EXPECT_NE(status.message().find("token"), std::string::npos) << status.message();
}

TEST_F(TlsServerTest, ACallerThatSpeaksPlainIsToldSo) {
  PeerFacts peer = facts();
  peer.certificate.clear();
  const auto status = connecting_with(peer);
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_NE(status.message().find("TLS"), std::string::npos) << status.message();
  peer.tls = connecting_;  // does not even try
  EXPECT_EQ(connecting_with(peer).code(), Code::kUnsupported);
  const auto deadline = Deadline::after(std::chrono::seconds(20));  // the caller may hear of it first
  while (server_->stats().refused == 0 && !deadline.passed()) std::this_thread::yield();
  EXPECT_EQ(server_->stats().refused, 1u);
}

TEST_F(TlsServerTest, AListenerThatSpeaksPlainIsAnErrorForWhoSpeaksTls) {
  server_ = serve(nullptr);
  const auto status = connecting_with(facts());
  EXPECT_EQ(status.code(), Code::kPeerLost);
  EXPECT_NE(status.message().find("TLS"), std::string::npos) << status.message();
}

TEST_F(TlsServerTest, TheDestructorWaitsForNoHandshake) {
  const auto silent = os::connect_tcp(server_->address(), patience());
  ASSERT_TRUE(silent.is_ok());
  server_.reset();
}

}  // namespace
}  // namespace beeline::transport::tcp
