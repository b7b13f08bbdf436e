// The owner's side of nccl against readers that are strangers, forge requests or stall, over AN EMULATOR of NCCL and
// one of NVIDIA's driver (tests/emulators): nothing here ran on a GPU. Between processes it is tested from Python
// (tests/conformance/test_nccl.py).
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <future>
#include <string>
#include <thread>

#include "beeline/base/msgpack.h"
#include "beeline/os/nccl_library.h"
#include "beeline/os/unix_socket.h"
#include "beeline/transport/nccl/endpoint.h"
#include "beeline/transport/nccl/exporter.h"
#include "beeline/transport/nccl/opening.h"
#include "cuda_emulator.h"
#include "nccl_emulator.h"
#include "patience.h"

namespace beeline::transport::nccl {
namespace {

constexpr memory::PublicationId kId{1, 1};
constexpr std::size_t kBytes = 1 << 16;

#define CUDA(function) reinterpret_cast<decltype(&function)>(::dlsym(cuda(), #function))
#define NCCL(function) reinterpret_cast<decltype(&function)>(::dlsym(nccl(), #function))

// As Exposures packs them.
struct PackedKey {
  std::uint64_t offset = 0, length = 0;
  Bytes key;
  MSGPACK_DEFINE_ARRAY(offset, length, key)
};

class NcclTest : public ::testing::Test {
 protected:
  // Of all suites: the driver keeps its name.
  struct Folder {
    char path[sizeof "/tmp/bncclXXXXXX"] = "/tmp/bncclXXXXXX";
    Folder() { EXPECT_NE(::mkdtemp(path), nullptr); }
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  };
  static void SetUpTestSuite() {
    static const Folder folder;
    ::setenv("CUDA_EMULATOR_FOLDER", folder.path, 1);
    ::setenv("BEELINE_CUDA_LIBRARY", CUDA_EMULATOR_PATH, 1);
    ::setenv("BEELINE_NCCL_LIBRARY", NCCL_EMULATOR_PATH, 1);
    ASSERT_TRUE(cuda::Driver::open().is_ok()) << cuda::Driver::open().status().message();
    ASSERT_TRUE(os::nccl::Library::open({}).is_ok()) << os::nccl::Library::open({}).status().message();
  }
  static void* cuda() {
    static void* const opened = ::dlopen(CUDA_EMULATOR_PATH, RTLD_NOW | RTLD_LOCAL);
    return opened;
  }
  static void* nccl() {
    static void* const opened = ::dlopen(NCCL_EMULATOR_PATH, RTLD_NOW | RTLD_LOCAL);
    return opened;
  }
  static void stall(const char* where) { ::setenv("NCCL_EMULATOR_STALL", where, 1); }

  explicit NcclTest(Nanos stall_patience = std::chrono::milliseconds(500))
      : exporter_(gpus_, {"", "127.0.0.1"}, stall_patience) {
    stall("");
    memory_ = allocate(0);
    target_ = allocate(1);
  }
  ~NcclTest() override { stall(""); }

  static std::byte* allocate(int device) {
    use(device);
    CUdeviceptr address = 0;
    EXPECT_EQ(CUDA(cuMemAlloc_v2)(&address, kBytes), 0);
    return reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(address));
  }
  static void use(int device) {
    CUcontext context = nullptr;
    ASSERT_EQ(CUDA(cuDevicePrimaryCtxRetain)(&context, device), 0);
    ASSERT_EQ(CUDA(cuCtxSetCurrent)(context), 0);
  }
  static void fill(std::byte* memory, int device, int value, std::uint64_t run_us = 0) {
    use(device);
    EXPECT_EQ(CUDA(cuEmulatorFill)(reinterpret_cast<std::uintptr_t>(memory), value, kBytes, run_us, nullptr), 0);
  }
  static Bytes content(std::byte* memory, int device) {
    use(device);
    Bytes bytes(kBytes);
    EXPECT_EQ(CUDA(cuMemcpyDtoH_v2)(bytes.data(), reinterpret_cast<std::uintptr_t>(memory), kBytes), 0);
    return bytes;
  }

  Bytes packed_key(Access access = Access::kRead) {
    const RegionSource::Held held{nullptr, memory_, kBytes, {Device::kCuda, 0}, extents_, nullptr};
    auto key = exporter_.key(kId, held, access);
    EXPECT_TRUE(key) << key.status().message();
    return *key;
  }
  std::uint64_t extent(Access access = Access::kRead) {
    const auto packed = unpack<std::vector<PackedKey>>(packed_key(access), "keys");
    EXPECT_TRUE(packed && packed->size() == 1);
    Reader reader(packed->front().key);
    return reader.read<std::uint64_t>();
  }
  Contact contact() {
    const auto told = exporter_.contact();
    EXPECT_TRUE(told) << told.status().message();
    return *unpack<Contact>(*told, "a contact");
  }

