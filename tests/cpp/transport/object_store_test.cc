// The object store's server against readers that are hostile or cut off, and registrations that end meanwhile.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "beeline/base/bytes.h"
#include "beeline/base/msgpack.h"
#include "beeline/os/unix_socket.h"
#include "beeline/transport/object_store/messages.h"
#include "beeline/transport/object_store/server.h"
#include "beeline/transport/object_store/transport.h"
#include "no_threads.h"
#include "patience.h"

namespace beeline::transport::object_store {
namespace {

constexpr memory::PublicationId kId{1, 1};

// As Exposures packs them.
struct PackedKey {
  std::uint64_t offset = 0, length = 0;
  Bytes key;
  MSGPACK_DEFINE_ARRAY(offset, length, key)
};

class ObjectStoreTest : public ::testing::Test {
 protected:
  std::uint64_t extent(Access access = Access::kRead) {
    const RegionSource::Held held{nullptr, memory_.data(), memory_.size(), {}, extents_, nullptr};
    const auto key = server_.key(kId, held, access);
    EXPECT_TRUE(key) << key.status().message();
    const auto packed = unpack<std::vector<PackedKey>>(*key, "keys");
    EXPECT_TRUE(packed && packed->size() == 1);
    Reader reader(packed->front().key);
    return reader.read<std::uint64_t>();
  }
  os::FrameSocket connect() {
    const auto contact = server_.contact();
    EXPECT_TRUE(contact) << contact.status().message();
    return os::FrameSocket(std::move(*os::connect_unix(std::string(as_text(*contact)), patience())));
  }
  os::FrameSocket open() {
    auto socket = connect();
    const auto memory = os::make_memfd("staging", kStagingBytes);
    EXPECT_TRUE(memory);
    staging_ =
        std::move(*os::Mapping::map(memory->get(), 0, kStagingBytes, os::Access::kReadWrite, os::Sharing::kShared));
    EXPECT_TRUE(socket.send(view_of(Hello{}), {memory->get()}));
    return socket;
  }
  static Bytes request(Op op, std::uint32_t chunk, const std::vector<RunRecord>& runs) {
    Bytes frame;
    Writer writer(frame);
    writer.write(Request{op, chunk, static_cast<std::uint32_t>(runs.size()), 0});
    for (const RunRecord& run : runs) writer.write(run);
    return frame;
  }
  static Code ask(os::FrameSocket& socket, const Bytes& frame) {
    EXPECT_TRUE(socket.send(frame));
    os::Frame answer;
    EXPECT_TRUE(socket.receive_within(answer, patience()));
    Reader reader(answer.bytes);
    return static_cast<Code>(reader.read<Reply>().code);
  }
  static bool ends(os::FrameSocket& socket) {
    os::Frame frame;
    return socket.receive_within(frame, patience()).code() == Code::kPeerLost;
  }

