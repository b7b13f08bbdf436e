// Checksums of tensors: the same for the same elements, however they are laid out.
#include "beeline/transfer/checksum.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace beeline::transfer {
namespace {

constexpr DType kInt32{0, 32, 1};
constexpr std::int64_t kRows = 5, kColumns = 7;

TEST(ChecksumTest, LayoutsDoNotMatterAndOrderDoes) {
  std::vector<std::int32_t> rows(kRows * kColumns), columns(rows.size()), backwards(rows.size()),
      apart(2 * rows.size());
  for (std::int64_t i = 0; i < kRows; ++i) {
    for (std::int64_t j = 0; j < kColumns; ++j) {
      const auto value = static_cast<std::int32_t>(1000 * i + j);
      rows[static_cast<std::size_t>(i * kColumns + j)] = value;
      columns[static_cast<std::size_t>(j * kRows + i)] = value;
      backwards[static_cast<std::size_t>((kRows - 1 - i) * kColumns + kColumns - 1 - j)] = value;
      apart[static_cast<std::size_t>(2 * (i * kColumns + j))] = value;
    }
  }
  const auto sum = [](const std::vector<std::int32_t>& values, std::vector<std::int64_t> strides, std::size_t first = 0,
                      std::vector<std::int64_t> shape = {kRows, kColumns}) {
    return checksum_of({kInt32, std::move(shape), {}}, reinterpret_cast<const std::byte*>(values.data() + first),
                       strides);
  };
  const std::uint64_t expected = sum(rows, {});
  EXPECT_EQ(sum(rows, {kColumns, 1}), expected);
  EXPECT_EQ(sum(columns, {1, kRows}), expected);
  EXPECT_EQ(sum(backwards, {-kColumns, -1}, backwards.size() - 1), expected);
  EXPECT_EQ(sum(apart, {2 * kColumns, 2}), expected);
  EXPECT_NE(sum(columns, {}), expected);
  EXPECT_NE(sum(rows, {1, kRows}), expected);
  // An element in several places counts in each.
  const std::vector<std::int32_t> repeated{1, 2, 3, 1, 2, 3};
  EXPECT_EQ(sum({1, 2, 3}, {0, 1}, 0, {2, 3}), sum(repeated, {}, 0, {2, 3}));
}

}  // namespace
}  // namespace beeline::transfer
