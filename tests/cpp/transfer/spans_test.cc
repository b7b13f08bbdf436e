// Spans as their agent records them and as any other process reads them: what is read is whole, whatever is written
// meanwhile, and what is gone is counted.
#include "beeline/transfer/spans.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "beeline/transfer/agent.h"
#include "beeline/transfer/agent_file.h"
#include "beeline/transfer/snapshot.h"
#include "patience.h"

namespace beeline::transfer {
namespace {

namespace fs = std::filesystem;

constexpr const char* kId = "0123456789abcdef0123456789abcdef";

Clock::time_point at(std::int64_t nanoseconds) {
  return Clock::time_point(Nanos(nanoseconds));
}

class SpansTest : public ::testing::Test {
 protected:
  static std::string make_folder() {
    char place[] = "/tmp/bspanXXXXXX";
    return ::mkdtemp(place);
  }
  void TearDown() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  [[nodiscard]] std::unique_ptr<Spans> make() const {
    auto made = Spans::create(path_, kId);
    EXPECT_TRUE(made.is_ok()) << made.status().message();
    return std::move(*made);
  }
  static SpansReading read(const std::string& path) {
    auto reading = read_spans(path);
    EXPECT_TRUE(reading.is_ok()) << reading.status().message();
    return reading.is_ok() ? *reading : SpansReading{};
  }
  [[nodiscard]] SpansReading read() const { return read(path_); }
  [[nodiscard]] Bytes content() const {
    std::ifstream file(path_, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const auto bytes = as_bytes(text);
    return {bytes.begin(), bytes.end()};
  }

  const std::string folder_ = make_folder();
  const std::string path_ = folder_ + "/" + kId + ".spans";
};

TEST_F(SpansTest, AReaderSeesWhatWasRecordedByWhenItBegan) {
  const auto spans = make();
  spans->record({Operation::kPush, 7, 1 << 20, at(2'000'000), Nanos(50'000), Code::kPeerLost});
  spans->record({Operation::kFetch, 3, 1000, at(1'000'000), Nanos(300), Code::kOk});
  spans->record({Operation::kPublish, 0, 4096, at(3'000'000), Nanos(-5), Code::kOk},
                "weights/of/the/policy/\u00e9\u00e9");
  const auto reading = read();
  EXPECT_EQ(reading.id, kId);
  EXPECT_EQ(reading.pid, ::getpid());
  EXPECT_EQ(reading.recorded, 3u);
  EXPECT_EQ(reading.overwritten + reading.dropped + reading.changing, 0u);
  ASSERT_EQ(reading.spans.size(), 3u);
  const auto& fetched = reading.spans[0];
  EXPECT_EQ(fetched.operation, Operation::kFetch);
  EXPECT_EQ(fetched.begin_ns, 1'000'000);
  EXPECT_EQ(fetched.nanoseconds, 300u);
  EXPECT_EQ(fetched.bytes, 1000u);
  EXPECT_EQ(fetched.row, 3u);
  EXPECT_EQ(fetched.outcome, Code::kOk);
  EXPECT_EQ(fetched.thread, static_cast<std::uint32_t>(::gettid()));
  EXPECT_EQ(fetched.name, "");
  EXPECT_EQ(reading.spans[1].outcome, Code::kPeerLost);
  EXPECT_EQ(reading.spans[1].bytes, 1u << 20);
  EXPECT_EQ(reading.spans[2].operation, Operation::kPublish);
  EXPECT_EQ(reading.spans[2].nanoseconds, 0u);                       // a clock that ran backwards
  EXPECT_EQ(reading.spans[2].name, "weights/of/the/policy/\u00e9");  // cut between characters
}

TEST_F(SpansTest, TheOldestAreOverwrittenAndCounted) {
  const auto spans = make();
  constexpr std::uint64_t kMore = 100;
  for (std::uint64_t i = 0; i < kSpansOfRing + kMore; ++i) {
    spans->record({Operation::kFetch, 1, i, at(static_cast<std::int64_t>(i)), Nanos(5), Code::kOk});
  }
  const auto reading = read();
  EXPECT_EQ(reading.recorded, kSpansOfRing + kMore);
  EXPECT_EQ(reading.overwritten, kMore);
  ASSERT_EQ(reading.spans.size(), kSpansOfRing);
  EXPECT_EQ(reading.spans.front().bytes, kMore);
  EXPECT_EQ(reading.spans.back().bytes, kSpansOfRing + kMore - 1);
}

TEST_F(SpansTest, AFloodOfShortOnesLeavesLongOnesAlone) {
  const auto spans = make();
  spans->record({Operation::kFetch, 1, 77, at(1), kLongSpan, Code::kOk});
  for (int i = 0; i < 10'000; ++i) spans->record({Operation::kFetch, 1, 5, at(2), Nanos(5), Code::kOk});
  EXPECT_EQ(read().spans.front().bytes, 77u);
}

TEST_F(SpansTest, AReaderNeverSeesATornSpan) {
  const auto spans = make();
  std::atomic<bool> stop{false};
  std::vector<std::thread> writers;
  for (std::uint64_t w = 0; w < 3; ++w) {
    writers.emplace_back([&, w] {
      // Each field follows from the first one.
      for (std::uint64_t i = w; !stop.load(); i += 3) {
        const bool is_publication = i % 2 == 1;
        const std::string name = "name " + std::to_string(i % 1000);
        spans->record({is_publication ? Operation::kPublish : Operation::kFetch, static_cast<std::uint16_t>(i % 1000),
                       i * 3, at(static_cast<std::int64_t>(i)), Nanos(i % 9'000), static_cast<Code>(i % 16)},
                      is_publication ? name : "");
        // Or no span would be left as it was when a reader comes back to see whether it is.
        if (i % 1000 < 3) std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
    });
  }
  std::uint64_t seen = 0;
  for (int round = 0; round < 200; ++round) {
    const auto reading = read();
    for (const auto& span : reading.spans) {
      const auto i = static_cast<std::uint64_t>(span.begin_ns);
      ASSERT_EQ(span.bytes, i * 3);
      ASSERT_EQ(span.row, i % 1000);
      ASSERT_EQ(span.nanoseconds, i % 9'000);
      ASSERT_EQ(static_cast<std::uint64_t>(span.outcome), i % 16);
      ASSERT_EQ(span.name, i % 2 == 1 ? "name " + std::to_string(i % 1000) : "");
      ++seen;
    }
  }
  stop = true;
  for (auto& writer : writers) writer.join();
  EXPECT_GT(seen, 0u);
  // At rest every slot holds the span of its newest round, but for those that were dropped.
  const auto reading = read();
  EXPECT_LE(reading.changing, reading.dropped);
  EXPECT_EQ(reading.recorded, reading.overwritten + std::min<std::uint64_t>(reading.recorded, kSpansOfRing));
}

TEST_F(SpansTest, WhoIsOvertakenByAWholeRoundKeepsItsSlot) {
  const auto spans = make();
  const os::Fd fd(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
  auto mapping = *os::Mapping::map(fd.get(), 0, sizeof(SpansFile), os::Access::kReadWrite, os::Sharing::kShared);
  auto& file = *reinterpret_cast<SpansFile*>(mapping.data());
  for (std::uint32_t i = 0; i < kSpansOfRing; ++i) spans->record({Operation::kFetch, 0, 1, at(i), Nanos(1), Code::kOk});
  file.slots[0][0].sequence = 1;  // as if the thread that began the first one had not run since
  spans->record({Operation::kFetch, 0, 2, at(0), Nanos(1), Code::kOk});
  auto reading = read();
  EXPECT_EQ(reading.dropped, 1u);
  EXPECT_EQ(reading.changing, 1u);
  EXPECT_EQ(reading.spans.size(), kSpansOfRing - 1);
  // A thread that comes late finds a newer one there, and leaves it.
  file.slots[0][1].sequence = 2 * (std::uint64_t{5} * kSpansOfRing + 1) + 2;
  spans->record({Operation::kFetch, 0, 3, at(0), Nanos(1), Code::kOk});
  EXPECT_EQ(read().dropped, 2u);
  EXPECT_EQ(file.slots[0][1].bytes, 1u);
}

TEST_F(SpansTest, WhatChangedBetweenTheCopiesIsPassedOver) {
  const auto spans = make();
  for (std::int64_t i = 0; i < 2; ++i) spans->record({Operation::kFetch, 0, 1, at(i), Nanos(1), Code::kOk});
  const Bytes before = content();
  spans->record({Operation::kFetch, 0, 1, at(2), Nanos(1), Code::kOk});
  const Bytes after = content();
  const auto reading = decode_spans(before, after, after);
  ASSERT_TRUE(reading.is_ok()) << reading.status().message();
  EXPECT_EQ(reading->recorded, 3u);
  EXPECT_EQ(reading->changing, 1u);
  EXPECT_EQ(reading->spans.size(), 2u);
}

TEST_F(SpansTest, WhatIsNoFileOfSpansIsRefused) {
  const auto spans = make();
  spans->record({Operation::kFetch, 0, 1, at(1), Nanos(1), Code::kOk});
  const Bytes whole = content();
  ASSERT_TRUE(decode_spans(whole, whole, whole).is_ok());
  for (const std::size_t size : {std::size_t{0}, std::size_t{63}, std::size_t{4096}, whole.size() - 1}) {
    const auto cut = BytesView(whole).first(size);
    EXPECT_EQ(decode_spans(cut, whole, whole).status().code(), Code::kCorrupt) << size;
    EXPECT_EQ(decode_spans(whole, cut, whole).status().code(), Code::kCorrupt) << size;
    EXPECT_EQ(decode_spans(whole, whole, cut).status().code(), Code::kCorrupt) << size;
  }
  const auto with = [&](std::size_t offset, std::uint32_t value) {
    Bytes changed = whole;
    std::memcpy(changed.data() + offset, &value, sizeof value);
    return decode_spans(changed, changed, changed).status();
  };
  EXPECT_NE(with(0, 1).message().find("BELspan1"), std::string::npos);
  EXPECT_NE(with(8, 2).message().find("version 2"), std::string::npos);
  const std::size_t slot = sizeof(SpansHeader);
  for (const auto& [offset, value] :
       std::vector<std::pair<std::size_t, std::uint32_t>>{{12, 63},
                                                          {16, ~0u},
                                                          {20, 0},
                                                          {slot, 4},                // the second span in the first slot
                                                          {slot + 36, 1024},        // row
                                                          {slot + 36, 4u << 16},    // operation
                                                          {slot + 36, 16u << 24}})  // outcome
  {
    EXPECT_EQ(with(offset, value).code(), Code::kCorrupt) << offset << " " << value;
  }
}

TEST_F(SpansTest, TheFileIsLockedAndGoesWithItsOwner) {
  auto spans = make();
  struct stat info{};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777u, 0600u);
  EXPECT_EQ(Spans::create(path_, kId).status().system_error(), EEXIST);
  remove_if_left_behind(path_);
  EXPECT_TRUE(fs::exists(path_));
  spans->remove();
  spans->record({Operation::kFetch, 0, 1, at(1), Nanos(1), Code::kOk});  // seen by nobody
  EXPECT_EQ(read_spans(path_).status().code(), Code::kNotFound);
  spans = make();
  spans.reset();  // as if its process had been killed
  EXPECT_TRUE(fs::exists(path_));
  remove_if_left_behind(path_);
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(SpansTest, EachOperationOfAnAgentIsASpan) {
  const auto open = [&](const std::string& name) {
    Agent::Options options;
    options.name = name;
    options.folder = folder_;
    options.arena = *memory::Arena::open({.capacity_bytes = 64u << 20, .quota_bytes = 64u << 20});
    return *Agent::open(options);
  };
  auto owner = open("owner");
  auto reader = open("reader");
  const Piece piece{*owner->arena()->allocate(1 << 20), 1 << 20};
  auto registration = *owner->regions()->add({&piece, 1}, nullptr);
  const transport::Region region = registration->regions().at(0);
  const auto peer = *reader->peer(owner->address().text(), patience());
  std::vector<std::byte> target(1 << 20);
  const transport::Run run{&region, 0, target.data(), target.size()};
  const auto before = Clock::now();
  ASSERT_TRUE(peer->read({&run, 1}, {"shm", 0}, patience()).is_ok());
  ASSERT_TRUE(peer->read({&run, 1}, {"cma", 0}, patience()).is_ok());
  ASSERT_TRUE(owner->regions()->grant(region.id, reader->address().id).is_ok());
  ASSERT_TRUE(peer->write({&run, 1}, {"cma", 0}, patience()).is_ok());
  ASSERT_TRUE(peer->map(region, 0, 5000).is_ok());
  registration.reset();
  EXPECT_EQ(peer->read({&run, 1}, {}, patience()).code(), Code::kStale);
  const TensorSpec spec{{1, 8, 1}, {1000}, {}};
  const Source source{&spec, target.data()};
  auto snapshot =
      take_snapshot(*reader->arena(), *reader->regions(), reader->address().text(), {&source, 1}, {}, false);
  ASSERT_TRUE(snapshot.is_ok()) << snapshot.status().message();
  ASSERT_TRUE(reader->publish("weights", 0, std::move(*snapshot), 1).is_ok());
  const auto after = Clock::now();

  const auto counters = *read_counters(reader->stats().counters);
  const auto reading = read(folder_ + "/" + reader->address().id + ".spans");
  ASSERT_EQ(reading.spans.size(), 6u);
  const auto path_of = [&](const SpansReading::Span& span) {
    return span.row == 0 ? std::string() : counters.rows.at(span.row - 1u).path;
  };
  const std::vector<std::tuple<Operation, std::string, std::uint64_t, Code>> expected = {
      {Operation::kFetch, "shm", 1 << 20, Code::kOk},     {Operation::kFetch, "cma", 1 << 20, Code::kOk},
      {Operation::kPush, "cma", 1 << 20, Code::kOk},      {Operation::kMap, "shm", 5000, Code::kOk},
      {Operation::kFetch, "none", 1 << 20, Code::kStale}, {Operation::kPublish, "", 1000, Code::kOk}};
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto& span = reading.spans[i];
    EXPECT_EQ(std::tuple(span.operation, path_of(span), span.bytes, span.outcome), expected[i]) << i;
    EXPECT_GE(at(span.begin_ns), before);
    EXPECT_LE(at(span.begin_ns) + Nanos(span.nanoseconds), after);
    if (span.row == 0) continue;
    EXPECT_EQ(counters.rows.at(span.row - 1u).peer_id, owner->address().id);
  }
  EXPECT_EQ(reading.spans[5].name, "weights");
  EXPECT_TRUE(read(folder_ + "/" + owner->address().id + ".spans").spans.empty());
  const std::string place = folder_ + "/" + reader->address().id;
  reader.reset();
  EXPECT_FALSE(fs::exists(place + ".spans"));
}

}  // namespace
}  // namespace beeline::transfer
