// The path cuda_ipc between two agents of this process, over AN EMULATOR of NVIDIA's driver (tests/emulators/cuda):
// nothing here ran on a GPU. Between processes it is tested from Python (tests/conformance/test_cuda_ipc.py).
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <vector>

#include "beeline/os/cuda_driver.h"
#include "beeline/transfer/agent.h"
#include "beeline/transfer/batch.h"
#include "beeline/transfer/fetch.h"
#include "beeline/transfer/registered.h"
#include "cuda_emulator.h"
#include "patience.h"
#include "poison.h"

namespace beeline::transfer {
namespace {

using transport::Device;
using transport::Region;
using Bytes8 = std::vector<std::byte>;

constexpr std::uint64_t kLong = 300'000;  // microseconds that a kernel runs

#define EMULATOR(function) reinterpret_cast<decltype(&function)>(::dlsym(library(), #function))

class CudaIpcTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    static char place[] = "/tmp/bcudaXXXXXX";
    if (folder_.empty()) folder_ = ::mkdtemp(place);
    ::setenv("CUDA_EMULATOR_FOLDER", folder_.c_str(), 1);
    ::setenv("BEELINE_CUDA_LIBRARY", CUDA_EMULATOR_PATH, 1);
    ASSERT_TRUE(os::cuda::Driver::open().is_ok()) << os::cuda::Driver::open().status().message();
  }
  static void TearDownTestSuite() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  static void* library() {
    static void* const opened = ::dlopen(CUDA_EMULATOR_PATH, RTLD_NOW | RTLD_LOCAL);
    return opened;
  }

  CudaIpcTest() { use(0); }
  ~CudaIpcTest() override {
    owner_.reset();
    reader_.reset();
  }

  // The GPU of the calls that follow.
  static void use(int device) {
    CUcontext context = nullptr;
    ASSERT_EQ(EMULATOR(cuDevicePrimaryCtxRetain)(&context, device), 0);
    ASSERT_EQ(EMULATOR(cuCtxSetCurrent)(context), 0);
  }
  static CUdeviceptr allocate(std::size_t bytes) {
    CUdeviceptr address = 0;
    EXPECT_EQ(EMULATOR(cuMemAlloc_v2)(&address, bytes), 0);
    return address;
  }
  static Bytes8 numbers(std::size_t bytes) {
    Bytes8 all(bytes);
    for (std::size_t i = 0; i < bytes; ++i) all[i] = static_cast<std::byte>(i * 31 + (i >> 8));
    return all;
  }
  static void put(CUdeviceptr to, const Bytes8& bytes) {
    EXPECT_EQ(EMULATOR(cuMemcpyHtoD_v2)(to, bytes.data(), bytes.size()), 0);
  }
  static Bytes8 get(CUdeviceptr from, std::size_t bytes) {
    Bytes8 all(bytes);
    EXPECT_EQ(EMULATOR(cuMemcpyDtoH_v2)(all.data(), from, bytes), 0);
    return all;
  }
  static std::byte* pointer(CUdeviceptr address) {
    return reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(address));
  }
  static Piece piece(CUdeviceptr address, std::size_t bytes, int device = 0) {
    return {pointer(address), bytes, {Device::kCuda, device}};
  }

  static std::shared_ptr<Agent> open(const std::string& name) {
    Agent::Options options;
    options.name = name;
    options.folder = folder_ + "/a";
    options.arena = *memory::Arena::open({.capacity_bytes = 64u << 20, .quota_bytes = 64u << 20});
    auto agent = Agent::open(options);
    EXPECT_TRUE(agent.is_ok()) << agent.status().message();
    return std::move(*agent);
  }
  std::shared_ptr<Registration> add(const std::vector<Piece>& pieces) const {
    for (const Piece& each : pieces) {
      EXPECT_TRUE(owner_->check(each).is_ok()) << owner_->check(each).message();
    }
    auto added = owner_->regions()->add(pieces, nullptr);
    EXPECT_TRUE(added.is_ok()) << added.status().message();
    return std::move(*added);
  }
  std::shared_ptr<Peer> meet() const {
    auto peer = reader_->peer(owner_->address().text(), patience());
    EXPECT_TRUE(peer.is_ok()) << peer.status().message();
    return std::move(*peer);
  }
  Status read(const Region& region, std::uint64_t offset, std::byte* to, std::uint64_t bytes, Device device = {},
              const os::Wait& wait = patience()) const {
    transport::Run run{&region, offset, to, bytes};
    run.local_device = device;
    return meet()->read({&run, 1}, {}, wait);
  }

  static inline std::string folder_;
  std::shared_ptr<Agent> owner_ = open("owner");
  std::shared_ptr<Agent> reader_ = open("reader");
};

