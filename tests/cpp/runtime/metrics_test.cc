// Metrics as their process writes them and as any other one reads them.
#include "beeline/runtime/metrics.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "beeline/transfer/agents_folder.h"

namespace beeline::runtime {
namespace {

namespace fs = std::filesystem;
constexpr double kBounds[] = {1.0, 10.0};

class MetricsTest : public ::testing::Test {
 protected:
  static std::string make_folder() {
    char place[] = "/tmp/bmetricsXXXXXX";
    return ::mkdtemp(place);
  }
  void TearDown() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  static Metrics make() {
    auto made = Metrics::create();
    EXPECT_TRUE(made.is_ok()) << made.status().message();
    return std::move(*made);
  }
  static Metrics::Series series(Metrics& metrics, MetricKind kind, const std::string& name,
                                const Metrics::Tags& tags = {}) {
    const auto bounds = kind == MetricKind::kHistogram ? std::span<const double>(kBounds) : std::span<const double>();
    auto found = metrics.series(kind, name, "about " + name, bounds, tags);
    EXPECT_TRUE(found.is_ok()) << found.status().message();
    return found.is_ok() ? *found : 0;
  }
  [[nodiscard]] MetricsReading read() const {
    auto reading = read_metrics(path_);
    EXPECT_TRUE(reading.is_ok()) << reading.status().message();
    return reading.is_ok() ? *reading : MetricsReading{};
  }

