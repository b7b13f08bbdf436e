// Files of values that were moved to disk: their bytes, their isolation, and what is refused.
#include "beeline/runtime/spill.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>

namespace beeline::runtime {
namespace {

class SpillTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/beeline-spill-XXXXXX";
    folder_ = ::mkdtemp(name);
    spill_.emplace(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  [[nodiscard]] std::string file() const { return folder_ + "/spill/p3-7-2"; }
  Status write(std::size_t size) {
    bytes_.assign(size, std::byte{5});
    if (size > 0) bytes_.back() = std::byte{6};
    return spill_->write(3, kId, kOffset, bytes_);
  }

  static constexpr memory::PublicationId kId{7, 2};
  static constexpr std::uint64_t kOffset = 1 << 20;
  std::string folder_;
  std::optional<Spill> spill_;
  Bytes bytes_;
};

TEST_F(SpillTest, TheBytesComeBackAtTheirOffsets) {
  ASSERT_TRUE(write(10'000));
  auto opened = spill_->open(3, kId, Deadline::never());
  ASSERT_TRUE(opened) << opened.status().message();
  EXPECT_EQ(std::memcmp(opened->at(kOffset, 10'000), bytes_.data(), 10'000), 0);
  EXPECT_EQ(*opened->at(kOffset + 9'999, 1), std::byte{6});
  EXPECT_EQ(opened->at(kOffset - 1, 1), nullptr);
  EXPECT_EQ(opened->at(kOffset, 10'001), nullptr);
  EXPECT_EQ(opened->at(kOffset + 10'001, 0), nullptr);
  EXPECT_EQ(opened->at(kOffset + 1, UINT64_MAX), nullptr);
  EXPECT_EQ(opened->at(UINT64_MAX, 1), nullptr);
}

TEST_F(SpillTest, WhatAReaderWritesIsItsOwn) {
  ASSERT_TRUE(write(5'000));
  auto one = spill_->open(3, kId, Deadline::never());
  *one->at(kOffset, 1) = std::byte{9};
  EXPECT_EQ(*spill_->open(3, kId, Deadline::never())->at(kOffset, 1), std::byte{5});
}

TEST_F(SpillTest, ARemovedFileIsNotFoundAndLivesOnForItsReaders) {
  ASSERT_TRUE(write(5'000));
  auto opened = spill_->open(3, kId, Deadline::never());
  spill_->remove(3, kId);
  spill_->remove(3, kId);
  EXPECT_EQ(spill_->open(3, kId, Deadline::never()).status().code(), Code::kNotFound);
  EXPECT_EQ(*opened->at(kOffset + 4'999, 1), std::byte{6});
}

TEST_F(SpillTest, AnotherPublicationsFileIsRefused) {
  ASSERT_TRUE(write(5'000));
  std::filesystem::copy(file(), folder_ + "/spill/p3-7-3");
  EXPECT_EQ(spill_->open(3, {7, 3}, Deadline::never()).status().code(), Code::kCorrupt);
}

TEST_F(SpillTest, AFileThatEndsEarlyIsRefused) {
  ASSERT_TRUE(write(5'000));
  for (const std::uintmax_t size : {std::uintmax_t{9'000}, std::uintmax_t{4'095}, std::uintmax_t{0}}) {
    std::filesystem::resize_file(file(), size);
    EXPECT_EQ(spill_->open(3, kId, Deadline::never()).status().code(), Code::kCorrupt) << size;
  }
}

TEST_F(SpillTest, ADeadlineEndsTheReading) {
  ASSERT_TRUE(write(5'000));
  EXPECT_EQ(spill_->open(3, kId, Deadline::after(Nanos(0))).status().code(), Code::kDeadlineExceeded);
}

TEST_F(SpillTest, WhatCannotBeWrittenLeavesNoFile) {
  ASSERT_TRUE(write(10));
  EXPECT_FALSE(write(10)) << "it is there already";
  std::filesystem::remove_all(folder_ + "/spill");
  std::ofstream(folder_ + "/spill") << "no folder";
  EXPECT_FALSE(write(10));
}

}  // namespace
}  // namespace beeline::runtime
