// How a TCP connection is opened: who gets in, who learns what, and what garbage, replays and reflections come to.
#include "beeline/transport/tcp/opening.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstring>
#include <future>
#include <optional>
#include <random>

#include "beeline/os/unix_socket.h"
#include "beeline/transport/builtin.h"
#include "beeline/transport/tcp/stream.h"
#include "patience.h"
#include "seed.h"
#include "transport/no_region.h"

namespace beeline::transport::tcp {
namespace {

constexpr std::string_view kToken = "correct horse";

using Stream = std::unique_ptr<os::ByteStream>;

struct Pair {
  Stream caller, listener;
};
Pair make_pair() {
  auto sockets = os::make_socket_pair();
  EXPECT_TRUE(sockets.is_ok());
  return {os::plain_stream(std::move(sockets->first)), os::plain_stream(std::move(sockets->second))};
}

Status send(os::ByteStream& stream, BytesView bytes) {
  std::vector<iovec> pieces{{const_cast<std::byte*>(bytes.data()), bytes.size()}};
  return send_all(stream, pieces, patience());
}

template <typename T>
T take(os::ByteStream& stream) {
  T value{};
  const auto status = receive_exactly(stream, &value, sizeof value, patience());
  EXPECT_TRUE(status.is_ok()) << status.message();
  return value;
}
std::string take_text(os::ByteStream& stream, std::uint32_t size) {
  std::string text(size, '\0');
  EXPECT_TRUE(receive_exactly(stream, text.data(), text.size(), patience()).is_ok());
  return text;
}

std::future<Result<Caller>> admit(os::ByteStream& stream, std::string_view token = kToken) {
  return std::async(std::launch::async,
                    [&stream, token] { return admit_connection(stream, "listener", token, patience()); });
}
std::future<Status> open(os::ByteStream& stream, std::string_view token = kToken) {
  return std::async(std::launch::async, [&stream, token] {
    return open_connection(stream, Purpose::kStream, "caller", "listener", token, patience());
  });
}

// One side by hand: what it has said and heard.
struct ByHand {
  Opening opening;
  Challenge challenge;
  Proof caller_proof{}, listener_proof{};

