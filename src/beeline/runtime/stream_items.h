// Which objects the items of a call that streams are, by number: own ones, which may be gone.
//
// Not thread-safe: the process's state lock is held in every call.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>

#include "beeline/store/object_table.h"

namespace beeline::runtime {

class StreamItems {
 public:
  // The item of that number is this object from here on.
  void set(std::uint64_t index, const store::Entry& item, store::ObjectTable& objects) {
    if (ids_.size() >= next_trim_) {
      // So that an endless stream, whose items are taken and dropped, does not grow.
      std::erase_if(ids_, [&](const auto& known) { return objects.find(known.second) == nullptr; });
      next_trim_ = std::max(kFirstTrim, 2 * ids_.size());
    }
    ids_[index] = item.id;
  }
  // Null where it has not come, or is gone.
  [[nodiscard]] store::Entry* find(std::uint64_t index, store::ObjectTable& objects) const {
    const auto at = ids_.find(index);
    return at == ids_.end() ? nullptr : objects.find(at->second);
  }
  // In order, those that are not gone.
  template <typename Visit>
  void for_each(store::ObjectTable& objects, Visit&& visit) const {
    for (const auto& [index, id] : ids_) {
      if (store::Entry* item = objects.find(id)) visit(index, *item);
    }
  }
  [[nodiscard]] std::size_t size() const { return ids_.size(); }

 private:
  static constexpr std::size_t kFirstTrim = 64;
  std::map<std::uint64_t, store::ObjectId> ids_;
  std::size_t next_trim_ = kFirstTrim;
};

}  // namespace beeline::runtime
