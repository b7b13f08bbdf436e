// A program in C++ as driver and worker of a real session: this test program is both.
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <stdexcept>

#include "beeline/program/beeline.h"
#include "patience.h"

namespace {

using beeline::Code;
using beeline::kPatience;
using beeline::Result;
using beeline::Status;
using beeline::Tensor;

int add(int a, int b) {
  return a + b;
}
std::map<std::string, double> scaled(const std::map<std::string, double>& values, double factor) {
  auto result = values;
  for (auto& [name, value] : result) value *= factor;
  return result;
}
int raises(int number) {
  throw std::runtime_error("not " + std::to_string(number));
}
Result<int> refuses(int number) {
  return Status(Code::kNotFound, "no " + std::to_string(number));
}
int crashes() {
  ::kill(::getpid(), SIGKILL);
  return 0;
}
int sleeps(int ms) {
  ::usleep(static_cast<useconds_t>(ms) * 1000);
  return ms;
}
void does_nothing() {}
int pid() {
  return ::getpid();
}
Result<int> nested(int number) {
  return beeline::get(beeline::task(add).remote(number, 1));
}
Result<Tensor> ramp(std::int64_t size) {
  BEELINE_ASSIGN(auto tensor, beeline::empty({size}, beeline::api::kFloat32));
  std::iota(tensor.values<float>().begin(), tensor.values<float>().end(), 0.0f);
  return tensor;
}
double total(const Tensor& tensor) {
  const auto values = tensor.values<float>();
  return std::accumulate(values.begin(), values.end(), 0.0);
}

class Counter {
 public:
  explicit Counter(int start) : value_(start) {}
  int add(int amount) { return value_ += amount; }
  [[nodiscard]] int value() const { return value_; }
  Status fail() { return {Code::kInvalidArgument, "as asked"}; }
  int pid() { return ::getpid(); }
  Tensor weights() {
    if (weights_.data == nullptr) weights_ = *ramp(100'000);
    return weights_;
  }
  void scale() {
    for (auto& value : weights_.values<float>()) value *= 2;
  }

 private:
  int value_;
  Tensor weights_;
};
std::unique_ptr<Counter> make_counter(int start) {
  if (start < 0) throw std::invalid_argument("a negative start");
  return std::make_unique<Counter>(start);
}

BEELINE_REMOTE(add, scaled, raises, refuses, crashes, sleeps, does_nothing, pid, nested, ramp, total);
BEELINE_REMOTE(make_counter, &Counter::add, &Counter::value, &Counter::fail, &Counter::pid, &Counter::weights,
               &Counter::scale);

int never_registered(int number) {
  return number;
}

class ProgramTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char place[] = "/tmp/bprogXXXXXX";
    ASSERT_NE(::mkdtemp(place), nullptr);
    place_ = place;
    ::setenv("BEELINE_TMPDIR", place, 1);
    ::setenv("BEELINE_DAEMON", BEELINE_NODE_PATH, 1);
    begin();
  }
  static void begin() {
    beeline::program::Options options;
    options.num_cpus = 2;
    options.object_store_memory = 256u << 20;
    options.python = SESSION_ZYGOTE_PATH;  // no Python here: it only has to start
    const auto status = beeline::init(options);
    ASSERT_TRUE(status.is_ok()) << status.message();
  }
  void TearDown() override {
    beeline::shutdown();
    std::error_code ignored;
    EXPECT_TRUE(std::filesystem::is_empty(place_, ignored) || left().empty()) << left();
    std::filesystem::remove_all(place_, ignored);
  }
  std::string left() const {
    std::string found;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(place_)) {
      if (!entry.is_directory()) found += entry.path().string() + "\n";
    }
    return found;
  }
  std::string place_;
};

template <typename T>
T value(const Result<T>& result) {
  if (!result) throw std::runtime_error(result.status().message());
  return *result;
}
template <typename T>
T got(const Result<beeline::ObjectRef<T>>& ref) {
  return value(beeline::get(ref, kPatience));
}
template <typename T>
Status failure(const Result<beeline::ObjectRef<T>>& ref) {
  return beeline::get(ref, kPatience).status();
}

TEST_F(ProgramTest, FunctionsRunInOtherProcesses) {
  EXPECT_EQ(got(beeline::task(add).remote(1, 2)), 3);
  EXPECT_NE(got(beeline::task(pid).remote()), ::getpid());
  EXPECT_EQ(got(beeline::task(scaled).remote(std::map<std::string, double>{{"a", 1.5}, {"b", -2}}, 2)),
            (std::map<std::string, double>{{"a", 3}, {"b", -4}}));
  (void)got(beeline::task(does_nothing).remote());
}

