// A set of half-open intervals of offsets. A value type.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>

namespace beeline::memory {

class IntervalSet {
 public:
  // Adds [start, end), joining what it touches.
  void insert(std::uint64_t start, std::uint64_t end) {
    auto at = ends_.upper_bound(start);
    if (at != ends_.begin() && std::prev(at)->second >= start) --at;
    while (at != ends_.end() && at->first <= end) {
      start = std::min(start, at->first);
      end = std::max(end, at->second);
      at = ends_.erase(at);
    }
    ends_.emplace(start, end);
  }

  void erase(std::uint64_t start, std::uint64_t end) {
    auto at = ends_.upper_bound(start);
    if (at != ends_.begin() && std::prev(at)->second > start) --at;
    while (at != ends_.end() && at->first < end) {
      const auto [old_start, old_end] = *at;
      at = ends_.erase(at);
      if (old_start < start) ends_.emplace(old_start, start);
      if (old_end > end) at = ends_.emplace(end, old_end).first;
    }
  }

  [[nodiscard]] bool overlaps(std::uint64_t start, std::uint64_t end) const {
    const auto after = ends_.lower_bound(end);
    return after != ends_.begin() && std::prev(after)->second > start;
  }

  [[nodiscard]] bool contains(std::uint64_t start, std::uint64_t end) const {
    const auto after = ends_.upper_bound(start);
    return after != ends_.begin() && std::prev(after)->second >= end;
  }

  [[nodiscard]] std::size_t size() const { return ends_.size(); }

 private:
  std::map<std::uint64_t, std::uint64_t> ends_;  // by start
};

}  // namespace beeline::memory
