// Reader and Writer, against input that is cut short or lies about its lengths.
#include "beeline/base/bytes.h"

#include <gtest/gtest.h>

#include <random>

#include "seed.h"

namespace beeline {
namespace {

TEST(BytesTest, ValuesComeBackInOrder) {
  Bytes bytes;
  Writer writer(bytes);
  writer.write(std::uint8_t{7});
  writer.write(std::uint64_t{0x1122334455667788});
  writer.write_string("bee");
  writer.write_string("");
  writer.append(as_bytes("tail"));
  Reader reader(bytes);
  EXPECT_EQ(reader.read<std::uint8_t>(), 7);
  EXPECT_EQ(reader.read<std::uint64_t>(), 0x1122334455667788u);
  EXPECT_EQ(reader.read_string(), "bee");
  EXPECT_EQ(reader.read_string(), "");
  EXPECT_EQ(as_text(reader.read_bytes(reader.left())), "tail");
  EXPECT_TRUE(reader.ok());
  EXPECT_EQ(reader.left(), 0u);
}

TEST(BytesTest, NumbersAreLittleEndianAndUnpadded) {
  Bytes bytes;
  Writer writer(bytes);
  writer.write(std::uint8_t{1});
  writer.write(std::uint32_t{0x04030201});
  ASSERT_EQ(bytes.size(), 5u);
  for (std::size_t i = 1; i < 5; ++i) EXPECT_EQ(std::to_integer<int>(bytes[i]), static_cast<int>(i));
}

TEST(BytesTest, AfterAShortReadEverythingIsZeroAndNotOk) {
  const Bytes bytes(3, std::byte{0xff});
  Reader reader(bytes);
  EXPECT_EQ(reader.read<std::uint32_t>(), 0u);
  EXPECT_FALSE(reader.ok());
  // Bytes that are there are not handed out any more: the stream has lost its place.
  EXPECT_EQ(reader.read<std::uint8_t>(), 0);
  EXPECT_EQ(reader.left(), 0u);
  EXPECT_TRUE(reader.read_bytes(1).empty());
  EXPECT_EQ(reader.read_string(), "");
}

TEST(BytesTest, AHostileLengthReadsNothing) {
  Bytes bytes;
  Writer writer(bytes);
  writer.write(std::uint32_t{0xffffffff});
  writer.append(as_bytes("short"));
  Reader reader(bytes);
  EXPECT_TRUE(reader.read_block().empty());
  EXPECT_FALSE(reader.ok());
}

TEST(BytesTest, NoPrefixOfAStreamReadsAsTheWhole) {
  Bytes bytes;
  Writer writer(bytes);
  writer.write_string("one");
  writer.write(std::uint64_t{2});
  writer.write_string("three");
  const auto decode = [](BytesView view) {
    Reader reader(view);
    (void)reader.read_string();
    (void)reader.read<std::uint64_t>();
    (void)reader.read_string();
    return reader.ok();
  };
  for (std::size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(decode(BytesView(bytes).first(size))) << size;
  EXPECT_TRUE(decode(bytes));
}

TEST(BytesTest, RandomReadsStayInsideTheBytes) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  for (int round = 0; round < 2000; ++round) {
    Bytes bytes(random() % 64);
    for (auto& byte : bytes) byte = static_cast<std::byte>(random() % 4);
    Reader reader(bytes);
    std::size_t taken = 0;
    while (reader.ok()) {
      const auto before = reader.left();
      switch (random() % 3) {
        case 0:
          taken += reader.read_block().size();
          break;
        case 1:
          (void)reader.read<std::uint16_t>();
          break;
        default:
          taken += reader.read_bytes(random() % 8 + 1).size();
          break;
      }
      EXPECT_LE(reader.left(), before);
    }
    EXPECT_LE(taken, bytes.size());
  }
}

}  // namespace
}  // namespace beeline