TEST_F(ProgramTest, ReferencesAreArguments) {
  const auto first = beeline::task(add).remote(1, 2);
  const auto second = beeline::task(add).remote(*first, *beeline::put(10));
  EXPECT_EQ(got(beeline::task(add).remote(*second, *first)), 16);
  EXPECT_EQ(got(beeline::task(nested).remote(*second)), 14) << "a worker makes calls too";
}

TEST_F(ProgramTest, ManyCallsInOrderOfTheirReferences) {
  std::vector<beeline::ObjectRef<int>> refs;
  for (int i = 0; i < 500; ++i) refs.push_back(*beeline::task(add).remote(i, i));
  const auto values = value(beeline::get(refs, kPatience));
  for (int i = 0; i < 500; ++i) EXPECT_EQ(values[static_cast<std::size_t>(i)], 2 * i);
}

TEST_F(ProgramTest, WhatAFunctionThrowsIsTheCallersError) {
  const auto thrown = failure(beeline::task(raises).remote(7));
  EXPECT_EQ(thrown.code(), Code::kRaised);
  EXPECT_NE(thrown.message().find("not 7"), std::string::npos) << thrown.message();
  EXPECT_NE(thrown.message().find("raises"), std::string::npos) << thrown.message();
  EXPECT_NE(failure(beeline::task(refuses).remote(7)).message().find("no 7"), std::string::npos);
  // It reaches those who depend on it, and nobody else.
  EXPECT_EQ(failure(beeline::task(add).remote(*beeline::task(raises).remote(1), 2)).code(), Code::kRaised);
  EXPECT_EQ(got(beeline::task(add).remote(1, 2)), 3);
}

TEST_F(ProgramTest, AWorkerThatDiesIsAnError) {
  const auto status = failure(beeline::task(crashes, {.max_retries = 0}).remote());
  EXPECT_EQ(status.code(), Code::kPeerLost) << status.message();
  EXPECT_EQ(got(beeline::task(add).remote(1, 2)), 3);
}

