// Which objects the items of a call that streams are, by number: own ones, which may be gone.
//
// Not thread-safe: the process's state lock is held in every call.
#pragma once

#include <algorithm>
#include <cstdint>

#include "beeline/base/thin_vector.h"
#include "beeline/store/object_table.h"

namespace beeline::runtime {

class StreamItems {
 public:
  // The item of that number is this object from here on.
  void set(std::uint64_t index, const store::Entry& item, store::ObjectTable& objects) {
    if (items_.size() >= next_trim_) {
      // So that an endless stream, whose items are taken and dropped, does not grow.
      erase_if(items_, [&](const Item& known) { return objects.find(known.id) == nullptr; });
      next_trim_ = std::max(kFirstTrim, 2 * items_.size());
    }
    const auto at = std::lower_bound(items_.begin(), items_.end(), index, is_before);
    if (at != items_.end() && at->index == index) {
      at->id = item.id;
    } else {
      items_.insert(at, {index, item.id});
    }
  }
  // Null where it has not come, or is gone.
  [[nodiscard]] store::Entry* find(std::uint64_t index, store::ObjectTable& objects) const {
    const auto at = std::lower_bound(items_.begin(), items_.end(), index, is_before);
    return at == items_.end() || at->index != index ? nullptr : objects.find(at->id);
  }
  // In order, those that are not gone.
  template <typename Visit>
  void for_each(store::ObjectTable& objects, Visit&& visit) const {
    for (const Item& known : items_) {
      if (store::Entry* item = objects.find(known.id)) visit(known.index, *item);
    }
  }
  [[nodiscard]] std::size_t size() const { return items_.size(); }

 private:
  struct Item {
    std::uint64_t index;
    store::ObjectId id;
  };
  static bool is_before(const Item& item, std::uint64_t index) { return item.index < index; }

  static constexpr std::size_t kFirstTrim = 64;
  ThinVector<Item> items_;  // by their numbers
  std::size_t next_trim_ = kFirstTrim;
};

}  // namespace beeline::runtime
