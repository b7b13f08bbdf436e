#include "beeline/transfer/strided_copy.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace beeline::transfer {
namespace {

using transport::Region;
using transport::Run;

// Longer pieces are moved as they are: they take a path no longer than a second copy would take here.
constexpr std::uint64_t kLongPiece = 4096;
// What lies side by side in the region, in pieces, and what there has to be of them in all.
constexpr std::uint64_t kWorthReadingTogether = 16;
constexpr std::uint64_t kWorthPieces = 64;
// Out of a mapping, between two looks at the deadline: some milliseconds.
constexpr std::uint64_t kMappedPart = std::uint64_t{4} << 20;
// Filled together: as much as a line of the cache holds, of the smallest that are common.
constexpr std::uint64_t kTile = 16;

// Two dimensions, of pieces of kLength bytes (0: of `length`): in tiles, so that lines are read and filled whole though
// one side goes across them.
template <std::uint64_t kLength>
void place_matrix(std::byte* to, const std::byte* from, const Dimension& a, const Dimension& b, std::uint64_t length) {
  for (std::uint64_t first = 0; first < a.size; first += kTile) {
    const std::uint64_t end = std::min(first + kTile, a.size);
    for (std::uint64_t j = 0; j < b.size; ++j) {
      const auto column = static_cast<std::int64_t>(j);
      for (std::uint64_t i = first; i < end; ++i) {
        const auto row = static_cast<std::int64_t>(i);
        std::memcpy(to + row * a.to + column * b.to, from + row * a.from + column * b.from,
                    kLength != 0 ? kLength : length);
      }
    }
  }
}

void place(std::byte* to, const std::byte* from, std::vector<Dimension> dimensions, std::uint64_t length) {
  // Innermost on either side: `b` where it is read, `a` where it is written.
  Dimension b{1, 0, 0}, a{1, 0, 0};
  if (!dimensions.empty()) {
    b = dimensions.back();
    dimensions.pop_back();
  }
  if (!dimensions.empty()) {
    const auto inner =
        std::ranges::min_element(dimensions, {}, [](const Dimension& dimension) { return std::abs(dimension.to); });
    if (std::abs(inner->to) < std::abs(b.to)) {
      a = *inner;
      dimensions.erase(inner);
    }
  }
  for_each_index(dimensions, [&](std::int64_t from_at, std::int64_t to_at) {
    switch (length) {
      case 1:
        return place_matrix<1>(to + to_at, from + from_at, a, b, length);
      case 2:
        return place_matrix<2>(to + to_at, from + from_at, a, b, length);
      case 4:
        return place_matrix<4>(to + to_at, from + from_at, a, b, length);
      case 8:
        return place_matrix<8>(to + to_at, from + from_at, a, b, length);
      default:
        return place_matrix<0>(to + to_at, from + from_at, a, b, length);
    }
  });
}

std::uint64_t product(std::span<const Dimension> dimensions) {
  std::uint64_t all = 1;
  for (const Dimension& dimension : dimensions) all *= dimension.size;
  return all;
}

}  // namespace

std::optional<StridedCopy> StridedCopy::of(std::uint64_t offset, const TensorSpec& spec, std::byte* local,
                                           std::span<const std::int64_t> local_strides) {
  StridedCopy copy;
  copy.offset_ = offset;
  copy.local_ = local;
  copy.length_ = spec.dtype.bytes();
  if (spec.elements() < kWorthPieces) return std::nullopt;
  auto& dimensions = copy.dimensions_;
  dimensions = transfer::dimensions_of(spec, local_strides, copy.length_);
  sort_by_region(dimensions);
  merge(dimensions);
  // Elements that are in several places, or run backwards.
  if (std::ranges::any_of(dimensions, [](const Dimension& dimension) { return dimension.from <= 0; })) {
    return std::nullopt;
  }
  const auto length = static_cast<std::int64_t>(copy.length_);
  if (!dimensions.empty() && dimensions.back().from == length && dimensions.back().to == length) {
    copy.length_ *= dimensions.back().size;
    dimensions.pop_back();
  }
  if (copy.length_ >= kLongPiece || product(dimensions) < kWorthPieces) return std::nullopt;
  std::uint64_t stretch = copy.length_;
  for (auto at = dimensions.rbegin(); at != dimensions.rend(); ++at) {
    if (at->from != static_cast<std::int64_t>(stretch)) break;
    stretch *= at->size;
  }
  if (stretch < kWorthReadingTogether * copy.length_) return std::nullopt;
  return copy;
}