  [[nodiscard]] Transcript transcript() const {
    return {opening.purpose, opening.nonce, challenge.nonce, "caller", "listener", {}};
  }
  // A caller that gets as far as the challenge.
  void call(os::ByteStream& stream, const Nonce& nonce, Purpose purpose = Purpose::kStream) {
    opening.purpose = purpose;
    opening.id_bytes = 6;
    opening.has_token = 1;
    opening.nonce = nonce;
    EXPECT_TRUE(send(stream, view_of(opening)));
    EXPECT_TRUE(send(stream, as_bytes("caller")));
    EXPECT_EQ(take<Answer>(stream).code, 0u);
    challenge = take<Challenge>(stream);
    EXPECT_EQ(take_text(stream, challenge.id_bytes), "listener");
  }
  // A listener that asks, and hears the caller's proof.
  void listen(os::ByteStream& stream, const Nonce& nonce) {
    opening = take<Opening>(stream);
    EXPECT_EQ(take_text(stream, opening.id_bytes), "caller");
    challenge.nonce = nonce;
    challenge.id_bytes = 8;
    EXPECT_TRUE(send(stream, view_of(Answer{})));
    EXPECT_TRUE(send(stream, view_of(challenge)));
    EXPECT_TRUE(send(stream, as_bytes("listener")));
    caller_proof = take<Proof>(stream);
  }
};

constexpr Nonce kOurs{std::byte{1}};
constexpr Nonce kTheirs{std::byte{2}};

TEST(OpeningTest, BothSidesLearnThatTheOtherHasTheToken) {
  auto [caller, listener] = make_pair();
  auto admitted = admit(*listener);
  const auto opened = open_connection(*caller, Purpose::kControl, "caller", "listener", kToken, patience());
  EXPECT_TRUE(opened.is_ok()) << opened.message();
  const auto who = admitted.get();
  ASSERT_TRUE(who.is_ok()) << who.status().message();
  EXPECT_EQ(who->agent_id, "caller");
  EXPECT_EQ(who->purpose, Purpose::kControl);
}

TEST(OpeningTest, NeitherTokenNorProofComeAgain) {
  std::vector<ByHand> openings(2);
  for (ByHand& each : openings) {
    auto [caller, listener] = make_pair();
    auto opened = open(*caller);
    each.listen(*listener, kOurs);
    EXPECT_EQ(each.caller_proof, prove(kToken, Side::kCaller, each.transcript()));
    listener.reset();
    EXPECT_EQ(opened.get().code(), Code::kPeerLost);
  }
  EXPECT_NE(openings[0].opening.nonce, openings[1].opening.nonce);
  EXPECT_NE(openings[0].caller_proof, openings[1].caller_proof);
}

TEST(OpeningTest, WhoHasAnotherTokenIsToldSo) {
  for (const std::string_view token : {"", "Correct horse", "correct hors", "correct horse "}) {
    auto [caller, listener] = make_pair();
    auto admitted = admit(*listener);
    const auto opened = open(*caller, token).get();
    EXPECT_EQ(opened.code(), Code::kInvalidArgument);
    EXPECT_NE(opened.message().find("token"), std::string::npos) << opened.message();
    EXPECT_EQ(admitted.get().status().code(), Code::kInvalidArgument);
  }
}

TEST(OpeningTest, AnythingElseInTheProofIsAnotherProof) {
  const Transcript said{Purpose::kStream, kOurs, kTheirs, "caller", "listener", {}};
  const auto proof = prove(kToken, Side::kCaller, said);
  EXPECT_NE(prove(kToken, Side::kListener, said), proof);
  EXPECT_NE(prove("another", Side::kCaller, said), proof);
  Transcript other = said;
  other.purpose = Purpose::kControl;
  EXPECT_NE(prove(kToken, Side::kCaller, other), proof);
  other = said;
  std::swap(other.caller_nonce, other.listener_nonce);
  EXPECT_NE(prove(kToken, Side::kCaller, other), proof);
  other = said;
  other.caller_id = "callerl";
  other.listener_id = "istener";
  EXPECT_NE(prove(kToken, Side::kCaller, other), proof);
  other = said;
  other.binding.resize(1);
  EXPECT_NE(prove(kToken, Side::kCaller, other), proof);
}

TEST(OpeningTest, WhatACallerSaidOnceIsWorthNothingLater) {
  ByHand first;
  {
    auto [caller, listener] = make_pair();
    auto admitted = admit(*listener);
    first.call(*caller, kOurs);
    first.caller_proof = prove(kToken, Side::kCaller, first.transcript());
    ASSERT_TRUE(send(*caller, view_of(first.caller_proof)));
    EXPECT_EQ(take<Answer>(*caller).code, 0u);
    EXPECT_EQ(take<Proof>(*caller), prove(kToken, Side::kListener, first.transcript()));
    EXPECT_TRUE(admitted.get().is_ok());
  }
  auto [caller, listener] = make_pair();
  auto admitted = admit(*listener);
  ByHand again;
  again.call(*caller, kOurs);
  EXPECT_NE(again.challenge.nonce, first.challenge.nonce);
  ASSERT_TRUE(send(*caller, view_of(first.caller_proof)));
  EXPECT_EQ(admitted.get().status().code(), Code::kInvalidArgument);
  EXPECT_NE(take<Answer>(*caller).code, 0u);
}

TEST(OpeningTest, AProofForOnePurposeOpensNoOther) {
  auto [caller, listener] = make_pair();
  auto admitted = admit(*listener);
  ByHand hand;
  hand.call(*caller, kOurs, Purpose::kControl);
  Transcript transcript = hand.transcript();
  transcript.purpose = Purpose::kStream;
  ASSERT_TRUE(send(*caller, view_of(prove(kToken, Side::kCaller, transcript))));
  EXPECT_FALSE(admitted.get().is_ok());
}

TEST(OpeningTest, AListenerThatOnlyNodsIsRefused) {
  for (const bool reflects : {false, true}) {
    auto [caller, listener] = make_pair();
    auto opened = open(*caller);
    ByHand hand;
    hand.listen(*listener, kTheirs);
    ASSERT_TRUE(send(*listener, view_of(Answer{})));
    // The caller's own proof, or one by another token.
    const auto proof = reflects ? hand.caller_proof : prove("guess", Side::kListener, hand.transcript());
    ASSERT_TRUE(send(*listener, view_of(proof)));
    const auto status = opened.get();
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_NE(status.message().find("token"), std::string::npos) << status.message();
  }
}

TEST(OpeningTest, AListenersOldProofIsRefused) {
  Proof old{};
  for (int round = 0; round < 2; ++round) {
    auto [caller, listener] = make_pair();
    auto opened = open(*caller);
    ByHand hand;
    hand.listen(*listener, kTheirs);
    if (round == 0) old = prove(kToken, Side::kListener, hand.transcript());
    ASSERT_TRUE(send(*listener, view_of(Answer{})));
    ASSERT_TRUE(send(*listener, view_of(old)));
    EXPECT_EQ(opened.get().is_ok(), round == 0);
  }
}

TEST(OpeningTest, AnotherAgentGetsNoProof) {
  auto [caller, listener] = make_pair();
  auto admitted = admit(*listener);
  const auto opened = open_connection(*caller, Purpose::kStream, "caller", "somebody", kToken, patience());
  EXPECT_EQ(opened.code(), Code::kNotFound) << opened.message();
  caller.reset();
  EXPECT_EQ(admitted.get().status().code(), Code::kPeerLost);
}

TEST(OpeningTest, AListenerThatAsksForNoTokenGetsNoCallerWithoutOne) {
  auto [caller, listener] = make_pair();
  auto opened = open(*caller, "");
  EXPECT_EQ(take<Opening>(*listener).has_token, 0u);
  ASSERT_TRUE(send(*listener, view_of(Answer{})));
  EXPECT_EQ(opened.get().code(), Code::kInvalidArgument);
}

// What the release before this one says.
TEST(OpeningTest, ACallerOfTheReleaseBeforeIsToldSo) {
  auto [caller, listener] = make_pair();
  auto admitted = admit(*listener);
  Bytes said;
  Writer writer(said);
  writer.append(as_bytes("Bleetcp2"));
  for (const std::uint32_t field : {2u, 6u, 5u, 0u}) writer.write(field);
  writer.append(as_bytes("callertoken"));
  ASSERT_TRUE(send(*caller, said));
  EXPECT_EQ(admitted.get().status().code(), Code::kUnsupported);
  const auto answer = take<Answer>(*caller);
  EXPECT_EQ(static_cast<Code>(answer.code), Code::kUnsupported);
  EXPECT_NE(take_text(*caller, answer.message_bytes).find("install one release"), std::string::npos);
}

TEST(OpeningTest, AListenerOfTheReleaseBeforeClosesAndThatIsSaid) {
  auto [caller, listener] = make_pair();
  auto opened = open(*caller);
  (void)take<std::array<std::byte, 24>>(*listener);
  listener.reset();
  const auto status = opened.get();
  EXPECT_EQ(status.code(), Code::kPeerLost);
  EXPECT_NE(status.message().find("another release"), std::string::npos) << status.message();
}

TEST(OpeningTest, WhatIsCutShortEndsTheWait) {
  // A whole exchange, of which the caller says less and less.
  Opening opening;
  opening.id_bytes = 6;
  opening.has_token = 1;
  Bytes said;
  Writer writer(said);
  writer.write(opening);
  writer.append(as_bytes("caller"));
  writer.write(Proof{});
  for (std::size_t size = 0; size < said.size(); ++size) {
    auto [caller, listener] = make_pair();
    ASSERT_TRUE(send(*caller, BytesView(said).first(size)));
    ::shutdown(caller->fd(), SHUT_WR);
    EXPECT_EQ(admit_connection(*listener, "listener", kToken, patience()).status().code(), Code::kPeerLost) << size;
  }
}

TEST(OpeningTest, WhoSaysNothingIsWaitedForNoLongerThanTheDeadline) {
  auto [caller, listener] = make_pair();
  const os::Wait brief(Deadline::after(std::chrono::milliseconds(20)));
  EXPECT_EQ(admit_connection(*listener, "listener", kToken, brief).status().code(), Code::kDeadlineExceeded);
  EXPECT_EQ(open_connection(*caller, Purpose::kStream, "caller", "listener", kToken, brief).code(),
            Code::kDeadlineExceeded);
}

TEST(OpeningTest, LengthsAreCheckedBeforeTheyAreBelieved) {
  auto [caller, listener] = make_pair();
  Opening opening;
  opening.id_bytes = 1u << 31;
  opening.has_token = 1;
  ASSERT_TRUE(send(*caller, view_of(opening)));
  EXPECT_EQ(admit_connection(*listener, "listener", kToken, patience()).status().code(), Code::kCorrupt);
  auto [second, liar] = make_pair();
  auto opened = open(*second);
  Challenge challenge;
  challenge.id_bytes = 1u << 31;
  ASSERT_TRUE(send(*liar, view_of(Answer{})));
  ASSERT_TRUE(send(*liar, view_of(challenge)));
  EXPECT_EQ(opened.get().code(), Code::kCorrupt);
}

TEST(OpeningTest, RandomBytesOpenNothingOnEitherSide) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  for (int round = 0; round < 2000; ++round) {
    Bytes bytes;
    Writer writer(bytes);
    const bool to_listener = random() % 2 == 0;
    if (to_listener && random() % 4 != 0) {
      Opening opening;
      opening.purpose = static_cast<Purpose>(random() % 4);
      opening.id_bytes = static_cast<std::uint32_t>(random() % 8);
      opening.has_token = static_cast<std::uint32_t>(random() % 2);
      writer.write(opening);
    } else if (!to_listener && random() % 4 != 0) {
      writer.write(Answer{static_cast<std::uint32_t>(random() % 3), static_cast<std::uint32_t>(random() % 3)});
    }
    for (auto left = random() % 200; left > 0; --left) bytes.push_back(static_cast<std::byte>(random()));
    auto [caller, listener] = make_pair();
    os::ByteStream& from = to_listener ? *caller : *listener;
    ASSERT_TRUE(send(from, bytes)) << "seed " << seed;
    ::shutdown(from.fd(), SHUT_WR);
    const Status status = to_listener
                              ? admit_connection(*listener, "listener", kToken, patience()).status()
                              : open_connection(*caller, Purpose::kStream, "caller", "listener", kToken, patience());
    ASSERT_FALSE(status.is_ok()) << "seed " << seed;
  }
}

// Registers nothing.
TEST(OpeningsTest, WhoSaysNothingKeepsNobodyOut) {
  NoRegion nothing;
  std::atomic<int> refused{0};
  const auto server = std::move(*serve_tcp({{"127.0.0.1", 0}, std::string(kToken), "listener", [&] { ++refused; }},
                                           nothing, [](Stream, const std::string&) {}));
  std::vector<os::Fd> silent;
  for (int i = 0; i < 400; ++i) {
    silent.push_back(std::move(*os::connect_tcp(server->address(), patience())));
    if (i % 100 != 99) continue;
    const Stream stream = os::plain_stream(std::move(*os::connect_tcp(server->address(), patience())));
    const auto opened = open_connection(*stream, Purpose::kStream, "caller", "listener", kToken, patience());
    EXPECT_TRUE(opened.is_ok()) << i << ": " << opened.message();
  }
  EXPECT_GT(server->stats().refused, 0u);
}

}  // namespace
}  // namespace beeline::transport::tcp
