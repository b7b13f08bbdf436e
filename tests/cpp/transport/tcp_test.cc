// The TCP server against callers that are hostile, slow, or cut off; and the cutting of transfers into requests.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <cstring>
#include <map>
#include <random>

#include "beeline/base/bytes.h"
#include "beeline/transport/builtin.h"
#include "beeline/transport/tcp/opening.h"
#include "beeline/transport/tcp/requests.h"
#include "beeline/transport/tcp/stream.h"
#include "patience.h"
#include "seed.h"

namespace beeline::transport::tcp {
namespace {

// One region of memory, as slot 1, generation 1; all of it registered but its last 16 bytes.
class OneRegion final : public RegionSource {
 public:
  Result<Held> hold(memory::PublicationId id, Access access, std::string_view /*agent_id*/) override {
    if (id.slot != 1 || id.generation != 1) return Status(Code::kStale, "no such region");
    if (access == Access::kWrite) return Status(Code::kInvalidArgument, "not granted");
    return Held{nullptr, memory_.data(), memory_.size(), {}, extents_, &writes_};
  }
  std::vector<std::byte>& memory() { return memory_; }
  std::atomic<std::uint64_t>& writes() { return writes_; }

 private:
  std::vector<std::byte> memory_ = std::vector<std::byte>(1 << 16, std::byte{42});
  std::vector<memory::Range> extents_{{0, (1 << 16) - 16}};
  std::atomic<std::uint64_t> writes_{0};
};

class TcpServerTest : public ::testing::Test {
 protected:
  using Stream = std::unique_ptr<os::ByteStream>;
  [[nodiscard]] Stream connect() const {
    return os::plain_stream(std::move(*os::connect_tcp(server_->address(), patience())));
  }
  [[nodiscard]] Stream open() const {
    auto stream = connect();
    EXPECT_TRUE(open_connection(*stream, Purpose::kStream, "caller", "listener", "secret", patience()));
    return stream;
  }
  static Status send(os::ByteStream& stream, BytesView bytes) {
    std::vector<iovec> pieces{{const_cast<std::byte*>(bytes.data()), bytes.size()}};
    return send_all(stream, pieces, patience());
  }
  // Whether the server closes the connection.
  static bool ends(const Stream& stream) {
    const int fd = stream->fd();
    std::array<std::byte, 4096> ignored{};
    for (;;) {
      if (!os::wait_ready(fd, POLLIN, patience(), "the end of a connection")) return false;
      const auto got = ::recv(fd, ignored.data(), ignored.size(), 0);
      if (got == 0 || (got < 0 && errno == ECONNRESET)) return true;
      if (got < 0 && errno != EAGAIN) return false;
    }
  }
  static Bytes request(const RequestHeader& header, const std::vector<RunRecord>& runs) {
    Bytes bytes;
    Writer writer(bytes);
    writer.write(header);
    for (const RunRecord& run : runs) writer.write(run);
    return bytes;
  }
  // The code of the reply to a request for one run.
  Code ask(const Stream& stream, const RunRecord& run, std::uint64_t bytes) {
    RequestHeader header;
    header.runs = 1;
    header.bytes = bytes;
    EXPECT_TRUE(send(*stream, request(header, {run})));
    ReplyHeader reply;
    EXPECT_TRUE(receive_exactly(*stream, &reply, sizeof reply, patience()));
    std::vector<std::byte> rest(reply.message_bytes + reply.bytes);
    EXPECT_TRUE(receive_exactly(*stream, rest.data(), rest.size(), patience()));
    if (reply.code == 0) {
      EXPECT_TRUE(receive_exactly(*stream, &trailer_, sizeof trailer_, patience()));
    }
    return static_cast<Code>(reply.code);
  }

