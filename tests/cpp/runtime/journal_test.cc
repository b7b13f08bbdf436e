#include "beeline/runtime/node/journal.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace beeline::runtime::node {
namespace {

using Kind = Journal::Kind;

Bytes bytes_of(const std::string& text) {
  const auto view = as_bytes(text);
  return {view.begin(), view.end()};
}

class JournalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char place[] = "/tmp/bjournalXXXXXX";
    ASSERT_NE(::mkdtemp(place), nullptr);
    place_ = place;
    path_ = place_ + "/journal";
  }
  void TearDown() override { std::filesystem::remove_all(place_); }

  Journal::Records read() {
    auto records = Journal::read(path_);
    if (!records.is_ok()) throw std::runtime_error(records.status().message());
    return std::move(records).value();
  }

  std::string place_, path_;
};

TEST_F(JournalTest, TheLastRecordOfAKeyCounts) {
  Journal journal(path_);
  journal.put({Kind::kActor, 1}, bytes_of("first"));
  journal.put({Kind::kActor, 2}, bytes_of("other"));
  journal.put({Kind::kJob, 1}, bytes_of(""));
  ASSERT_TRUE(journal.commit().is_ok());
  journal.put({Kind::kActor, 1}, bytes_of("second"));
  journal.drop({Kind::kActor, 2});
  journal.drop({Kind::kActor, 3});  // that never was
  ASSERT_TRUE(journal.commit().is_ok());
  const auto records = read();
  EXPECT_EQ(records.size(), 2u);
  EXPECT_EQ(records.at({Kind::kActor, 1}), bytes_of("second"));
  EXPECT_EQ(records.at({Kind::kJob, 1}), Bytes{});
  EXPECT_TRUE(journal.has({Kind::kActor, 1}));
  EXPECT_FALSE(journal.has({Kind::kActor, 2}));
}

// Whatever part of a commit its writer came to write, the one before it is what counts.
TEST_F(JournalTest, ACommitIsThereWholeOrNotAtAll) {
  Journal journal(path_);
  journal.put({Kind::kDemand, 7}, bytes_of("before"));
  ASSERT_TRUE(journal.commit().is_ok());
  const auto whole_before = std::filesystem::file_size(path_);
  journal.put({Kind::kDemand, 7}, bytes_of("after"));
  journal.put({Kind::kDemand, 8}, bytes_of("as well"));
  ASSERT_TRUE(journal.commit().is_ok());
  const auto whole = std::filesystem::file_size(path_);
  EXPECT_EQ(whole, journal.file_bytes());
  for (auto size = whole; size-- > whole_before;) {
    std::filesystem::resize_file(path_, size);
    const auto records = read();
    EXPECT_EQ(records.size(), 1u) << size;
    EXPECT_EQ(records.at({Kind::kDemand, 7}), bytes_of("before")) << size;
  }
}

TEST_F(JournalTest, WhatIsOutOfDateGoesWhenItIsWrittenAnew) {
  Journal journal(path_);
  journal.put({Kind::kWorker, 1}, bytes_of("kept"));
  for (int round = 0; !journal.is_bloated(); ++round) {
    ASSERT_LT(round, 10'000);
    journal.put({Kind::kState, 0}, bytes_of(std::string(1000, 'x')));
    ASSERT_TRUE(journal.commit().is_ok());
  }
  const auto before = std::filesystem::file_size(path_);
  EXPECT_GT(before, 1u << 20);
  journal.start_anew();
  journal.put({Kind::kWorker, 1}, bytes_of("kept"));
  // Not before the commit.
  EXPECT_EQ(read().size(), 2u);
  ASSERT_TRUE(journal.commit().is_ok());
  EXPECT_LT(std::filesystem::file_size(path_), 100u);
  EXPECT_EQ(read(), (Journal::Records{{{Kind::kWorker, 1}, bytes_of("kept")}}));
  journal.put({Kind::kWorker, 2}, bytes_of("more"));
  ASSERT_TRUE(journal.commit().is_ok());
  EXPECT_EQ(read().size(), 2u);
}

TEST_F(JournalTest, AFullDiskIsAFailureThatLeavesWhatWasThere) {
  Journal journal(path_);
  journal.put({Kind::kJob, 1}, bytes_of("there"));
  ASSERT_TRUE(journal.commit().is_ok());
  std::filesystem::create_symlink("/dev/full", path_ + ".new");
  journal.start_anew();
  journal.put({Kind::kJob, 2}, bytes_of("more"));
  const auto status = journal.commit();
  ASSERT_FALSE(status.is_ok());
  EXPECT_EQ(status.system_error(), ENOSPC);
  EXPECT_EQ(read(), (Journal::Records{{{Kind::kJob, 1}, bytes_of("there")}}));
}

TEST_F(JournalTest, WhatIsNoJournalIsNotRead) {
  EXPECT_EQ(Journal::read(path_).status().code(), Code::kNotFound);
  std::ofstream(path_) << "something else, and longer than a head";
  EXPECT_EQ(Journal::read(path_).status().code(), Code::kCorrupt);
  EXPECT_FALSE(Journal(place_ + "/no/such/folder").commit().is_ok());
  // A batch whose entries do not end where it does.
  const std::string batch("\x02\0\0\0xy", 6);
  std::ofstream(path_, std::ios::trunc | std::ios::binary) << "BEEJRNL1" << batch;
  EXPECT_EQ(Journal::read(path_).status().code(), Code::kCorrupt);
}

}  // namespace
}  // namespace beeline::runtime::node