#define EXPECT_OK(status)                        \
  do {                                           \
    const Status own_ = (status);                \
    EXPECT_TRUE(own_.is_ok()) << own_.message(); \
  } while (false)

TEST_F(CudaIpcTest, AGpusBytesArriveOnTheHostOnThatGpuAndOnAnother) {
  const auto bytes = numbers((3 << 20) + 7);
  const CUdeviceptr source = allocate(bytes.size());
  put(source, bytes);
  const auto registration = add({piece(source, bytes.size())});
  const Region& region = registration->regions().at(0);
  EXPECT_EQ(meet()->explain(region, bytes.size(), {}).chosen, "cuda_ipc");

  Bytes8 host(bytes.size() + 2, kPoison);
  EXPECT_OK(read(region, 0, host.data() + 1, bytes.size()));
  EXPECT_EQ(std::memcmp(host.data() + 1, bytes.data(), bytes.size()), 0);
  EXPECT_EQ(host.front(), kPoison);
  EXPECT_EQ(host.back(), kPoison);

  const CUdeviceptr same = allocate(bytes.size());
  EXPECT_OK(read(region, 0, pointer(same), bytes.size(), {Device::kCuda, 0}));
  EXPECT_EQ(get(same, bytes.size()), bytes);

  use(1);
  const CUdeviceptr other = allocate(bytes.size());
  EXPECT_OK(read(region, 5, pointer(other), 1000, {Device::kCuda, 1}));
  EXPECT_EQ(get(other, 1000), Bytes8(bytes.begin() + 5, bytes.begin() + 1005));
  EXPECT_EQ(reader_->stats().copies_through_host, 0u);
}