  std::vector<std::byte> memory_ = std::vector<std::byte>(1 << 16, std::byte{42});
  std::vector<memory::Range> extents_{{16, (1 << 16) - 32}};
  os::Mapping staging_;
  Server server_;
};

TEST_F(ObjectStoreTest, RunsAreGatheredInTheChunkThatWasNamed) {
  auto socket = open();
  const auto key = extent();
  memory_[16] = std::byte{1};
  memory_[16 + 200] = std::byte{2};
  memory_[16 + 5] = std::byte{3};
  EXPECT_EQ(ask(socket, request(Op::kRead, 2, {{key, 0, 1, 2, 200}, {key, 5, 10, 1, 0}})), Code::kOk);
  const std::byte* chunk = staging_.data() + 2 * kChunkBytes;
  EXPECT_EQ(chunk[0], std::byte{1});
  EXPECT_EQ(chunk[1], std::byte{2});
  EXPECT_EQ(chunk[2], std::byte{3});
  EXPECT_EQ(chunk[11], std::byte{42});
  EXPECT_EQ(chunk[12], std::byte{0});
}

TEST_F(ObjectStoreTest, WhatIsNotThereIsRefusedAndTheConnectionGoesOn) {
  auto socket = open();
  const auto key = extent();
  const std::uint64_t size = extents_[0].length;
  EXPECT_EQ(ask(socket, request(Op::kRead, 0, {{key + 1, 0, 8, 1, 0}})), Code::kStale);
  EXPECT_EQ(ask(socket, request(Op::kRead, 0, {{key, size, 1, 1, 0}})), Code::kInvalidArgument);
  EXPECT_EQ(ask(socket, request(Op::kRead, 0, {{key, UINT64_MAX, 2, 1, 0}})), Code::kInvalidArgument);
  EXPECT_EQ(ask(socket, request(Op::kRead, 0, {{key, 0, 1, UINT64_MAX, UINT64_MAX}})), Code::kInvalidArgument);
  EXPECT_EQ(ask(socket, request(Op::kRead, 0, {{key, 0, size, 17, 0}})), Code::kInvalidArgument);  // beyond a chunk
  EXPECT_EQ(ask(socket, request(Op::kRead, 0, {{key, 0, 0, 1ull << 63, 0}})), Code::kInvalidArgument);  // for ever
  EXPECT_EQ(ask(socket, request(Op::kWrite, 0, {{key, 0, 8, 1, 0}})), Code::kInvalidArgument);  // for reading only
  EXPECT_EQ(ask(socket, request(Op::kRead, 0, {{key, 0, 8, 1, 0}})), Code::kOk);
}

TEST_F(ObjectStoreTest, AWriteNeedsItsOwnKey) {
  auto socket = open();
  const auto key = extent(Access::kWrite);
  staging_.data()[0] = std::byte{7};
  EXPECT_EQ(ask(socket, request(Op::kWrite, 0, {{key, 3, 1, 1, 0}})), Code::kOk);
  EXPECT_EQ(memory_[16 + 3], std::byte{7});
  EXPECT_EQ(ask(socket, request(Op::kRead, 0, {{key, 3, 1, 1, 0}})), Code::kInvalidArgument);
}

TEST_F(ObjectStoreTest, WhatIsNoRequestEndsTheConnection) {
  const auto key = extent();
  Bytes cut = request(Op::kRead, 0, {{key, 0, 8, 1, 0}});
  cut.pop_back();
  const Bytes many = request(Op::kRead, 0, std::vector<RunRecord>(kMaxRequestRuns + 1, RunRecord{key, 0, 1, 1, 0}));
  for (const Bytes& frame : {Bytes{}, Bytes(8), cut, many, request(static_cast<Op>(3), 0, {}),
                             request(Op::kRead, kChunks, {{key, 0, 8, 1, 0}})}) {
    auto socket = open();
    EXPECT_TRUE(socket.send(frame));
    EXPECT_TRUE(ends(socket));
  }
  auto socket = open();
  EXPECT_EQ(ask(socket, request(Op::kRead, 0, {{key, 0, 8, 1, 0}})), Code::kOk);
}

TEST_F(ObjectStoreTest, MemoryThatCouldShrinkIsRefused) {
  const os::Fd unsealed(::memfd_create("unsealed", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(unsealed.get(), kStagingBytes), 0);
  const auto small = os::make_memfd("small", kStagingBytes / 2);
  const os::Fd pipe_like = std::move(os::make_socket_pair()->first);
  for (const int fd : {unsealed.get(), small->get(), pipe_like.get()}) {
    auto socket = connect();
    EXPECT_TRUE(socket.send(view_of(Hello{}), {fd}));
    EXPECT_TRUE(ends(socket));
  }
  auto socket = connect();
  EXPECT_TRUE(socket.send(view_of(Hello{})));
  EXPECT_TRUE(ends(socket));
}

TEST_F(ObjectStoreTest, MoreConnectionsThanThereCanBeAreToldSo) {
  std::vector<os::FrameSocket> sockets;
  for (std::size_t i = 0; i < Server::kMaxConnections; ++i) sockets.push_back(connect());
  auto late = connect();
  os::Frame answer;
  ASSERT_TRUE(late.receive_within(answer, patience()));
  Reader reader(answer.bytes);
  EXPECT_EQ(static_cast<Code>(reader.read<Reply>().code), Code::kResourceExhausted);
  sockets.clear();
  // Their threads end; then there is room again.
  const auto key = extent();
  for (;;) {
    auto socket = open();
    const Code code = ask(socket, request(Op::kRead, 0, {{key, 0, 8, 1, 0}}));
    if (code == Code::kOk) break;
    ASSERT_EQ(code, Code::kResourceExhausted);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

TEST_F(ObjectStoreTest, WithoutAThreadAReaderIsToldSoAndOthersGoOn) {
  const LimitedUser user;
  if (!user.is_so()) GTEST_SKIP() << "this process cannot become another user's, and root's threads have no limit";
  const auto key = extent();
  auto socket = open();
  const auto asked = request(Op::kRead, 0, {{key, 0, 8, 1, 0}});
  EXPECT_EQ(ask(socket, asked), Code::kOk);
  {
    const NoThreads none;
    auto late = connect();
    os::Frame answer;
    ASSERT_TRUE(late.receive_within(answer, patience()));
    Reader reader(answer.bytes);
    EXPECT_EQ(static_cast<Code>(reader.read<Reply>().code), Code::kSystem);
    const std::string why(as_text(reader.read_bytes(reader.left())));
    EXPECT_NE(why.find("start a thread"), std::string::npos) << why;
    EXPECT_TRUE(ends(late));
    EXPECT_EQ(ask(socket, asked), Code::kOk);
  }
  auto next = open();
  EXPECT_EQ(ask(next, asked), Code::kOk);
}

// Nobody reads memory that was withdrawn: a reader in a loop against a registration that ends, and memory that goes.
TEST_F(ObjectStoreTest, AWithdrawnExtentIsNotReadAnyMore) {
  auto socket = open();
  for (int round = 0; round < 200; ++round) {
    const auto key = extent();
    std::atomic<bool> began{false};
    std::thread reader([&] {
      Code last = Code::kOk;
      while (last == Code::kOk) {
        last = ask(socket, request(Op::kRead, 0, {{key, 0, 1 << 15, 1, 0}}));
        began = true;
      }
      EXPECT_EQ(last, Code::kStale);
    });
    while (!began) std::this_thread::yield();
    server_.withdraw(kId);
    memory_ = std::vector<std::byte>(1 << 16, std::byte{42});  // sanitizers see a read of the old one
    reader.join();
  }
}

}  // namespace
}  // namespace beeline::transport::object_store