  ReadTrailer trailer_;  // of the last read
  OneRegion region_;
  std::atomic<int> controls_{0};
  std::unique_ptr<Server> server_ =
      std::move(*serve_tcp({{"127.0.0.1", 0}, "secret", "listener"}, region_,
                           [this](std::unique_ptr<os::ByteStream>, const std::string&) { ++controls_; }));
};

TEST_F(TcpServerTest, ARequestIsAnswered) {
  const auto stream = open();
  EXPECT_EQ(ask(stream, {1, 1, 10, 100, 1, 0}, 100), Code::kOk);
  EXPECT_EQ(ask(stream, {1, 1, 10, 100, 3, 200}, 300), Code::kOk);
}

TEST_F(TcpServerTest, AReadSaysWhetherItIsTorn) {
  const auto stream = open();
  constexpr std::uint64_t kLarge = 65520 / 3;  // sent from where it lies; the small one is gathered first
  for (const std::uint64_t length : {std::uint64_t{100}, kLarge}) {
    region_.writes() = 5 * memory::PublicationSlot::kOneWrite;
    EXPECT_EQ(ask(stream, {1, 1, 10, length, 1, 0}, length), Code::kOk);
    EXPECT_EQ(trailer_.writes, 5 * memory::PublicationSlot::kOneWrite);
    region_.writes() += 1;
    EXPECT_EQ(ask(stream, {1, 1, 10, length, 1, 0}, length), Code::kOk);
    EXPECT_EQ(trailer_.writes, ReadTrailer::kTorn);
  }
}

TEST_F(TcpServerTest, WhatIsNotThereIsRefusedAndTheConnectionGoesOn) {
  const auto stream = open();
  EXPECT_EQ(ask(stream, {2, 1, 0, 8, 1, 0}, 8), Code::kStale);
  EXPECT_EQ(ask(stream, {1, 2, 0, 8, 1, 0}, 8), Code::kStale);
  EXPECT_EQ(ask(stream, {1, 1, 1 << 16, 1, 1, 0}, 1), Code::kInvalidArgument);
  EXPECT_EQ(ask(stream, {1, 1, UINT64_MAX, 2, 1, 0}, 2), Code::kInvalidArgument);
  EXPECT_EQ(ask(stream, {1, 1, 0, 1, UINT64_MAX, UINT64_MAX}, 1), Code::kInvalidArgument);
  EXPECT_EQ(ask(stream, {1, 1, 0, 0, UINT64_MAX, 0}, 0), Code::kInvalidArgument);
  EXPECT_EQ(ask(stream, {1, 1, 0, 1, UINT64_MAX, 0}, 1), Code::kInvalidArgument);
  EXPECT_EQ(ask(stream, {1, 1, 0, 8, 1, 0}, 9), Code::kInvalidArgument);        // lies about its size
  EXPECT_EQ(ask(stream, {1, 1, 65520, 16, 1, 0}, 16), Code::kInvalidArgument);  // not registered
  EXPECT_EQ(ask(stream, {1, 1, 0, 100, 1, 0}, 100), Code::kOk);
  EXPECT_EQ(server_->stats().failed, 9u);
}

TEST_F(TcpServerTest, AWriteThatIsNotGrantedIsReadAndDropped) {
  const auto stream = open();
  RequestHeader header;
  header.op = Op::kWrite;
  header.runs = 1;
  header.bytes = 1000;
  Bytes bytes = request(header, {{1, 1, 0, 1000, 1, 0}});
  bytes.resize(bytes.size() + 1000);
  EXPECT_TRUE(send(*stream, bytes));
  ReplyHeader reply;
  EXPECT_TRUE(receive_exactly(*stream, &reply, sizeof reply, patience()));
  EXPECT_EQ(static_cast<Code>(reply.code), Code::kInvalidArgument);
  std::string message(reply.message_bytes, ' ');
  EXPECT_TRUE(receive_exactly(*stream, message.data(), message.size(), patience()));
  EXPECT_EQ(ask(stream, {1, 1, 0, 100, 1, 0}, 100), Code::kOk);
  EXPECT_EQ(region_.memory()[0], std::byte{42});
}

TEST_F(TcpServerTest, NonsenseEndsTheConnection) {
  RequestHeader bad;
  for (auto spoil : {+[](RequestHeader& h) { h.magic = 1; }, +[](RequestHeader& h) { h.runs = kMaxRequestRuns + 1; },
                     +[](RequestHeader& h) { h.bytes = kMaxRequestBytes + 1; },
                     +[](RequestHeader& h) { h.op = static_cast<Op>(7); }}) {
    bad = {};
    spoil(bad);
    const auto stream = open();
    EXPECT_TRUE(send(*stream, request(bad, {})));
    EXPECT_TRUE(ends(stream));
  }
  const auto stranger = connect();
  EXPECT_TRUE(send(*stranger, as_bytes("GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n")));
  EXPECT_TRUE(ends(stranger));
}

TEST_F(TcpServerTest, AWrongTokenIsToldSo) {
  for (const std::string token : {"", "Secret", "secret2", "secre"}) {
    const auto stream = connect();
    const auto status = open_connection(*stream, Purpose::kStream, "caller", "listener", token, patience());
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    EXPECT_NE(status.message().find("token"), std::string::npos);
    EXPECT_TRUE(ends(stream));
  }
  EXPECT_EQ(server_->stats().refused, 4u);
  EXPECT_FALSE(serve_tcp({{"127.0.0.1", 0}, "", "listener"}, region_, nullptr).is_ok());
}

TEST_F(TcpServerTest, ControlConnectionsAreHandedOn) {
  PeerFacts peer;
  peer.self_id = "caller";
  peer.peer_id = "listener";
  peer.token = "secret";
  const auto stream = connect_control(server_->address(), peer, patience());
  ASSERT_TRUE(stream.is_ok());
  EXPECT_TRUE(ends(*stream));  // the test let go of it
  EXPECT_EQ(controls_, 1);
}

TEST_F(TcpServerTest, RandomBytesHarmNobody) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  const auto steady = open();
  for (int round = 0; round < 200; ++round) {
    const auto stream = random() % 2 == 0 ? open() : connect();
    RequestHeader header;
    header.runs = static_cast<std::uint32_t>(random() % 4);
    header.bytes = random() % 5000;
    Bytes bytes = random() % 2 == 0 ? request(header, {}) : Bytes();
    for (auto left = random() % 200; left > 0; --left) bytes.push_back(static_cast<std::byte>(random()));
    ASSERT_TRUE(send(*stream, bytes)) << "seed " << seed;
    ASSERT_EQ(ask(steady, {1, 1, 0, 100, 1, 0}, 100), Code::kOk) << "seed " << seed;
  }
}

TEST_F(TcpServerTest, ClosingEndsConnectionsThatIdle) {
  const auto idle = open();
  const auto opening = connect();
  server_.reset();
  EXPECT_TRUE(ends(idle));
}

TEST(RequestsTest, EveryByteIsAskedForOnce) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  for (int round = 0; round < 200; ++round) {
    Region region;
    region.id = {1, 1};
    region.length = 64u << 20;
    std::vector<transport::Run> runs;
    std::vector<std::byte> local(8);
    std::uint64_t expected = 0;
    std::byte* at = nullptr;
    for (auto left = random() % 20; left > 0; --left) {
      transport::Run run{&region, random() % 1000, at};
      run.length = random() % 3 == 0 ? random() % (9 << 20) : random() % 3000;
      run.count = 1 + random() % (run.length > 100'000 ? 2 : 1000);
      run.stride = run.length + random() % 100;
      run.local_stride = random() % 2 == 0 ? run.length : run.length + 8;
      expected += run.bytes();
      at += run.count * run.local_stride;
      runs.push_back(run);
    }
    Requests requests(runs);
    std::uint64_t asked = 0;
    bool once_more = false;
    std::vector<Request> held;
    while (auto request = requests.next()) {
      ASSERT_LE(request->bytes, kMaxRequestBytes) << "seed " << seed;
      ASSERT_LE(request->runs.size(), kMaxRequestRuns) << "seed " << seed;
      std::uint64_t remote = 0;
      std::uint64_t here = 0;
      for (const RunRecord& run : request->runs) remote += run.length * run.count;
      for (const iovec& piece : request->local) here += piece.iov_len;
      ASSERT_EQ(remote, request->bytes) << "seed " << seed;
      ASSERT_EQ(here, request->bytes) << "seed " << seed;
      if (!once_more && random() % 5 == 0) {
        once_more = true;
        requests.give_back(std::move(*request));
        continue;
      }
      asked += request->bytes;
    }
    ASSERT_EQ(asked, expected) << "seed " << seed;
  }
}

}  // namespace
}  // namespace beeline::transport::tcp