  // A reader by hand, as far as its communicator.
  struct ByHand {
    os::FrameSocket socket;
    std::unique_ptr<Communicator> communicator;
  };
  static std::unique_ptr<os::ByteStream> connect(const Contact& contact) {
    return os::plain_stream(std::move(*os::connect_unix(contact.unix_name, patience())));
  }
  ByHand open(int device = 1) {
    const Contact own = contact();
    auto stream = connect(own);
    EXPECT_TRUE(open_connection(*stream, own.secret, patience()));
    ByHand hand;
    hand.socket = os::FrameSocket(std::move(stream));
    Join join;
    std::copy_n(own.uuids.at(static_cast<std::size_t>(device)).begin(), 16, join.uuid.begin());
    EXPECT_TRUE(hand.socket.send(view_of(join)));
    return hand;
  }
  void meet(ByHand& hand) {
    const os::nccl::Library& library = **os::nccl::Library::open({});
    os::nccl::UniqueId id{};
    EXPECT_EQ(library.functions().get_unique_id(&id), os::nccl::kSuccess);
    EXPECT_TRUE(hand.socket.send(view_of(id)));
    const auto always = [] { return Status::ok(); };
    auto made = Communicator::make(library, *gpus_->at(1), id, kReaderRank, always);
    ASSERT_TRUE(made) << made.status().message();
    hand.communicator = std::move(*made);
    EXPECT_EQ(hear(hand), Code::kOk);
  }
  ByHand joined() {
    ByHand hand = open();
    EXPECT_EQ(hear(hand), Code::kOk);
    meet(hand);
    return hand;
  }
  // The code of a reply; what follows it is in heard_.
  Code hear(ByHand& hand) {
    os::Frame answer;
    const Status status = hand.socket.receive_within(answer, patience());
    EXPECT_TRUE(status) << status.message();
    Reader reader(answer.bytes);
    const auto code = static_cast<Code>(reader.read<Reply>().code);
    const BytesView rest = reader.read_bytes(reader.left());
    heard_.assign(rest.begin(), rest.end());
    return code;
  }
  static Bytes request(Op op, const std::vector<RunRecord>& runs) {
    Bytes frame;
    Writer writer(frame);
    writer.write(Request{op, static_cast<std::uint32_t>(runs.size())});
    for (const RunRecord& run : runs) writer.write(run);
    return frame;
  }
  Code ask(ByHand& hand, const Bytes& frame) {
    EXPECT_TRUE(hand.socket.send(frame));
    return hear(hand);
  }
  static bool ends(os::FrameSocket& socket) {
    os::Frame frame;
    for (;;) {
      const Status status = socket.receive_within(frame, patience());
      if (!status) return status.code() == Code::kPeerLost;
    }
  }
  Status take(ByHand& hand, std::uint64_t bytes) {
    const Piece piece{target_, bytes};
    Lane lane(*gpus_->at(1));
    const auto always = [] { return Status::ok(); };
    return hand.communicator->move({&piece, 1}, Way::kReceive, lane, always);
  }