  const std::string folder_ = make_folder();
  const std::string path_ = folder_ + "/p3.metrics";
};

TEST_F(MetricsTest, AReaderSeesExactlyWhatWasRecorded) {
  auto metrics = make();
  ASSERT_TRUE(metrics.expose(folder_, "p3", 3));
  metrics.add(series(metrics, MetricKind::kCounter, "calls", {{"a", "1"}, {"b", ""}}), 2.5);
  metrics.add(series(metrics, MetricKind::kCounter, "calls", {{"a", "1"}, {"b", ""}}), 1);
  metrics.set(series(metrics, MetricKind::kGauge, "depth"), -4);
  const auto seconds = series(metrics, MetricKind::kHistogram, "seconds");
  for (const double value : {0.5, 1.0, 2.0, 1e9}) metrics.observe(seconds, value);
  const auto reading = read();
  EXPECT_EQ(reading.pid, ::getpid());
  EXPECT_EQ(reading.process, 3u);
  EXPECT_TRUE(reading.alive);
  EXPECT_EQ(reading.lost, 0u);
  ASSERT_EQ(reading.series.size(), 3u);
  EXPECT_EQ(reading.series[0].name, "calls");
  EXPECT_EQ(reading.series[0].description, "about calls");
  EXPECT_EQ(reading.series[0].tags, (Metrics::Tags{{"a", "1"}, {"b", ""}}));
  EXPECT_EQ(reading.series[0].value, 3.5);
  EXPECT_EQ(reading.series[1].kind, MetricKind::kGauge);
  EXPECT_EQ(reading.series[1].value, -4);
  EXPECT_EQ(reading.series[2].bounds, (std::vector<double>{1.0, 10.0}));
  EXPECT_EQ(reading.series[2].counts, (std::vector<std::uint64_t>{2, 1, 1}));  // a bound belongs to what it bounds
  EXPECT_EQ(reading.series[2].value, 0.5 + 1.0 + 2.0 + 1e9);
}

TEST_F(MetricsTest, WhatWasRecordedBeforeThereWasAFileIsInIt) {
  auto metrics = make();
  const auto before = series(metrics, MetricKind::kCounter, "before");
  metrics.add(before, 1);
  EXPECT_FALSE(metrics.is_exposed());
  ASSERT_TRUE(metrics.expose(folder_, "p3", 3));
  metrics.add(before, 1);
  EXPECT_EQ(read().series.at(0).value, 2);
  metrics.hide();
  EXPECT_FALSE(fs::exists(path_));
  metrics.add(before, 1);
  ASSERT_TRUE(metrics.expose(folder_, "p3", 3));
  EXPECT_EQ(read().series.at(0).value, 3);
}

TEST_F(MetricsTest, ANameBelongsToOneKind) {
  auto metrics = make();
  series(metrics, MetricKind::kCounter, "calls");
  const auto other = metrics.series(MetricKind::kGauge, "calls", "", {}, {});
  EXPECT_EQ(other.status().code(), Code::kAlreadyExists);
  EXPECT_NE(other.status().message().find("calls"), std::string::npos);
}

TEST_F(MetricsTest, WhatFindsNoRoomIsCountedAndRefused) {
  auto metrics = make();
  ASSERT_TRUE(metrics.expose(folder_, "p3", 3));
  const std::string long_value(64u << 10, 'x');
  std::size_t made = 0;
  Status refused;
  for (int i = 0; i < 100 && refused; ++i) {
    const auto found =
        metrics.series(MetricKind::kCounter, "many", "", {}, {{"id", std::to_string(i)}, {"long", long_value}});
    if (found) ++made;
    refused = found.status();
  }
  EXPECT_EQ(refused.code(), Code::kResourceExhausted);
  EXPECT_NE(refused.message().find("4 MiB"), std::string::npos) << refused.message();
  const auto reading = read();
  EXPECT_EQ(reading.series.size(), made);
  EXPECT_GT(made, 50u);
  EXPECT_EQ(reading.lost, 1u);
  // Those that are there go on.
  metrics.add(*metrics.series(MetricKind::kCounter, "many", "", {}, {{"id", "0"}, {"long", long_value}}), 1);
  EXPECT_EQ(read().series.at(0).value, 1);
}

// Sizes of files are limited as a full disk would do it, until it ends.
struct LimitedFiles {
  explicit LimitedFiles(rlim_t bytes) {
    ::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before);
    const rlimit limited{bytes, before.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limited);
  }
  ~LimitedFiles() { ::setrlimit(RLIMIT_FSIZE, &before); }
  rlimit before{};
};

TEST_F(MetricsTest, AFullDiskLeavesThemInMemory) {
  auto metrics = make();
  const auto calls = series(metrics, MetricKind::kCounter, "calls");
  {
    const LimitedFiles limited(4096);
    const auto status = metrics.expose(folder_, "p3", 3);
    EXPECT_EQ(status.system_error(), EFBIG) << status.message();
  }
  EXPECT_FALSE(metrics.is_exposed());
  EXPECT_TRUE(fs::is_empty(folder_));
  metrics.add(calls, 1);
  ASSERT_TRUE(metrics.expose(folder_, "p3", 3));
  EXPECT_EQ(read().series.at(0).value, 1);
}

TEST_F(MetricsTest, ADiskThatFillsUpCostsNewSeriesAlone) {
  auto metrics = make();
  ASSERT_TRUE(metrics.expose(folder_, "p3", 3));
  const std::string long_value(30u << 10, 'x');
  Status refused;
  {
    const LimitedFiles limited(64u << 10);
    for (int i = 0; i < 3; ++i) {
      const auto found = metrics.series(MetricKind::kGauge, "many", "", {}, {{"a", long_value + std::to_string(i)}});
      if (found) metrics.set(*found, i);
      refused = found.status();
    }
  }
  EXPECT_EQ(refused.code(), Code::kResourceExhausted);
  const auto reading = read();
  ASSERT_EQ(reading.series.size(), 2u);
  EXPECT_EQ(reading.series[1].value, 1);
  EXPECT_EQ(reading.lost, 1u);
}

TEST_F(MetricsTest, AChildOfForkRecordsForItself) {
  auto metrics = make();
  ASSERT_TRUE(metrics.expose(folder_, "p3", 3));
  const auto calls = series(metrics, MetricKind::kCounter, "calls");
  metrics.add(calls, 1);
  const pid_t child = ::fork();
  if (child == 0) {
    metrics.add(calls, 100);
    metrics.hide();
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  metrics.add(calls, 1);
  EXPECT_EQ(read().series.at(0).value, 2);
}

TEST_F(MetricsTest, TheFileOfAProcessThatIsGoneIsRemoved) {
  {
    auto metrics = make();
    ASSERT_TRUE(metrics.expose(folder_, "p3", 3));
    transfer::remove_left_behind(folder_);
    EXPECT_TRUE(fs::exists(path_));
  }
  EXPECT_FALSE(read().alive);
  transfer::remove_left_behind(folder_);
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(MetricsTest, WhatIsNoFileOfMetricsIsRefused) {
  EXPECT_EQ(read_metrics(path_).status().code(), Code::kNotFound);
  EXPECT_EQ(decode_metrics({}).status().code(), Code::kCorrupt);
  auto metrics = make();
  ASSERT_TRUE(metrics.expose(folder_, "p3", 3));
  series(metrics, MetricKind::kHistogram, "seconds", {{"a", "1"}});
  std::ifstream file(path_, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  for (const std::size_t size : {std::size_t{7}, std::size_t{63}, std::size_t{100}}) {
    EXPECT_EQ(decode_metrics(as_bytes(text).first(size)).status().code(), Code::kCorrupt) << size;
  }
  for (const std::size_t at : {std::size_t{64}, std::size_t{68}, std::size_t{72}, std::size_t{74}}) {
    std::string changed = text;
    changed[at] = '\x7f';
    EXPECT_EQ(decode_metrics(as_bytes(changed)).status().code(), Code::kCorrupt) << at;
  }
}

}  // namespace
}  // namespace beeline::runtime
