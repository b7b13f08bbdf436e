// ThinVector and LinkedList, against the standard library's.
#include <gtest/gtest.h>

#include <list>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "beeline/base/linked_list.h"
#include "beeline/base/thin_vector.h"
#include "seed.h"

namespace beeline {
namespace {

template <typename T>
std::vector<T> listed(const ThinVector<T>& vector) {
  return {vector.begin(), vector.end()};
}

TEST(ThinVectorTest, TakesOnePointer) {
  EXPECT_EQ(sizeof(ThinVector<std::string>), sizeof(void*));
  const ThinVector<std::string> empty;
  EXPECT_TRUE(empty.empty());
  EXPECT_EQ(empty.begin(), empty.end());
}

TEST(ThinVectorTest, DoesAtRandomWhatAVectorDoes) {
  std::mt19937_64 random(test_seed());
  ThinVector<std::string> vector;
  std::vector<std::string> expected;
  const auto text = [&] { return std::string(random() % 40, static_cast<char>('a' + random() % 3)); };
  const auto index = [&] { return static_cast<std::ptrdiff_t>(random() % expected.size()); };
  for (int step = 0; step < 20'000; ++step) {
    switch (expected.size() > 50 ? random() % 4 + 4 : random() % 8) {
      case 0:
      case 1:
        vector.push_back(expected.emplace_back(text()));
        break;
      case 2:
        if (expected.empty()) break;
        vector.push_back(vector.front());  // its own item, which growing moves
        expected.push_back(std::string(expected.front()));
        break;
      case 3: {
        const auto at = static_cast<std::ptrdiff_t>(random() % (expected.size() + 1));
        const auto item = text();
        EXPECT_EQ(*vector.insert(vector.begin() + at, item), item);
        expected.insert(expected.begin() + at, item);
        break;
      }
      case 4: {
        if (expected.empty()) break;
        const auto first = index();
        const auto last = first + static_cast<std::ptrdiff_t>(random() % 3);
        const auto end = std::min(last, static_cast<std::ptrdiff_t>(expected.size()));
        vector.erase(vector.begin() + first, vector.begin() + end);
        expected.erase(expected.begin() + first, expected.begin() + end);
        break;
      }
      case 5: {
        if (expected.empty()) break;
        const auto item = expected[static_cast<std::size_t>(index())];
        EXPECT_EQ(erase(vector, item), std::erase(expected, item));
        break;
      }
      case 6: {
        const ThinVector<std::string> copy = vector;
        vector = copy;
        const auto moved = std::move(vector);
        EXPECT_TRUE(vector.empty());  // NOLINT: what a moved one is, is told
        vector = moved;
        EXPECT_EQ(copy, vector);
        break;
      }
      default:
        if (random() % 20 == 0) {
          vector.clear();
          expected.clear();
        }
    }
    ASSERT_EQ(listed(vector), expected);
    if (!expected.empty()) {
      ASSERT_EQ(vector.front(), expected.front());
      ASSERT_EQ(vector.back(), expected.back());
      ASSERT_EQ(*vector.rbegin(), expected.back());
    }
    EXPECT_THROW((void)vector.at(expected.size()), std::out_of_range);
  }
}

struct Item : LinkedItem<Item> {
  explicit Item(int given) : number(given) {}
  int number;
};

TEST(LinkedListTest, DoesAtRandomWhatAListDoes) {
  std::mt19937_64 random(test_seed());
  std::vector<std::unique_ptr<Item>> items;
  for (int i = 0; i < 100; ++i) items.push_back(std::make_unique<Item>(i));
  LinkedList<Item> list;
  std::list<Item*> expected;
  for (int step = 0; step < 20'000; ++step) {
    Item& item = *items[random() % items.size()];
    const auto at = std::find(expected.begin(), expected.end(), &item);
    if (at == expected.end()) {
      list.push_back(item);
      expected.push_back(&item);
    } else if (random() % 4 != 0) {
      list.erase(item);
      expected.erase(at);
    } else if (random() % 10 == 0) {
      LinkedList<Item> moved = std::move(list);
      EXPECT_TRUE(list.empty());  // NOLINT: what a moved one is, is told
      list = std::move(moved);
    } else {
      EXPECT_EQ(list.pop_front(), expected.front());
      expected.pop_front();
    }
    ASSERT_EQ(list.size(), expected.size());
    ASSERT_TRUE(std::equal(list.begin(), list.end(), expected.begin(), expected.end()));
  }
  list.clear();
  EXPECT_EQ(list.pop_front(), nullptr);
}

}  // namespace
}  // namespace beeline