TEST_F(CudaIpcTest, RunsWithGapsArriveAndNothingElseIsTouched) {
  const auto bytes = numbers(1 << 20);
  const CUdeviceptr source = allocate(bytes.size());
  put(source, bytes);
  const auto registration = add({piece(source, bytes.size())});
  const Region& region = registration->regions().at(0);
  // Apart, touching, and with one element in several places.
  for (const auto& [length, count, stride, local_stride] :
       {std::array<std::uint64_t, 4>{4, 10'000, 100, 9}, {64, 1000, 64, 64}, {16, 50, 0, 16}, {16, 50, 8, 20}}) {
    for (const bool on_gpu : {false, true}) {
      const std::uint64_t room = count * local_stride + length;
      Bytes8 target(room, kPoison);
      const CUdeviceptr there = allocate(room);
      put(there, target);
      transport::Run run{&region, 3, on_gpu ? pointer(there) : target.data(), length, count, stride, local_stride};
      if (on_gpu) run.local_device = {Device::kCuda, 0};
      EXPECT_OK(meet()->read({&run, 1}, {}, patience()));
      if (on_gpu) target = get(there, room);
      Bytes8 expected(room, kPoison);
      for (std::uint64_t i = 0; i < count; ++i) {
        std::memcpy(expected.data() + i * local_stride, bytes.data() + 3 + i * stride, length);
      }
      EXPECT_EQ(target, expected) << length << " bytes " << stride << " apart, on a GPU: " << on_gpu;
    }
  }
}

TEST_F(CudaIpcTest, ThePeersArenaGoesStraightIntoMemoryOfAGpu) {
  const auto bytes = numbers(200'000);
  const Piece source{*owner_->arena()->allocate(bytes.size()), bytes.size()};
  std::memcpy(source.data, bytes.data(), bytes.size());
  const auto registration = add({source});
  const Region& region = registration->regions().at(0);
  const CUdeviceptr target = allocate(bytes.size());
  EXPECT_OK(read(region, 0, pointer(target), bytes.size(), {Device::kCuda, 0}));
  EXPECT_EQ(get(target, bytes.size()), bytes);
  // Rows, and what is written to is a GPU's.
  put(target, Bytes8(bytes.size(), kPoison));
  transport::Run run{&region, 1, pointer(target), 7, 1000, 100, 9};
  run.local_device = {Device::kCuda, 0};
  EXPECT_OK(meet()->read({&run, 1}, {}, patience()));
  const auto got = get(target, 9000);
  for (std::size_t i = 0; i < 9000; ++i) {
    ASSERT_EQ(got[i], i % 9 < 7 ? bytes[1 + i / 9 * 100 + i % 9] : kPoison) << i;
  }
  ASSERT_TRUE(owner_->regions()->grant(region.id, reader_->address().id));
  EXPECT_EQ(meet()->write({&run, 1}, {"cuda_ipc", 0}, patience()).code(), Code::kUnsupported);
  EXPECT_EQ(meet()->explain(region, bytes.size(), {}).chosen, "shm");
}

TEST_F(CudaIpcTest, WritesReachWhatWasGranted) {
  const CUdeviceptr target = allocate(1 << 20);
  const auto registration = add({piece(target, 1 << 20)});
  const Region& region = registration->regions().at(0);
  auto bytes = numbers(1 << 20);
  const transport::Run run{&region, 0, bytes.data(), bytes.size()};
  EXPECT_EQ(meet()->write({&run, 1}, {}, patience()).code(), Code::kInvalidArgument);
  ASSERT_TRUE(owner_->regions()->grant(region.id, reader_->address().id));
  EXPECT_OK(meet()->write({&run, 1}, {}, patience()));
  EXPECT_EQ(get(target, bytes.size()), bytes);
}

TEST_F(CudaIpcTest, AReadComesAfterWhatTheDefaultStreamHolds) {
  const CUdeviceptr source = allocate(4096);
  put(source, Bytes8(4096, std::byte{1}));
  const auto registration = add({piece(source, 4096)});
  for (int value = 2; value < 5; ++value) {
    ASSERT_EQ(EMULATOR(cuEmulatorFill)(source, value, 4096, 30'000, nullptr), 0);
    Bytes8 target(4096, kPoison);
    EXPECT_OK(read(registration->regions().at(0), 0, target.data(), 4096));
    EXPECT_EQ(target, Bytes8(4096, static_cast<std::byte>(value)));
  }
}

TEST_F(CudaIpcTest, AReadComesAfterWhatWasAnnounced) {
  const CUdeviceptr source = allocate(4096);
  CUstream first = nullptr, second = nullptr;
  ASSERT_EQ(EMULATOR(cuStreamCreate)(&first, 1), 0);
  ASSERT_EQ(EMULATOR(cuStreamCreate)(&second, 1), 0);
  const auto registration = add({piece(source, 4096)});
  const auto announce = [&](CUstream stream) {
    EXPECT_OK(owner_->announce({Device::kCuda, 0}, reinterpret_cast<std::uintptr_t>(stream)));
  };
  ASSERT_EQ(EMULATOR(cuEmulatorFill)(source, 7, 4096, kLong / 2, first), 0);
  announce(first);
  announce(second);  // a later one takes nothing back
  Bytes8 target(4096, kPoison);
  EXPECT_OK(read(registration->regions().at(0), 0, target.data(), 4096));
  EXPECT_EQ(target, Bytes8(4096, std::byte{7}));
}

TEST_F(CudaIpcTest, ADeadlineEndsTheWaitAndNothingIsWrittenLater) {
  const CUdeviceptr source = allocate(4096);
  const auto registration = add({piece(source, 4096)});
  const CUdeviceptr there = allocate(4096);
  put(there, Bytes8(4096, kPoison));
  Bytes8 target(4096, kPoison);
  CUstream stream = nullptr;
  ASSERT_EQ(EMULATOR(cuStreamCreate)(&stream, 1), 0);
  ASSERT_EQ(EMULATOR(cuEmulatorFill)(source, 7, 4096, kLong, stream), 0);
  EXPECT_OK(owner_->announce({Device::kCuda, 0}, reinterpret_cast<std::uintptr_t>(stream)));
  const Region& region = registration->regions().at(0);
  const auto soon = [] { return os::Wait(Deadline::after(std::chrono::milliseconds(30))); };
  EXPECT_EQ(read(region, 0, target.data(), 4096, {}, soon()).code(), Code::kDeadlineExceeded);
  EXPECT_EQ(read(region, 0, pointer(there), 4096, {Device::kCuda, 0}, soon()).code(), Code::kDeadlineExceeded);
  ASSERT_EQ(EMULATOR(cuStreamSynchronize)(stream), 0);
  EXPECT_EQ(target, Bytes8(4096, kPoison));
  EXPECT_EQ(get(there, 4096), Bytes8(4096, kPoison));
  EXPECT_OK(read(region, 0, target.data(), 4096));
  EXPECT_EQ(target, Bytes8(4096, std::byte{7}));
}

TEST_F(CudaIpcTest, SettlingWaitsForTheReadersOwnStream) {
  const CUdeviceptr target = allocate(4096);
  ASSERT_EQ(EMULATOR(cuEmulatorFill)(target, 9, 4096, kLong, nullptr), 0);
  const os::Wait soon(Deadline::after(std::chrono::milliseconds(20)));
  EXPECT_EQ(reader_->settle({Device::kCuda, 0}, 0, soon).code(), Code::kDeadlineExceeded);
  EXPECT_OK(reader_->settle({Device::kCuda, 0}, 0, patience()));
  EXPECT_OK(reader_->settle({}, 0, patience()));
}

TEST_F(CudaIpcTest, AMappedRegionIsTheOwnersMemory) {
  const auto bytes = numbers(100'000);
  const CUdeviceptr source = allocate(bytes.size());
  put(source, bytes);
  auto registration = add({piece(source, bytes.size())});
  const Region region = registration->regions().at(0);
  auto mapped = meet()->map(region, 10, 1000, patience());
  ASSERT_TRUE(mapped.is_ok()) << mapped.status().message();
  EXPECT_EQ(mapped->device, (Device{Device::kCuda, 0}));
  EXPECT_EQ(mapped->data, pointer(source + 10));
  registration.reset();
  EXPECT_EQ(owner_->regions()->stats().waiting, 1u);  // as long as it is mapped
  EXPECT_EQ(meet()->map(region, 10, 1000, patience()).status().code(), Code::kStale);
  mapped->lease.reset();
  for (int i = 0; i < 1000 && owner_->regions()->sweep() > 0; ++i) ::usleep(1000);
  EXPECT_EQ(owner_->regions()->stats().waiting, 0u);
}

TEST_F(CudaIpcTest, TensorsThatTouchMayLieInTwoAllocations) {
  constexpr std::size_t kSize = 64 << 10;  // what the emulator gives out side by side
  const CUdeviceptr first = allocate(kSize);
  const CUdeviceptr second = allocate(kSize);
  ASSERT_EQ(second, first + kSize);
  const auto bytes = numbers(2 * kSize);
  put(first, Bytes8(bytes.begin(), bytes.begin() + kSize));
  put(second, Bytes8(bytes.begin() + kSize, bytes.end()));
  const auto registration = add({piece(first, kSize), piece(second, kSize)});
  ASSERT_EQ(registration->regions().size(), 1u);
  Bytes8 target(bytes.size(), kPoison);
  EXPECT_OK(read(registration->regions().at(0), 0, target.data(), target.size()));
  EXPECT_EQ(target, bytes);
}

TEST_F(CudaIpcTest, WhatCannotBeHandedOverIsRefusedWithWhatToDo) {
  CUdeviceptr pooled = 0;
  ASSERT_EQ(EMULATOR(cuEmulatorAllocPooled)(&pooled, 4096), 0);
  const Status status = owner_->check(piece(pooled, 4096));
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_NE(status.message().find("expandable_segments"), std::string::npos) << status.message();
  EXPECT_EQ(owner_->check(piece(allocate(4096), 4096, 1)).code(), Code::kInvalidArgument);
  Bytes8 host(16);
  EXPECT_EQ(owner_->check({host.data(), 16, {Device::kCuda, 0}}).code(), Code::kUnsupported);
  EXPECT_EQ(owner_->check({host.data(), 16, {14, 0}}).code(), Code::kUnsupported);
  EXPECT_OK(owner_->check({host.data(), 16, {}}));
  CUstream stream = nullptr;
  ASSERT_EQ(EMULATOR(cuStreamCreate)(&stream, 1), 0);
  ASSERT_EQ(EMULATOR(cuEmulatorCapture)(stream, 1), 0);
  const Status captures = owner_->announce({Device::kCuda, 0}, reinterpret_cast<std::uintptr_t>(stream));
  EXPECT_EQ(captures.code(), Code::kUnsupported) << captures.message();
}

TEST_F(CudaIpcTest, ADriverThatFailsIsNamed) {
  const CUdeviceptr source = allocate(4096);
  const auto registration = add({piece(source, 4096)});
  const Region& region = registration->regions().at(0);
  Bytes8 target(4096, kPoison);
  EXPECT_OK(read(region, 0, target.data(), 4096));
  ASSERT_EQ(EMULATOR(cuEmulatorFail)("cuMemcpyAsync", 700, 1), 0);
  const Status status = read(region, 0, target.data(), 4096);
  EXPECT_EQ(status.code(), Code::kSystem);
  EXPECT_NE(status.message().find("cuMemcpyAsync: CUDA_ERROR_ILLEGAL_ADDRESS (700)"), std::string::npos)
      << status.message();
}

TEST_F(CudaIpcTest, ABatchIsRunAgainAndAgain) {
  const CUdeviceptr source = allocate(1 << 16);
  const CUdeviceptr target = allocate(1 << 16);
  auto schema = std::make_shared<Schema>();
  schema->tensors.push_back({{0, 8, 1}, {1 << 16}, {}});
  const Source given{&schema->tensors[0], pointer(source), {Device::kCuda, 0}};
  auto registered =
      register_tensors(*owner_->regions(), owner_->address().text(), schema, {&given, 1}, {}, nullptr, false);
  ASSERT_TRUE(registered.is_ok()) << registered.status().message();
  const auto remote = RemoteTensor::whole(registered->tensors, 0);
  Copy copy;
  copy.remote = &remote;
  copy.local = {pointer(target), {}, {Device::kCuda, 0}};
  auto batch = Batch::prepare(meet(), {&copy, 1}, {}, patience());
  ASSERT_TRUE(batch.is_ok()) << batch.status().message();
  for (int value = 1; value < 4; ++value) {
    ASSERT_EQ(EMULATOR(cuEmulatorFill)(source, value, 1 << 16, 1000, nullptr), 0);
    EXPECT_OK((*batch)->run(patience()));
    EXPECT_EQ(get(target, 1 << 16), Bytes8(1 << 16, static_cast<std::byte>(value)));
  }
  registered->registration.reset();
  EXPECT_EQ((*batch)->run(patience()).code(), Code::kStale);
}

TEST_F(CudaIpcTest, AChildOfForkIsToldWhyItCannot) {
  const pid_t child = ::fork();
  if (child == 0) {
    const auto opened = os::cuda::Driver::open();
    const bool is_told =
        opened.status().code() == Code::kUnsupported && opened.status().message().find("spawn") != std::string::npos;
    ::_exit(is_told ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace beeline::transfer
