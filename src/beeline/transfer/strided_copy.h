// A tensor whose elements lie in another order here than in its region, as those of a transposed one do: read in long
// stretches, and put in their places here. Element by element a path takes a hundred times as long.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "beeline/os/wait.h"
#include "beeline/transfer/tensor.h"
#include "beeline/transport/transport.h"

namespace beeline::transfer {

// Borrows the local memory. A value.
class StridedCopy {
 public:
  // Nothing where runs do as well: elements that are contiguous on both sides for some length, few of them, or such as
  // lie apart in the region. `offset` is that of the first element there; both layouts are checked.
  static std::optional<StridedCopy> of(std::uint64_t offset, const TensorSpec& spec, std::byte* local,
                                       std::span<const std::int64_t> local_strides);

  [[nodiscard]] std::uint64_t bytes() const;
  // Of what is contiguous on both sides: a slice holds no less.
  [[nodiscard]] std::uint64_t piece_bytes() const { return length_; }

  // What of the region it reads. Their local addresses mean nothing.
  void append_runs(const transport::Region& region, std::vector<transport::Run>& runs) const;

  // Out of the region's bytes at `view`. Looks at the deadline now and then.
  Status place_mapped(const std::byte* view, const os::Wait& wait) const;
  // As much at a time as `slice` holds.
  Status read_in_slices(transport::Endpoint& endpoint, const transport::Region& region, std::span<std::byte> slice,
                        const os::Wait& wait) const;

 private:
  // `count` indices of dimension `level`, and all of those further in.
  struct Part {
    std::size_t level = 0;
    std::uint64_t count = 0;
    std::uint64_t offset = 0;  // in the region
    std::byte* local = nullptr;
  };
  StridedCopy() = default;
  // Calls with each part of at most `limit` bytes, as long as the outcome is kOk.
  template <typename Call>
  Status for_each_part(std::uint64_t limit, Call&& call) const;
  // The part's dimensions: `from` in the region, or, where it is packed, without gaps in this order.
  [[nodiscard]] std::vector<Dimension> dimensions_of(const Part& part, bool is_packed) const;

  std::uint64_t offset_ = 0;
  std::byte* local_ = nullptr;
  std::uint64_t length_ = 0;           // of what is contiguous on both sides
  std::vector<Dimension> dimensions_;  // by their steps in the region, the largest first
};

}  // namespace beeline::transfer