TEST_F(ProgramTest, WaitingEndsInTime) {
  const auto slow = beeline::task(sleeps).remote(60'000);
  const auto quick = beeline::task(add).remote(1, 2);
  EXPECT_EQ(beeline::get(slow, std::chrono::milliseconds(50)).status().code(), Code::kDeadlineExceeded);
  const auto waited = value(beeline::wait<int>({*slow, *quick}, 1, kPatience));
  ASSERT_EQ(waited.ready.size(), 1u);
  EXPECT_EQ(value(beeline::get(waited.ready[0])), 3);
  EXPECT_EQ(waited.unready.size(), 1u);
  EXPECT_FALSE(slow->is_ready());
  EXPECT_EQ(beeline::wait<int>({*quick}, 2).status().code(), Code::kInvalidArgument);
}

TEST_F(ProgramTest, TensorsTravelBothWays) {
  const auto large = value(beeline::get(beeline::task(ramp).remote(1'000'000), kPatience));
  ASSERT_EQ(large.shape, std::vector<std::int64_t>{1'000'000});
  EXPECT_EQ(large.values<float>()[999'999], 999'999.0f);
  const double sum = 999'999.0 * 1'000'000 / 2;
  EXPECT_EQ(got(beeline::task(total).remote(large)), sum) << "by value";
  EXPECT_EQ(got(beeline::task(total).remote(*beeline::put(large))), sum) << "by reference";
  EXPECT_EQ(got(beeline::task(total).remote(*beeline::task(ramp, {.direct = true}).remote(1'000'000))), sum)
      << "direct";
  EXPECT_EQ(got(beeline::task(total).remote(value(ramp(10)))), 45.0) << "small";
}

TEST_F(ProgramTest, ATensorOutlivesReferencesAndSession) {
  Tensor tensor;
  {
    const auto ref = beeline::task(ramp).remote(100'000);
    tensor = got(ref);
  }
  beeline::shutdown();
  EXPECT_EQ(tensor.values<float>()[99'999], 99'999.0f);
  begin();
}

TEST_F(ProgramTest, AnActorKeepsItsState) {
  const auto counter = value(beeline::actor(make_counter).remote(5));
  for (int i = 0; i < 100; ++i) (void)counter.call(&Counter::add, 1);
  EXPECT_EQ(got(counter.call(&Counter::add, *beeline::task(add).remote(1, 2))), 108);
  EXPECT_EQ(got(counter.call(&Counter::value)), 108);
  EXPECT_NE(failure(counter.call(&Counter::fail)).message().find("as asked"), std::string::npos);
  EXPECT_EQ(got(counter.call_with({.max_task_retries = 1}, &Counter::value)), 108);
  EXPECT_EQ(got(counter.actor().call<int>("add", 2)), 110) << "by name";
  const auto unknown = failure(counter.actor().call<int>("no_such_method"));
  EXPECT_NE(unknown.message().find("no registered method named 'no_such_method'"), std::string::npos);
  const auto wrong = failure(counter.actor().call<int>("add", "two"));
  EXPECT_NE(wrong.message().find("argument 0: expected an integer, got a string"), std::string::npos)
      << wrong.message();
  EXPECT_EQ(beeline::get(counter.actor().call<std::string>("value"), kPatience).status().code(),
            Code::kInvalidArgument);
}

TEST_F(ProgramTest, AnActorEndsWithItsLastHandle) {
  pid_t process = 0;
  {
    const auto counter = value(beeline::actor(make_counter).remote(1));
    process = got(counter.call(&Counter::pid));
  }
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (::kill(process, 0) == 0 && std::chrono::steady_clock::now() < end) ::usleep(1000);
  EXPECT_NE(::kill(process, 0), 0);
}

TEST_F(ProgramTest, NamedActorsAreFound) {
  const auto counter = value(beeline::actor(make_counter, {.name = "shared"}).remote(1));
  const auto found = value(beeline::get_actor("shared"));
  EXPECT_EQ(got(found.call<int>("add", 4)), 5);
  EXPECT_EQ(beeline::get_actor("nobody").status().code(), Code::kNotFound);
  EXPECT_EQ(beeline::actor(make_counter, {.name = "shared"}).remote(1).status().code(), Code::kAlreadyExists);
}

TEST_F(ProgramTest, AFactoryThatThrowsFailsTheCalls) {
  const auto counter = value(beeline::actor(make_counter).remote(-1));
  const auto status = failure(counter.call(&Counter::value));
  EXPECT_EQ(status.code(), Code::kRaised) << status.message();
  EXPECT_NE(status.message().find("a negative start"), std::string::npos) << status.message();
}

TEST_F(ProgramTest, AKilledActorIsGone) {
  const auto counter = value(beeline::actor(make_counter).remote(1));
  (void)got(counter.call(&Counter::value));
  counter.kill();
  EXPECT_EQ(failure(counter.call(&Counter::value)).code(), Code::kPeerLost);
}

TEST_F(ProgramTest, AnActorsTensorIsPublishedInPlace) {
  const auto counter = value(beeline::actor(make_counter).remote(1));
  const auto before = got(counter.call_with({.direct = true}, &Counter::weights));
  EXPECT_EQ(before.values<float>()[99'999], 99'999.0f);
  // What is read is the actor's own memory.
  (void)got(counter.call(&Counter::scale));
  EXPECT_EQ(before.values<float>()[99'999], 199'998.0f);
  const auto copied = got(counter.call(&Counter::weights));
  (void)got(counter.call(&Counter::scale));
  EXPECT_EQ(copied.values<float>()[99'999], 199'998.0f);
}

TEST_F(ProgramTest, MisuseIsSaid) {
  EXPECT_EQ(beeline::init().code(), Code::kAlreadyExists);
  EXPECT_EQ(beeline::task(never_registered).remote(1).status().code(), Code::kNotFound);
  EXPECT_EQ(beeline::get(beeline::ObjectRef<int>()).status().code(), Code::kInvalidArgument);
  const auto ref = beeline::task(add).remote(1, 2);
  (void)got(ref);
  beeline::shutdown();
  EXPECT_FALSE(beeline::is_initialized());
  EXPECT_EQ(beeline::task(add).remote(1, 2).status().code(), Code::kShutdown);
  begin();
  EXPECT_EQ(beeline::task(add).remote(*ref, 2).status().code(), Code::kShutdown) << "a reference of another session";
  EXPECT_EQ(got(beeline::task(add).remote(1, 2)), 3);
}

}  // namespace

int main(int argc, char** argv) {
  if (std::getenv("BEELINE_WORKER_TOKEN") != nullptr) (void)beeline::init();  // does not return
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
