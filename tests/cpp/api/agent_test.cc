// The public API as a program uses it: what goes in arrives, and what may fail says so. Both agents live in this
// process; tests/system/test_cpp_package.py has them in processes of their own, against the installed package.
#include "beeline/api/agent.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <future>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

namespace beeline::api {
namespace {

using namespace std::chrono_literals;

class ApiTest : public ::testing::Test {
 protected:
  static std::string make_folder() {
    char place[] = "/tmp/bapiXXXXXX";
    return ::mkdtemp(place);
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  [[nodiscard]] Agent open(const std::string& name) const {
    auto agent = Agent::open(
        {.name = name, .tcp = "127.0.0.1:0", .token = "secret", .folder = folder_, .quota_bytes = 256u << 20});
    EXPECT_TRUE(agent.is_ok()) << agent.status().message();
    return std::move(*agent);
  }
  template <typename T>
  static T need(Result<T> result) {
    EXPECT_TRUE(result.is_ok()) << result.status().message();
    return std::move(*result);
  }
  // Counted up from 0, in the owner's arena.
  [[nodiscard]] Tensor counted(std::vector<std::int64_t> shape) const {
    auto tensor = need(owner_.empty(std::move(shape), kInt32));
    const auto values = tensor.values<std::int32_t>();
    std::iota(values.begin(), values.end(), 0);
    return tensor;
  }

  const std::string folder_ = make_folder();
  const Agent owner_ = open("owner");
  const Agent reader_ = open("reader");
};

class ApiPathTest : public ApiTest, public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Paths, ApiPathTest, ::testing::Values("shm", "cma", "tcp"),
                         [](const auto& each) { return std::string(each.param); });

TEST_P(ApiPathTest, WhatIsRegisteredArrivesByEveryPath) {
  const auto refs = need(owner_.register_tensor(counted({64, 32})));
  const auto travelled = need(TensorRefs::from_json(refs.to_json()));
  EXPECT_EQ(travelled.owner(), owner_.address());
  std::vector<std::int32_t> target(64 * 32, -1);
  const auto status =
      reader_.fetch(need(travelled.at(0)), Tensor::borrow(target.data(), {64, 32}), {.path = GetParam()});
  ASSERT_TRUE(status.is_ok()) << status.message();
  for (std::int32_t i = 0; i < 64 * 32; ++i) ASSERT_EQ(target[static_cast<std::size_t>(i)], i);
}

TEST_P(ApiPathTest, ABatchBringsWhatIsThereAtEachRun) {
  const auto source = counted({256});
  const auto refs = need(owner_.register_tensor(source));
  const std::vector<Tensor> targets = {need(reader_.empty({256}, kInt32))};
  auto batch = need(reader_.prepare(refs.all(), targets, {.path = GetParam()}));
  EXPECT_EQ(batch.bytes(), 1024u);
  for (std::int32_t round = 0; round < 3; ++round) {
    source.values<std::int32_t>()[255] = round;
    const auto status = batch.run();
    ASSERT_TRUE(status.is_ok()) << status.message();
    EXPECT_EQ(targets[0].values<std::int32_t>()[255], round);
    EXPECT_EQ(targets[0].values<std::int32_t>()[254], 254);
  }
}

TEST_P(ApiPathTest, ATargetOfAnotherDtypeIsConvertedIfItSaysSo) {
  auto source = need(owner_.empty({40, 3}, kFloat32));
  for (std::size_t i = 0; i < 120; ++i) source.values<float>()[i] = static_cast<float>(i) + 0.25F;
  const auto ref = need(need(owner_.register_tensor(source)).at(0));
  std::vector<std::uint16_t> target(120, 0xFFFF);
  Tensor halves = Tensor::borrow(target.data(), {40, 3});
  halves.dtype = kBFloat16;
  const Requirement by_path{.path = GetParam()};
  EXPECT_EQ(reader_.fetch(ref, halves, by_path).code(), Code::kInvalidArgument);
  EXPECT_EQ(reader_.fetch(ref, Target{.tensor = halves}, by_path).code(), Code::kInvalidArgument);
  EXPECT_EQ(target[7], 0xFFFF);
  const auto is_right = [&] {
    for (std::size_t i = 0; i < 120; ++i) {
      const float kept = std::bit_cast<float>(static_cast<std::uint32_t>(target[i]) << 16);
      if (std::abs(kept - source.values<float>()[i]) > 0.25F) return false;
    }
    return target[4] == 0x4088;  // 4.25
  };
  const Target converted{.tensor = halves, .convert = true};
  auto status = reader_.fetch(ref, converted, by_path);
  ASSERT_TRUE(status.is_ok()) << status.message();
  EXPECT_TRUE(is_right());
  std::ranges::fill(target, 0);
  auto batch = need(reader_.prepare({&ref, 1}, std::span(&converted, 1), by_path));
  status = batch.run();
  ASSERT_TRUE(status.is_ok()) << status.message();
  EXPECT_TRUE(is_right());
  Tensor integers = halves;
  integers.dtype = kInt16;
  EXPECT_EQ(reader_.fetch(ref, Target{.tensor = integers, .convert = true}).code(), Code::kInvalidArgument);
}

TEST_P(ApiPathTest, ATargetWithScalesIsQuantised) {
  auto source = need(owner_.empty({3, 300}, kFloat32));
  for (std::size_t i = 0; i < 900; ++i) source.values<float>()[i] = static_cast<float>(i % 300);
  const auto ref = need(need(owner_.register_tensor(source)).at(0));
  std::vector<std::uint8_t> bytes(900);
  std::vector<float> factors(9, -1);
  Tensor values = Tensor::borrow(bytes.data(), {3, 300});
  values.dtype = kFloat8E4M3FN;
  Target target{.tensor = values, .convert = true, .scales = Scales{Tensor::borrow(factors.data(), {3, 3}), 1, 128}};
  const auto status = reader_.fetch(ref, target, {.path = GetParam()});
  ASSERT_TRUE(status.is_ok()) << status.message();
  for (std::size_t row = 0; row < 3; ++row) {
    EXPECT_EQ(factors[row * 3], 127.0F / 448);
    EXPECT_EQ(factors[row * 3 + 1], 255.0F / 448);
    EXPECT_EQ(factors[row * 3 + 2], 299.0F / 448);
    EXPECT_EQ(bytes[row * 300 + 127], 0x7E);  // the largest of its block: 448
    EXPECT_EQ(bytes[row * 300], 0);
  }
  target.scales->tensor.shape = {3, 2};
  EXPECT_EQ(reader_.fetch(ref, target).code(), Code::kInvalidArgument);
  target.scales->tensor.shape = {3, 3};
  target.convert = false;
  EXPECT_EQ(reader_.fetch(ref, target).code(), Code::kInvalidArgument);
}

TEST_P(ApiPathTest, WhatDiffersFromItsChecksumIsTorn) {
  const auto source = counted({1000});
  const auto refs = need(owner_.register_tensor(source, {.checksum = true}));
  const auto plain = need(owner_.register_tensor(counted({1000})));
  std::vector<std::int32_t> target(1000);
  const Tensor filled = Tensor::borrow(target.data(), {1000});
  const Requirement verified{.path = GetParam(), .verify = true};
  const auto status = reader_.fetch(need(refs.at(0)), filled, verified);
  EXPECT_TRUE(status.is_ok()) << status.message();
  source.values<std::int32_t>()[999] = -1;
  EXPECT_EQ(reader_.fetch(need(refs.at(0)), filled, verified).code(), Code::kTorn);
  EXPECT_TRUE(reader_.fetch(need(refs.at(0)), filled, {.path = GetParam()}).is_ok());
  EXPECT_EQ(reader_.fetch(need(plain.at(0)), filled, verified).code(), Code::kInvalidArgument);
  const std::vector<TensorRef> all = refs.all();
  EXPECT_EQ(reader_.prepare(all, std::span(&filled, 1), verified).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(reader_.push(all[0], filled, verified).code(), Code::kInvalidArgument);
  // Of what is published likewise.
  const auto versions = need(reader_.subscribe(owner_.address(), "checked"));
  need(owner_.publish("checked", std::span(&source, 1), {.checksum = true}));
  const auto version = need(versions.newer_than(0));
  EXPECT_TRUE(reader_.fetch(need(version.tensors.at(0)), filled, verified).is_ok());
}

TEST_P(ApiPathTest, WhoFetchesWhileTheOwnerWritesIsTold) {
  const auto source = counted({1000});
  const auto refs = need(owner_.register_tensor(source));
  std::vector<std::int32_t> target(1000);
  const auto fetch = [&] {
    return reader_.fetch(need(refs.at(0)), Tensor::borrow(target.data(), {1000}), {.path = GetParam()}).code();
  };
  {
    auto writing = need(owner_.writing(refs));
    EXPECT_EQ(fetch(), Code::kTorn);
    writing = need(owner_.writing(refs));  // the first one ends when the second has begun
    EXPECT_EQ(fetch(), Code::kTorn);
  }
  EXPECT_EQ(fetch(), Code::kOk);
  const auto travelled = need(TensorRefs::from_json(refs.to_json()));
  EXPECT_EQ(reader_.writing(travelled).status().code(), Code::kInvalidArgument);
  ASSERT_TRUE(owner_.grant(refs, reader_.address()).is_ok());
  {
    const auto writing = need(reader_.writing(travelled));
    EXPECT_EQ(fetch(), Code::kTorn);
  }
  ASSERT_TRUE(reader_.notify(owner_.address(), "nobody", {}).code() == Code::kNotFound);  // was told after the end
  EXPECT_EQ(fetch(), Code::kOk);
}

TEST_P(ApiPathTest, ATransferThatWasStartedGoesOnByItself) {
  const auto source = counted({4, 250});
  const auto refs = need(owner_.register_tensor(source));
  ASSERT_TRUE(owner_.grant(refs, reader_.address()).is_ok());
  const Requirement by_path{.path = GetParam()};
  std::vector<std::int32_t> target(1000, -1), pushed(1000, 6);
  std::promise<Code> told;
  {
    const std::vector<TensorRef> all = refs.all();
    const std::vector<Tensor> targets = {Tensor::borrow(target.data(), {4, 250})};
    const auto fetched = need(reader_.fetch_async(all, targets, by_path));
    fetched.on_done([&](const Status& status) { told.set_value(status.code()); });
    EXPECT_EQ(fetched.result().code(), Code::kOk) << fetched.result().message();
    EXPECT_TRUE(fetched.is_done());
    fetched.cancel();  // too late
    EXPECT_EQ(fetched.future().get().code(), Code::kOk);
  }
  EXPECT_EQ(told.get_future().get(), Code::kOk);
  EXPECT_EQ(target[999], 999);
  const std::vector<Tensor> sources = {Tensor::borrow(pushed.data(), {4, 250})};
  const bool writes = by_path.path != "shm";
  const auto gone = need(reader_.push_async(refs.all(), sources, writes ? by_path : Requirement{}));
  EXPECT_EQ(gone.result().code(), Code::kOk) << gone.result().message();
  EXPECT_EQ(source.values<std::int32_t>()[999], 6);
  std::promise<Code> late;
  gone.on_done([&](const Status& status) { late.set_value(status.code()); });
  EXPECT_EQ(late.get_future().get(), Code::kOk);
  EXPECT_EQ(reader_.fetch_async(refs.all(), std::span<const Tensor>()).status().code(), Code::kInvalidArgument);
  EXPECT_TRUE(need(reader_.fetch_async({}, std::span<const Tensor>())).result().is_ok());
}

TEST_F(ApiTest, ATransferThatWasStartedEndsByItsTimeoutOrACancellation) {
  const auto refs = need(owner_.register_tensor(counted({1000})));
  const std::vector<Fault> faults = {{.kind = Fault::Kind::kStall, .times = 0}};
  auto stalling = std::make_unique<Agent>(
      need(Agent::open({.name = "stalling", .folder = folder_, .quota_bytes = 64u << 20, .faults = faults})));
  auto values = std::make_shared<std::vector<std::int32_t>>(1000, -1);
  const std::weak_ptr<void> alive = values;
  Tensor target = Tensor::borrow(values->data(), {1000});
  target.memory = std::move(values);
  const auto start = [&](Timeout timeout) {
    return need(stalling->fetch_async(refs.all(), std::span(&target, 1), {}, timeout));
  };
  EXPECT_EQ(start(50ms).result().code(), Code::kDeadlineExceeded);
  std::vector<Transfer> all;
  for (int i = 0; i < 6; ++i) all.push_back(start(std::nullopt));  // more than run at a time
  target = {};
  EXPECT_FALSE(alive.expired());
  EXPECT_FALSE(all[5].is_done());
  all[5].cancel();
  EXPECT_TRUE(all[5].is_done());  // it had not begun
  for (const auto& transfer : all) transfer.cancel();
  for (const auto& transfer : all) EXPECT_EQ(transfer.result().code(), Code::kCancelled);
  EXPECT_GE(stalling->stats().faults, 1u);
  stalling.reset();
  EXPECT_TRUE(alive.expired());
  all[0].cancel();  // the agent is gone
}

TEST_F(ApiTest, AnAgentOfTlsIsReachedByItsAddressAlone) {
  const auto opened = Agent::open({.name = "secure",
                                   .tcp = "127.0.0.1:0",
                                   .token = "secret",
                                   .tls = Tls{},
                                   .share_memory = false,
                                   .folder = folder_,
                                   .quota_bytes = 256u << 20});
  if (opened.status().code() == Code::kUnsupported) GTEST_SKIP() << opened.status().message();
  ASSERT_TRUE(opened.is_ok()) << opened.status().message();
  const std::vector<std::int32_t> source(1000, 7);
  const auto refs = need(opened->register_tensor(Tensor::borrow(const_cast<std::int32_t*>(source.data()), {1000})));
  std::vector<std::int32_t> target(1000, -1);
  const auto status = reader_.fetch(need(refs.at(0)), Tensor::borrow(target.data(), {1000}));
  ASSERT_TRUE(status.is_ok()) << status.message();
  EXPECT_EQ(target, source);
  const auto missing = Agent::open({.name = "files", .tls = Tls{.ca = folder_ + "/missing.pem"}, .folder = folder_});
  EXPECT_EQ(missing.status().code(), Code::kInvalidArgument);
}

TEST_F(ApiTest, NamesPartsAndBytesComeBackAsTheyWere) {
  const std::vector<Tensor> tensors = {counted({4, 6}), counted({3})};
  const auto refs = need(owner_.register_tensors(tensors, {.names = {"a", "b"}}));
  const auto travelled = need(TensorRefs::from_bytes(refs.to_bytes()));
  EXPECT_EQ(travelled.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(travelled.bytes(), 27u * 4);
  const auto a = need(travelled.at("a"));
  EXPECT_EQ(a.shape(), (std::vector<std::int64_t>{4, 6}));
  EXPECT_EQ(a.dtype(), kInt32);
  EXPECT_EQ(travelled.at("c").status().code(), Code::kNotFound);
  EXPECT_EQ(travelled.at(2).status().code(), Code::kNotFound);

  // Columns 5 and 3 of row 2, backwards, by itself.
  const Slice columns[] = {{0, 1, 4}, {5, -2, 2}};
  const auto part = need(need(a.part(columns)).select(0, 2));
  EXPECT_EQ(part.shape(), (std::vector<std::int64_t>{2}));
  const auto alone = need(TensorRefs::from_json(part.alone().to_json()));
  std::vector<std::int32_t> target(2, -1);
  const auto status = reader_.fetch(need(alone.at(0)), Tensor::borrow(target.data(), {2}));
  ASSERT_TRUE(status.is_ok()) << status.message();
  EXPECT_EQ(target, (std::vector<std::int32_t>{17, 15}));
  EXPECT_EQ(a.select(0, 4).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(a.select(2, 0).status().code(), Code::kInvalidArgument);
}

TEST_F(ApiTest, ATargetOfAnotherLayoutIsFilledInPlace) {
  const auto refs = need(owner_.register_tensor(counted({2, 3})));
  std::vector<std::int32_t> field(12, -1);
  Tensor target = Tensor::borrow(field.data() + 1, {2, 3});
  target.strides = {2, 4};  // transposed, every other element
  const auto status = reader_.fetch(need(refs.at(0)), target);
  ASSERT_TRUE(status.is_ok()) << status.message();
  EXPECT_EQ(field, (std::vector<std::int32_t>{-1, 0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5}));
}

TEST_F(ApiTest, AMappedTensorIsTheOwnersMemory) {
  const auto source = counted({1 << 16});
  auto refs = std::make_unique<TensorRefs>(need(owner_.register_tensor(source)));
  const auto mapped = need(reader_.map(need(refs->at(0))));
  EXPECT_EQ(mapped.values<std::int32_t>()[99], 99);
  source.values<std::int32_t>()[99] = -5;
  EXPECT_EQ(mapped.values<std::int32_t>()[99], -5);
  refs.reset();
  EXPECT_EQ(mapped.values<std::int32_t>()[99], -5);  // what is mapped stays
}

TEST_F(ApiTest, AViewIsTheOwnersMemoryAndReadOnly) {
  const auto source = counted({1 << 16});
  auto refs = std::make_unique<TensorRefs>(need(owner_.register_tensor(source)));
  const auto seen = need(reader_.view(need(refs->at(0))));
  const auto mapped = need(reader_.map(need(refs->at(0))));
  mapped.values<std::int32_t>()[7] = 70;  // stays with who wrote it
  source.values<std::int32_t>()[99] = -5;
  EXPECT_EQ(seen.values<std::int32_t>()[99], -5);
  EXPECT_EQ(seen.values<std::int32_t>()[7], 7);
  // The kernel does not write there either.
  const int zeros = ::open("/dev/zero", O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(::read(zeros, seen.data, 1), -1);
  EXPECT_EQ(errno, EFAULT);
  EXPECT_EQ(::read(zeros, mapped.data, 1), 1);
  ::close(zeros);
  const Slice slice{.start = 100, .step = 2, .count = 100};
  const auto part = need(reader_.view(need(need(refs->at(0)).part({&slice, 1}))));
  EXPECT_EQ(*reinterpret_cast<const std::int32_t*>(part.data + part.strides[0] * 4 * 2), 104);
  refs.reset();
  EXPECT_EQ(seen.values<std::int32_t>()[99], -5);  // what is seen stays
}

TEST_F(ApiTest, OnlyGrantedTensorsArePushedTo) {
  const auto source = counted({16});
  const auto refs = need(owner_.register_tensor(source));
  const std::vector<std::int32_t> sevens(16, 7);
  const auto push = [&] { return reader_.push(need(refs.at(0)), Tensor::borrow(sevens.data(), {16})); };
  EXPECT_EQ(push().code(), Code::kInvalidArgument);
  EXPECT_EQ(source.values<std::int32_t>()[15], 15);
  ASSERT_TRUE(owner_.grant(refs, reader_.address()).is_ok());
  const auto status = push();
  ASSERT_TRUE(status.is_ok()) << status.message();
  EXPECT_EQ(source.values<std::int32_t>()[15], 7);
  EXPECT_EQ(owner_.grant(refs, "nowhere").code(), Code::kInvalidArgument);
}

TEST_F(ApiTest, VersionsAreToldAndNumbered) {
  const auto versions = need(reader_.subscribe(owner_.address(), "weights"));
  EXPECT_FALSE(versions.latest().has_value());
  auto source = counted({8});
  EXPECT_EQ(need(owner_.publish("weights", std::span(&source, 1))), 1u);
  const auto first = need(versions.newer_than(0));
  EXPECT_EQ(first.number, 1u);
  source.values<std::int32_t>()[0] = 100;  // not in the version that was published
  EXPECT_EQ(need(owner_.publish("weights", std::span(&source, 1), {.names = {"w"}, .number = 7})), 7u);
  const auto second = need(versions.newer_than(first.number));
  EXPECT_EQ(second.number, 7u);
  EXPECT_EQ(need(reader_.map(need(first.tensors.at(0)))).values<std::int32_t>()[0], 0);
  EXPECT_EQ(need(reader_.map(need(second.tensors.at("w")))).values<std::int32_t>()[0], 100);
  EXPECT_EQ(owner_.publish("weights", std::span(&source, 1), {.number = 7}).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(versions.newer_than(7, {.timeout = 1ms}).status().code(), Code::kDeadlineExceeded);
  owner_.withdraw("weights");
  EXPECT_EQ(need(owner_.publish("after", std::span(&source, 1))), 1u);
  EXPECT_TRUE(need(reader_.subscribe(owner_.address(), "after")).newer_than(0).is_ok());  // told in order
  EXPECT_FALSE(versions.latest().has_value());
  EXPECT_EQ(reader_.map(need(second.tensors.at("w"))).status().code(), Code::kStale);
}

TEST_F(ApiTest, ACancelledWaitEnds) {
  const auto versions = need(reader_.subscribe(owner_.address(), "nothing"));
  const auto cancellation = need(Cancellation::make());
  std::thread canceller([&] { cancellation.cancel(); });
  EXPECT_EQ(versions.newer_than(0, {.timeout = std::nullopt, .cancellation = &cancellation}).status().code(),
            Code::kCancelled);
  canceller.join();
  EXPECT_TRUE(cancellation.is_cancelled());
}

TEST_F(ApiTest, WhatDoesNotFitIsRefusedBeforeAnythingIsWritten) {
  const auto refs = need(owner_.register_tensor(counted({4})));
  const auto ref = need(refs.at(0));
  std::vector<std::int32_t> target(4, -1);
  Tensor expanded = Tensor::borrow(target.data(), {4});
  expanded.strides = {0};
  Tensor nowhere = Tensor::borrow(target.data(), {4});
  nowhere.data = nullptr;
  std::vector<float> floats(4);
  for (const Tensor& bad : {Tensor::borrow(target.data(), {3}), Tensor::borrow(target.data(), {2, 2}), expanded,
                            nowhere, Tensor::borrow(floats.data(), {4})}) {
    EXPECT_EQ(reader_.fetch(ref, bad).code(), Code::kInvalidArgument);
  }
  EXPECT_EQ(reader_.fetch(std::span(&ref, 1), std::span<const Tensor>()).code(), Code::kInvalidArgument);
  const auto other = need(reader_.register_tensor(Tensor::borrow(target.data(), {4})));
  const std::vector<TensorRef> both = {ref, need(other.at(0))};
  const std::vector<Tensor> targets(2, Tensor::borrow(target.data(), {4}));
  EXPECT_EQ(reader_.fetch(both, targets).code(), Code::kInvalidArgument);
  EXPECT_EQ(target, std::vector<std::int32_t>(4, -1));

  EXPECT_EQ(reader_.fetch(ref, targets[0], {.min_gbps = 1e9}).code(), Code::kUnsupported);
  EXPECT_EQ(reader_.fetch(ref, targets[0], {.path = "pigeon"}).code(), Code::kUnsupported);
  EXPECT_EQ(owner_.empty({-1}, kInt32).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(owner_.empty({1 << 30}, kInt32).status().code(), Code::kResourceExhausted);
  EXPECT_EQ(owner_.register_tensors(targets, {.names = {"a", "a"}}).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(owner_.register_tensors(targets, {.names = {"a"}}).status().code(), Code::kInvalidArgument);
  EXPECT_EQ(TensorRefs::from_json("{}").status().code(), Code::kCorrupt);
  EXPECT_EQ(TensorRefs::from_bytes({}).status().code(), Code::kCorrupt);
  EXPECT_EQ(Agent::open({}).status().code(), Code::kInvalidArgument);
}

TEST_F(ApiTest, TheRegistrationEndsWithItsReferences) {
  // Outside the arena: kept by what the tensor says.
  auto values = std::make_shared<std::vector<std::int32_t>>(1000, 3);
  const std::weak_ptr<void> alive = values;
  Tensor tensor = Tensor::borrow(values->data(), {1000});
  tensor.memory = std::move(values);
  auto refs = std::make_unique<TensorRefs>(need(owner_.register_tensor(tensor)));
  const auto travelled = need(TensorRefs::from_bytes(refs->to_bytes()));
  tensor = {};
  EXPECT_FALSE(alive.expired());
  EXPECT_EQ(owner_.stats().registrations, 1u);
  auto part = std::make_unique<TensorRef>(need(refs->at(0)));
  refs.reset();
  EXPECT_EQ(owner_.stats().registrations, 1u);  // the part holds it
  part.reset();
  EXPECT_EQ(owner_.stats().registrations, 0u);
  EXPECT_TRUE(alive.expired());
  std::vector<std::int32_t> target(1000, -1);
  EXPECT_EQ(reader_.fetch(need(travelled.at(0)), Tensor::borrow(target.data(), {1000})).code(), Code::kStale);
}

TEST_F(ApiTest, AClosedAgentIsLostToItsPeers) {
  auto owner = std::make_unique<Agent>(open("leaver"));
  const auto tensor = need(owner->empty({4}, kInt32));
  const auto refs = need(owner->register_tensor(tensor));
  const auto ref = need(refs.at(0));
  std::vector<std::int32_t> target(4, -1);
  ASSERT_TRUE(reader_.fetch(ref, Tensor::borrow(target.data(), {4})).is_ok());
  const auto explained = need(reader_.explain(ref));
  EXPECT_EQ(explained.chosen, "shm");
  EXPECT_EQ(explained.candidates.size(), 8u);
  owner.reset();
  // The end of a connection is seen a moment later; until then its memory is read as it was.
  const auto until = std::chrono::steady_clock::now() + 30s;
  while (reader_.fetch(ref, Tensor::borrow(target.data(), {4})) && std::chrono::steady_clock::now() < until) {
  }
  EXPECT_EQ(reader_.connect(ref.owner(), {.timeout = 5s}).code(), Code::kPeerLost);
  EXPECT_EQ(reader_.fetch(ref, Tensor::borrow(target.data(), {4})).code(), Code::kPeerLost);
}

TEST_F(ApiTest, ASubscriberThatRelaysHasACopyOfItsOwnForOthers) {
  const auto open_alone = [&](const std::string& name) {
    return need(Agent::open({.name = name,
                             .tcp = "127.0.0.1:0",
                             .token = "secret",
                             .share_memory = false,
                             .folder = folder_,
                             .quota_bytes = 64u << 20}));
  };
  const Agent publisher = open_alone("publisher"), first = open_alone("first"), second = open_alone("second");
  std::vector<std::int32_t> values(1000);
  std::iota(values.begin(), values.end(), 0);
  const Tensor tensor = Tensor::borrow(values.data(), {1000});
  need(publisher.publish("w", {&tensor, 1}, {.fan_out = 1}));
  const auto early = need(first.subscribe(publisher.address(), "w", {.relay = true}));
  const auto late = need(second.subscribe(publisher.address(), "w", {.relay = true}));
  EXPECT_FALSE(early.latest().has_value());
  const auto own = need(early.newer_than(0));
  EXPECT_EQ(own.tensors.owner(), first.address());
  EXPECT_EQ(early.latest()->number, 1u);
  const auto other = need(late.newer_than(0));
  EXPECT_EQ(other.tensors.owner(), second.address());
  EXPECT_EQ(second.stats().parents_lost, 0u);
  std::vector<std::int32_t> target(1000, -1);
  ASSERT_TRUE(second.fetch(need(other.tensors.at(0)), Tensor::borrow(target.data(), {1000})).is_ok());
  EXPECT_EQ(target, values);
  EXPECT_EQ(publisher.stats().overdue, 0u);
  EXPECT_EQ(need(second.map(need(other.tensors.at(0)))).values<std::int32_t>()[999], 999);
}

TEST_F(ApiTest, ANotificationAfterAPushSaysThatItIsThere) {
  const auto slots = counted({64});
  const auto refs = need(owner_.register_tensor(slots));
  ASSERT_TRUE(owner_.grant(refs, reader_.address()).is_ok());
  const auto filled = need(owner_.notifications("filled", 1));
  std::vector<std::int32_t> values(64, 5);
  ASSERT_TRUE(reader_.push(need(refs.at(0)), Tensor::borrow(values.data(), {64})).is_ok());
  const auto word = std::as_bytes(std::span("word", 4));
  ASSERT_TRUE(reader_.notify(owner_.address(), "filled", word).is_ok());
  EXPECT_EQ(reader_.notify(owner_.address(), "filled", word).code(), Code::kResourceExhausted);
  EXPECT_EQ(reader_.notify(owner_.address(), "other", word).code(), Code::kNotFound);
  const auto note = need(filled.next());
  EXPECT_EQ(note.sender, "reader");
  EXPECT_EQ(note.payload.size(), 4u);
  EXPECT_EQ(slots.values<std::int32_t>()[63], 5);
  EXPECT_FALSE(filled.poll().has_value());
  EXPECT_EQ(filled.stats().refused, 1u);
  EXPECT_EQ(filled.next({.timeout = 1ms}).status().code(), Code::kDeadlineExceeded);
}

}  // namespace
}  // namespace beeline::api
