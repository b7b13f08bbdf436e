// Values as pickles: what goes in comes out, what Python writes is read, and nothing else is believed.
#include "beeline/program/pickle.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "beeline/program/convert.h"
#include "seed.h"
#include "short_form.h"

namespace beeline::program {
namespace {

using api::Tensor;

std::string bytes(std::initializer_list<int> values) {
  std::string text;
  for (const int value : values) text += static_cast<char>(value);
  return text;
}

// For comparison.
std::string shown(const Value& value) {
  const auto list = [](const char* open, const std::vector<Value>& items, const char* close) {
    std::string text = open;
    for (const auto& item : items) text += shown(item) + " ";
    return text + close;
  };
  if (value.is_none()) return "None";
  if (const auto* held = value.as<bool>()) return *held ? "True" : "False";
  if (const auto* held = value.as<std::int64_t>()) return std::to_string(*held);
  if (const auto* held = value.as<double>()) return std::to_string(*held) + "f";
  if (const auto* held = value.as<std::string>()) return "'" + *held + "'";
  if (const auto* held = value.as<Blob>()) return "b'" + held->bytes + "'";
  if (const auto* held = value.as<List>()) return list("[", *held, "]");
  if (const auto* held = value.as<Tuple>()) return list("(", held->items, ")");
  if (const auto* held = value.as<Dict>()) {
    std::string text = "{";
    for (const auto& [key, item] : *held) text += shown(key) + ": " + shown(item) + " ";
    return text + "}";
  }
  const auto& tensor = *value.as<Tensor>();
  std::string text = "tensor(" + std::to_string(tensor.dtype.code) + "/" + std::to_string(tensor.dtype.bits);
  for (const auto length : tensor.shape) text += " " + std::to_string(length);
  return text + " '" + std::string(reinterpret_cast<const char*>(tensor.data), tensor.bytes()) + "')";
}

Result<Value> round_trip(const Value& value) {
  BEELINE_ASSIGN(const auto pickled, pickle(value));
  std::vector<BufferView> buffers;
  for (const auto& tensor : pickled.buffers) buffers.push_back({{tensor.data, tensor.bytes()}, tensor.memory});
  return unpickle(pickled.skeleton, buffers);
}

std::string read(const std::string& pickled) {
  const auto value = unpickle(pickled, {});
  return value ? shown(*value) : "failed: " + value.status().message();
}

Value some_value(std::mt19937_64& random, int depth) {
  const auto text = [&] {
    return std::string(random() % (random() % 8 == 0 ? 1000 : 20), static_cast<char>('a' + random() % 26));
  };
  switch (random() % (depth > 0 ? 10 : 7)) {
    case 0:
      return {};
    case 1:
      return Value(random() % 2 == 0);
    case 2:
      return Value(static_cast<std::int64_t>(random() >> (random() % 64)));
    case 3:
      return Value(static_cast<double>(static_cast<std::int64_t>(random())) / 1024);
    case 4:
      return Value(text());
    case 5:
      return Value(Blob{text()});
    case 6: {
      const auto length = static_cast<std::int64_t>(random() % 600);
      const std::shared_ptr<std::byte[]> memory(new std::byte[static_cast<std::size_t>(2 * length) + 1]);
      for (std::int64_t i = 0; i < 2 * length; ++i) memory[i] = static_cast<std::byte>('A' + i % 26);
      return Value(Tensor{memory.get(), api::kUInt8, {2, length}, {}, memory});
    }
    case 7: {
      List list;
      for (auto n = random() % 4; n > 0; --n) list.push_back(some_value(random, depth - 1));
      return Value(std::move(list));
    }
    case 8: {
      Tuple tuple;
      for (auto n = random() % 5; n > 0; --n) tuple.items.push_back(some_value(random, depth - 1));
      return Value(std::move(tuple));
    }
    default: {
      Dict dict;
      for (auto n = random() % 4; n > 0; --n) dict.emplace_back(Value(text()), some_value(random, depth - 1));
      return Value(std::move(dict));
    }
  }
}

TEST(PickleTest, ValuesComeBackAsTheyWere) {
  std::mt19937_64 random(test_seed());
  for (int i = 0; i < (is_short() ? 2000 : 20'000); ++i) {
    const auto value = some_value(random, 4);
    const auto back = round_trip(value);
    ASSERT_TRUE(back.is_ok()) << back.status().message() << "\n" << shown(value);
    ASSERT_EQ(shown(*back), shown(value));
  }
}

TEST(PickleTest, BoundariesOfNumbers) {
  for (const std::int64_t number : {std::int64_t{0}, std::int64_t{-1}, std::int64_t{INT32_MAX}, std::int64_t{INT32_MIN},
                                    std::int64_t{INT32_MAX} + 1, INT64_MAX, INT64_MIN}) {
    EXPECT_EQ(shown(*round_trip(Value(number))), std::to_string(number));
  }
}

TEST(PickleTest, ATensorWithGapsArrivesWithoutThem) {
  std::vector<float> numbers = {0, 1, 2, 3, 4, 5};
  Tensor transposed = Tensor::borrow(numbers.data(), {3, 2});
  transposed.strides = {1, 3};
  const auto back = round_trip(Value(transposed));
  ASSERT_TRUE(back.is_ok());
  const auto* tensor = back->as<Tensor>();
  const auto values = tensor->values<float>();
  EXPECT_EQ(std::vector<float>(values.begin(), values.end()), (std::vector<float>{0, 3, 1, 4, 2, 5}));
}

TEST(PickleTest, WhatPythonWritesIsRead) {
  // pickle.dumps((1, 300, -5, 2**40, 'x', b'y', True, None, 1.5), protocol=5)
  EXPECT_EQ(
      read(std::string("\x80\x05\x95\x27\0\0\0\0\0\0\0", 11) + "(" + bytes({'K', 1, 'M', 0x2c, 1}) +
           bytes({'J', 0xfb, 0xff, 0xff, 0xff, 0x8a, 6, 0, 0, 0, 0, 0, 1}) + bytes({0x8c, 1, 'x', 0x94, 'C', 1, 'y'}) +
           bytes({0x94, 0x88, 'N', 'G', 0x3f, 0xf8, 0, 0, 0, 0, 0, 0, 't', 0x94, '.'})),
      "(1 300 -5 1099511627776 'x' b'y' True None 1.500000f )");
  // x = [1]; pickle.dumps([x, x], protocol=5): the second one is the memo's, filled by then.
  EXPECT_EQ(read(bytes({0x80, 5, ']', 0x94, '(', ']', 0x94, 'K', 1, 'a', 'h', 1, 'e', '.'})), "[[1 ] [1 ] ]");
  // {'a': {}, 'b': ()}
  EXPECT_EQ(read(bytes({0x80, 5, '}', 0x94, '(', 0x8c, 1, 'a', 0x94, '}', 0x94, 0x8c, 1, 'b', 0x94, ')', 'u', '.'})),
            "{'a': {} 'b': () }");
}

TEST(PickleTest, WhatOnlyPythonHasIsNamed) {
  // datetime.date(...)
  const auto date = unpickle(bytes({0x80, 5, 0x8c, 8}) + "datetime" + bytes({0x94, 0x8c, 4}) + "date" +
                                 bytes({0x94, 0x93, 0x94, 'C', 1, 'x', 0x94, 0x85, 0x94, 'R', '.'}),
                             {});
  EXPECT_EQ(date.status().code(), Code::kUnsupported);
  EXPECT_NE(date.status().message().find("datetime.date"), std::string::npos) << date.status().message();
  EXPECT_EQ(unpickle(bytes({0x80, 5, 0x8a, 9, 0, 0, 0, 0, 0, 0, 0, 0, 1, '.'}), {}).status().code(), Code::kUnsupported)
      << "more than 64 bits";
  EXPECT_EQ(unpickle(bytes({0x80, 5, ']', 0x94, 'h', 0, 'a', '.'}), {}).status().code(), Code::kUnsupported)
      << "a list that contains itself";
}

TEST(PickleTest, ACallIsWrittenForPython) {
  EXPECT_EQ(pickle_call("module", "Name", "text"),
            bytes({0x80, 5, 'c'}) + "module\nName\n" + bytes({'X', 4, 0, 0, 0}) + "text" + bytes({0x85, 'R', '.'}));
}

TEST(PickleTest, ASmallPickleCannotBecomeAHugeValue) {
  // l0 = [0]; l1 = [l0] * 10; l2 = [l1] * 10; ...
  std::string bomb = bytes({0x80, 5, ']', 0x94, 'K', 0, 'a'});
  for (int level = 1; level < 12; ++level) {
    bomb += bytes({']', 0x94, '('});
    for (int i = 0; i < 10; ++i) bomb += bytes({'h', level - 1});
    bomb += 'e';
  }
  EXPECT_EQ(unpickle(bomb + ".", {}).status().code(), Code::kCorrupt) << "more than one value on the stack";
  std::string whole = bytes({0x80, 5, '('}) + bomb.substr(2) + bytes({'t', '.'});
  EXPECT_EQ(unpickle(whole, {}).status().code(), Code::kResourceExhausted);
}

TEST(PickleTest, ADeepOneIsRefused) {
  EXPECT_EQ(unpickle("\x80\x05N" + std::string(1'000'000, '\x85') + ".", {}).status().code(), Code::kUnsupported);
}

TEST(PickleTest, GarbageIsRefused) {
  std::mt19937_64 random(test_seed());
  std::vector<std::byte> memory(4096);
  const std::vector<BufferView> buffers(3, {memory, nullptr});
  for (int i = 0; i < (is_short() ? 20'000 : 300'000); ++i) {
    auto text = pickle(some_value(random, 3))->skeleton;
    for (auto n = 1 + random() % 4; n > 0; --n) {
      switch (random() % 3) {
        case 0:
          text[random() % text.size()] = static_cast<char>(random());
          break;
        case 1:
          text.resize(1 + random() % text.size());
          break;
        default:
          text.insert(random() % text.size(), 1, static_cast<char>(random()));
      }
    }
    (void)unpickle(text, buffers);  // whatever it is: no crash, no more memory than there is text
  }
}

TEST(ConvertTest, TypesComeBack) {
  using Row = std::map<std::string, std::vector<std::tuple<int, double, std::optional<std::string>>>>;
  const Row row = {{"a", {{1, 2.5, "x"}, {3, 4.5, std::nullopt}}}, {"b", {}}};
  const auto back = Convert<Row>::from(Convert<Row>::to(row));
  ASSERT_TRUE(back.is_ok()) << back.status().message();
  EXPECT_EQ(*back, row);
}

TEST(ConvertTest, MismatchesSayWhatCame) {
  const auto wrong = Convert<std::vector<int>>::from(Value(List{Value(std::string("x"))}));
  EXPECT_EQ(wrong.status().message(), "expected an integer, got a string");
  EXPECT_EQ(Convert<std::uint8_t>::from(Value(std::int64_t{256})).status().message(),
            "256 does not fit into an integer of 8 bits");
  EXPECT_EQ(Convert<bool>::from(Value(std::int64_t{1})).status().message(), "expected a bool, got an integer");
  EXPECT_FALSE((Convert<std::tuple<int, int>>::from(Value(Tuple{{Value(std::int64_t{1})}})).is_ok()));
}

}  // namespace
}  // namespace beeline::program
