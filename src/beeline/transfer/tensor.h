// What a tensor is, apart from where its bytes lie, and how its elements map onto memory of another layout.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "beeline/base/status.h"
#include "beeline/transport/transport.h"

namespace beeline::transfer {

// DLPack's data types: code 0 int, 1 uint, 2 float, 4 bfloat, 5 complex, 6 bool, 7 and more float8.
struct DType {
  std::uint8_t code = 0;
  std::uint8_t bits = 0;
  std::uint16_t lanes = 1;

  // Of one element; 0 where it does not fill whole bytes.
  [[nodiscard]] std::uint64_t bytes() const {
    const std::uint64_t all = std::uint64_t{bits} * lanes;
    return all % 8 == 0 ? all / 8 : 0;
  }
  friend bool operator==(const DType&, const DType&) = default;
};
static_assert(sizeof(DType) == 4);

inline constexpr std::size_t kMaxDimensions = 64;

struct TensorSpec {
  DType dtype;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;  // in elements; empty: row-major without gaps

  [[nodiscard]] std::uint64_t elements() const;
  [[nodiscard]] std::uint64_t bytes() const { return elements() * dtype.bytes(); }  // of its elements, without gaps
  [[nodiscard]] std::vector<std::int64_t> strides_or_dense() const;
  friend bool operator==(const TensorSpec&, const TensorSpec&) = default;
};

// torch's name of a dtype.
std::string name_of(DType dtype);
// For messages: "float32[2, 3]".
std::string text_of(const TensorSpec& spec);

// kInvalidArgument unless sizes are not negative, strides fit the shape, nothing overflows and elements fill bytes.
Status check(const TensorSpec& spec);

// The bytes from the first to the last element: relative to the element with all indices 0, [first, end).
struct Extent {
  std::int64_t first = 0;
  std::int64_t end = 0;
};
// Of a checked spec; both zero where there is no element.
Extent extent_of(const TensorSpec& spec);

// In elements, of a new tensor that holds the same elements, as torch's preserve_format has them (Tensor.clone(),
// torch.empty_like()): without gaps, in the order that the dimensions have in memory. Empty: row-major. Of a checked
// spec.
std::vector<std::int64_t> preserved_strides(const TensorSpec& spec);

// A piece of one dimension: `count` indices from `start` on, `step` apart (negative: backwards). As Python's slices
// after slice.indices().
struct Slice {
  std::int64_t start = 0;
  std::int64_t step = 1;
  std::int64_t count = 0;
};
// The part of a tensor that one slice for each of its first dimensions names: its spec, and in `offset` the byte
// distance of its first element from the tensor's.
Result<TensorSpec> slice(const TensorSpec& spec, std::span<const Slice> slices, std::int64_t& offset);

// One dimension of a copy.
struct Dimension {
  std::uint64_t size = 0;
  std::int64_t from = 0;  // bytes to the next index in the region
  std::int64_t to = 0;    // likewise in local memory
};

// The dimensions in which a tensor's elements come to memory laid out by `local_strides` (in elements of `local_bytes`;
// empty: row-major without gaps). Both specs are checked.
std::vector<Dimension> dimensions_of(const TensorSpec& spec, std::span<const std::int64_t> local_strides,
                                     std::uint64_t local_bytes);
// Larger steps in the region first, whatever order the dimensions came in.
void sort_by_region(std::vector<Dimension>& dimensions);
// Without those of size 1; neighbours of which one goes on where the other one ends, on both sides, become one.
void merge(std::vector<Dimension>& dimensions);

// Calls with the distances of every index from the first one, in the region and in local memory.
template <typename Call>
void for_each_index(std::span<const Dimension> dimensions, Call&& call) {
  std::vector<std::uint64_t> index(dimensions.size());
  std::int64_t from = 0, to = 0;
  for (;;) {
    call(from, to);
    std::size_t i = dimensions.size();
    for (; i > 0; --i) {
      const Dimension& dimension = dimensions[i - 1];
      from += dimension.from;
      to += dimension.to;
      if (++index[i - 1] < dimension.size) break;
      from -= dimension.from * static_cast<std::int64_t>(dimension.size);
      to -= dimension.to * static_cast<std::int64_t>(dimension.size);
      index[i - 1] = 0;
    }
    if (i == 0) return;
  }
}

// Appends the runs of pieces of `length` bytes (`local_length` as they arrive), the first at `offset` in the region,
// by dimensions that are merged.
void append_runs(const transport::Region& region, std::uint64_t offset, std::uint64_t length,
                 std::uint64_t local_length, std::vector<Dimension> dimensions, std::byte* local,
                 std::vector<transport::Run>& runs);
// Appends the runs that bring a tensor's elements, in row-major order unless another one takes fewer runs, to memory
// laid out by `local_strides` (in elements; empty: without gaps). `offset` is that of its first element in the region.
// Dimensions that are contiguous on both sides become one run. Both specs are checked. Where elements change their size
// on the way, `local_bytes` is that of a local one (0: the same): local addresses and strides are those of such
// elements, lengths those of the tensor's.
void append_runs(const transport::Region& region, std::uint64_t offset, const TensorSpec& spec, std::byte* local,
                 std::span<const std::int64_t> local_strides, std::vector<transport::Run>& runs,
                 std::uint64_t local_bytes = 0);

}  // namespace beeline::transfer