  std::byte* memory_ = nullptr;  // of GPU 0
  std::byte* target_ = nullptr;  // of GPU 1
  std::vector<memory::Range> extents_{{16, kBytes - 32}};
  Bytes heard_;
  std::shared_ptr<Gpus> gpus_ = std::make_shared<Gpus>();
  NcclExporter exporter_;
};

TEST_F(NcclTest, WhoHasNotTheSecretIsRefusedAndLearnsNothing) {
  const auto refused = std::make_shared<std::atomic<std::uint64_t>>(0);
  exporter_.count_refusals_in(refused);
  Contact own = contact();
  const Bytes secret = own.secret;
  own.secret[7] ^= std::byte{1};
  auto stream = connect(own);
  EXPECT_EQ(open_connection(*stream, own.secret, patience()).code(), Code::kInvalidArgument);
  // A proof that was heard elsewhere is worth nothing in another opening, and the owner's own not as a reader's.
  auto again = connect(own);
  Opening opening;
  std::vector<iovec> pieces{{&opening, sizeof opening}};
  EXPECT_TRUE(os::send_all(*again, pieces, patience()));
  Nonce nonce;
  EXPECT_TRUE(os::receive_exactly(*again, nonce.data(), nonce.size(), patience()));
  Proof replayed = prove(secret, Side::kOwner, opening.nonce, nonce);
  pieces = {{replayed.data(), replayed.size()}};
  EXPECT_TRUE(os::send_all(*again, pieces, patience()));
  Verdict verdict;
  EXPECT_TRUE(os::receive_exactly(*again, &verdict, sizeof verdict, patience()));
  EXPECT_EQ(verdict.is_refused, 1u);
  EXPECT_EQ(verdict.proof, Proof{});
  char rest = 0;
  EXPECT_EQ(os::receive_exactly(*again, &rest, 1, patience()).code(), Code::kPeerLost);
  wait_until([&] { return refused->load() == 2; });
}

TEST_F(NcclTest, WhatIsNoOpeningEndsTheConnection) {
  auto stream = connect(contact());
  Opening opening;
  opening.magic ^= 1;
  std::vector<iovec> pieces{{&opening, sizeof opening}};
  EXPECT_TRUE(os::send_all(*stream, pieces, patience()));
  char rest = 0;
  EXPECT_EQ(os::receive_exactly(*stream, &rest, 1, patience()).code(), Code::kPeerLost);
}

TEST_F(NcclTest, AListenerWithoutTheSecretIsNotBelieved) {
  auto pair = std::move(*os::make_socket_pair());
  auto reader = os::plain_stream(std::move(pair.first));
  auto liar = os::plain_stream(std::move(pair.second));
  const Bytes secret(kSecretBytes, std::byte{1});
  const Bytes other(kSecretBytes, std::byte{2});
  auto opened = std::async(std::launch::async, [&] { return open_connection(*reader, secret, patience()); });
  Opening opening;
  EXPECT_TRUE(os::receive_exactly(*liar, &opening, sizeof opening, patience()));
  Nonce nonce{};
  std::vector<iovec> pieces{{nonce.data(), nonce.size()}};
  EXPECT_TRUE(os::send_all(*liar, pieces, patience()));
  Verdict verdict;
  EXPECT_TRUE(os::receive_exactly(*liar, nonce.data(), sizeof(Proof), patience()));
  verdict.proof = prove(other, Side::kOwner, opening.nonce, Nonce{});
  pieces = {{&verdict, sizeof verdict}};
  EXPECT_TRUE(os::send_all(*liar, pieces, patience()));
  EXPECT_EQ(opened.get().code(), Code::kInvalidArgument);
}

TEST_F(NcclTest, OneGpuIsRefusedByTheOwnerToo) {
  ByHand hand = open(0);
  EXPECT_EQ(hear(hand), Code::kUnsupported);
  EXPECT_NE(as_text(heard_).find("use cuda_ipc"), std::string_view::npos);
  EXPECT_TRUE(ends(hand.socket));
  EXPECT_EQ(NCCL(ncclEmulatorComms)(), 0);
}

TEST_F(NcclTest, WhatIsNotThereIsRefusedBeforeAnythingMovesAndTheConnectionGoesOn) {
  ByHand hand = joined();
  const auto key = extent();
  const std::uint64_t size = extents_[0].length;
  EXPECT_EQ(ask(hand, request(Op::kRead, {{key + 1, 0, 8, 1, 0}})), Code::kStale);
  EXPECT_EQ(ask(hand, request(Op::kRead, {{key, size, 1, 1, 0}})), Code::kInvalidArgument);
  EXPECT_EQ(ask(hand, request(Op::kRead, {{key, UINT64_MAX, 2, 1, 0}})), Code::kInvalidArgument);
  EXPECT_EQ(ask(hand, request(Op::kRead, {{key, 0, 1, UINT64_MAX, UINT64_MAX}})), Code::kInvalidArgument);
  EXPECT_EQ(ask(hand, request(Op::kRead, {{key, 0, 0, 1, 0}})), Code::kInvalidArgument);  // without bytes
  EXPECT_EQ(ask(hand, request(Op::kRead, {{key, 0, 1, kMaxRequestPieces + 1, 1}})), Code::kInvalidArgument);
  EXPECT_EQ(ask(hand, request(Op::kRead, {{key, 0, size, 2000, 0}})), Code::kInvalidArgument);  // too many bytes
  EXPECT_EQ(ask(hand, request(Op::kWrite, {{key, 0, 8, 1, 0}})), Code::kInvalidArgument);       // for reading only
  fill(memory_, 0, 42);
  EXPECT_EQ(ask(hand, request(Op::kRead, {{key, 0, 1000, 1, 0}})), Code::kOk);
  EXPECT_TRUE(take(hand, 1000));
  EXPECT_EQ(hear(hand), Code::kOk);
  EXPECT_EQ(content(target_, 1)[999], std::byte{42});
}

TEST_F(NcclTest, WhatIsNoRequestEndsTheConnection) {
  const auto key = extent();
  Bytes cut = request(Op::kRead, {{key, 0, 8, 1, 0}});
  cut.pop_back();
  const Bytes many = request(Op::kRead, std::vector<RunRecord>(kMaxRequestRuns + 1, RunRecord{key, 0, 1, 1, 0}));
  for (const Bytes& frame :
       {Bytes{}, Bytes(8), cut, many, request(static_cast<Op>(3), {{key, 0, 8, 1, 0}}), request(Op::kRead, {})}) {
    ByHand hand = joined();
    EXPECT_TRUE(hand.socket.send(frame));
    EXPECT_TRUE(ends(hand.socket));
  }
}

TEST_F(NcclTest, AReaderThatStallsIsGivenUp) {
  ByHand hand = joined();
  EXPECT_EQ(ask(hand, request(Op::kRead, {{extent(), 0, kBytes - 32, 1, 0}})), Code::kOk);
  // It receives nothing. The owner's stream is quiet again once it has given up, and the memory is let go.
  EXPECT_EQ(hear(hand), Code::kSystem);
  EXPECT_TRUE(ends(hand.socket));
  exporter_.withdraw(kId);
}

TEST_F(NcclTest, AWithdrawalDoesNotWaitForAReaderThatStalls) {
  NcclExporter patient(gpus_, {}, std::chrono::hours(1));
  const auto told = unpack<Contact>(*patient.contact(), "a contact");
  const RegionSource::Held held{nullptr, memory_, kBytes, {Device::kCuda, 0}, extents_, nullptr};
  const auto packed = unpack<std::vector<PackedKey>>(*patient.key(kId, held, Access::kRead), "keys");
  Reader key(packed->front().key);
  ByHand hand;
  auto stream = connect(*told);
  ASSERT_TRUE(open_connection(*stream, told->secret, patience()));
  hand.socket = os::FrameSocket(std::move(stream));
  Join join;
  ASSERT_TRUE(hand.socket.send(view_of(join)));
  ASSERT_EQ(hear(hand), Code::kOk);
  meet(hand);
  ASSERT_EQ(ask(hand, request(Op::kRead, {{key.read<std::uint64_t>(), 0, kBytes - 32, 1, 0}})), Code::kOk);
  patient.withdraw(kId);  // returns: the watchdog of the test is the bound
  EXPECT_EQ(hear(hand), Code::kStale);
}

TEST_F(NcclTest, AReaderThatLeavesEndsItsCommunicator) {
  ByHand hand = joined();
  EXPECT_EQ(ask(hand, request(Op::kRead, {{extent(), 0, kBytes - 32, 1, 0}})), Code::kOk);
  hand.socket.close();
  hand.communicator.reset();
  while (NCCL(ncclEmulatorComms)() > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

// Asked of an exporter in this process, as an agent's peer would ask it.
class Line final : public OwnerLine {
 public:
  Line(NcclExporter& exporter, std::function<Bytes(Access)> key) : exporter_(exporter), key_(std::move(key)) {}
  Result<Bytes> contact(std::string_view /*path*/, const os::Wait& /*wait*/) override { return exporter_.contact(); }
  Result<Bytes> key(std::string_view /*path*/, const Region& /*region*/, Access access,
                    const os::Wait& /*wait*/) override {
    return key_(access);
  }
  Result<std::uint64_t> writes(const Region& /*region*/, const os::Wait& /*wait*/) override { return std::uint64_t{0}; }

 private:
  NcclExporter& exporter_;
  const std::function<Bytes(Access)> key_;
};

class NcclEndpointTest : public NcclTest {
 protected:
  NcclEndpointTest() : NcclTest(std::chrono::minutes(1)) {  // none of its readers stalls
    peer_.name = "owner";
    peer_.tcp = {{"127.0.0.1", 1}};  // the port is the agent's, not this path's
    peer_.owner = &line_;
    endpoint_ = std::move(*NcclEndpoint::open(peer_, gpus_, **os::nccl::Library::open({}), patience()));
  }
  transport::Run run(std::uint64_t offset, std::uint64_t length, int device = 1) {
    transport::Run made{&region_, offset, target_, length};
    made.local_device = {Device::kCuda, device};
    return made;
  }

  Line line_{exporter_, [this](Access access) { return packed_key(access); }};
  PeerFacts peer_;
  Region region_{kId, kBytes, 0, Region::kOutsideArena, {Device::kCuda, 0}};
  std::unique_ptr<NcclEndpoint> endpoint_;
};

TEST_F(NcclEndpointTest, ReadsAndWritesGoByTcpWhereThePeerIsElsewhere) {
  fill(memory_, 0, 7);
  transport::Run rows = run(16, 5);
  rows.count = 1000;
  rows.stride = 11;
  rows.local_stride = 6;
  const Status status = endpoint_->read({&rows, 1}, patience());
  EXPECT_TRUE(status) << status.message();
  const Bytes got = content(target_, 1);
  for (std::size_t i = 0; i < 6000; ++i) ASSERT_EQ(got[i], i % 6 < 5 ? std::byte{7} : std::byte{0xCD}) << i;
  fill(target_, 1, 9);
  const transport::Run whole = run(16, kBytes - 32);
  EXPECT_TRUE(endpoint_->write({&whole, 1}, patience()));
  const Bytes written = content(memory_, 0);
  EXPECT_EQ(written[15], std::byte{7});
  EXPECT_EQ(written[16], std::byte{9});
  EXPECT_EQ(written[kBytes - 17], std::byte{9});
  EXPECT_EQ(written[kBytes - 16], std::byte{7});
}

TEST_F(NcclEndpointTest, NcclIsNotAskedForTwoRanksOnOneGpu) {
  const transport::Run same = run(16, 100, 0);
  const Status status = endpoint_->read({&same, 1}, patience());
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_NE(status.message().find("use cuda_ipc"), std::string::npos);
  EXPECT_EQ(endpoint_->here({Device::kCuda, 0}, patience())->id, 1);
  EXPECT_EQ(endpoint_->here({Device::kCuda, 1}, patience())->id, 0);
  transport::Run host = run(16, 100);
  host.local_device = {};
  EXPECT_EQ(endpoint_->read({&host, 1}, patience()).code(), Code::kUnsupported);
}

TEST_F(NcclEndpointTest, AConnectionIsKeptAndReplacedOnceItWasGivenUp) {
  const transport::Run whole = run(16, 1000);
  EXPECT_TRUE(endpoint_->read({&whole, 1}, patience()));
  EXPECT_TRUE(endpoint_->read({&whole, 1}, patience()));
  EXPECT_EQ(NCCL(ncclEmulatorComms)(), 2);  // one, whose two ranks are in this process
  stall("move");
  const os::Wait soon(Deadline::after(std::chrono::milliseconds(200)));
  fill(target_, 1, 1);
  EXPECT_EQ(endpoint_->read({&whole, 1}, soon).code(), Code::kDeadlineExceeded);
  stall("");
  EXPECT_EQ(content(target_, 1)[0], std::byte{1});
  EXPECT_TRUE(endpoint_->read({&whole, 1}, patience()));
  EXPECT_NE(content(target_, 1)[0], std::byte{1});
}

TEST_F(NcclEndpointTest, WhatTheOwnersStreamHoldsComesFirst) {
  fill(memory_, 0, 1);
  const transport::Run whole = run(16, 1000);
  EXPECT_TRUE(endpoint_->read({&whole, 1}, patience()));
  fill(memory_, 0, 2, 200'000);  // which returns at once
  EXPECT_TRUE(endpoint_->read({&whole, 1}, patience()));
  EXPECT_EQ(content(target_, 1)[999], std::byte{2});
}

TEST(NcclLibraryTest, WhatAnErrorMeansIsSaidInNcclsWords) {
  ASSERT_TRUE(os::nccl::Library::open(NCCL_EMULATOR_PATH).is_ok());
  const auto* const library = *os::nccl::Library::open(NCCL_EMULATOR_PATH);
  EXPECT_EQ(library->failed("ncclSend", os::nccl::kRemoteError, nullptr).code(), Code::kPeerLost);
  const Status invalid = library->failed("ncclSend", os::nccl::kInvalidUsage, nullptr);
  EXPECT_EQ(invalid.code(), Code::kSystem);
  EXPECT_NE(invalid.message().find("ncclSend: NCCL says invalid usage (5)"), std::string::npos);
}

}  // namespace
}  // namespace beeline::transport::nccl