std::uint64_t StridedCopy::bytes() const {
  return length_ * product(dimensions_);
}

template <typename Call>
Status StridedCopy::for_each_part(std::uint64_t limit, Call&& call) const {
  // The outermost dimension of which some indices fit.
  std::size_t level = 0;
  std::uint64_t inner = bytes();
  for (; level < dimensions_.size(); ++level) {
    inner /= dimensions_[level].size;
    if (inner <= limit) break;
  }
  Status status;
  const auto outer = std::span(dimensions_).first(level);
  const Dimension whole = level < dimensions_.size() ? dimensions_[level] : Dimension{1, 0, 0};
  const std::uint64_t step = std::max<std::uint64_t>(1, limit / inner);
  for_each_index(outer, [&](std::int64_t from, std::int64_t to) {
    for (std::uint64_t at = 0; status && at < whole.size; at += step) {
      const auto index = static_cast<std::int64_t>(at);
      status =
          call(Part{level, std::min(step, whole.size - at),
                    offset_ + static_cast<std::uint64_t>(from + index * whole.from), local_ + to + index * whole.to});
    }
  });
  return status;
}

std::vector<Dimension> StridedCopy::dimensions_of(const Part& part, bool is_packed) const {
  std::vector<Dimension> own(dimensions_.begin() + static_cast<std::ptrdiff_t>(part.level), dimensions_.end());
  if (!own.empty()) own.front().size = part.count;
  std::uint64_t packed = length_;
  for (auto at = own.rbegin(); is_packed && at != own.rend(); ++at) {
    at->from = static_cast<std::int64_t>(packed);
    packed *= at->size;
  }
  return own;
}

void StridedCopy::append_runs(const Region& region, std::vector<Run>& runs) const {
  auto dimensions = dimensions_;
  std::uint64_t packed = length_;
  for (auto at = dimensions.rbegin(); at != dimensions.rend(); ++at) {
    at->to = static_cast<std::int64_t>(packed);
    packed *= at->size;
  }
  merge(dimensions);
  transfer::append_runs(region, offset_, length_, length_, std::move(dimensions), local_, runs);
}

Status StridedCopy::place_mapped(const std::byte* view, const os::Wait& wait) const {
  bool is_first = true;
  return for_each_part(kMappedPart, [&](const Part& part) {
    if (!std::exchange(is_first, false)) BEELINE_RETURN_IF_ERROR(wait.check());
    place(part.local, view + part.offset, dimensions_of(part, false), length_);
    return Status::ok();
  });
}

Status StridedCopy::read_in_slices(transport::Endpoint& endpoint, const Region& region, std::span<std::byte> slice,
                                   const os::Wait& wait) const {
  std::vector<Run> runs;
  return for_each_part(slice.size(), [&](const Part& part) {
    auto packed = dimensions_of(part, true);
    auto stretches = dimensions_of(part, false);
    for (std::size_t i = 0; i < packed.size(); ++i) stretches[i].to = packed[i].from;
    merge(stretches);
    runs.clear();
    transfer::append_runs(region, part.offset, length_, length_, std::move(stretches), slice.data(), runs);
    BEELINE_RETURN_IF_ERROR(endpoint.read(runs, wait));
    place(part.local, slice.data(), std::move(packed), length_);
    return wait.check();
  });
}

}  // namespace beeline::transfer
