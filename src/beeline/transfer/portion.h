// What a transfer moves of one region, and what becomes of the elements on their way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "beeline/transfer/convert.h"
#include "beeline/transfer/paths.h"
#include "beeline/transfer/quantize.h"
#include "beeline/transfer/strided_copy.h"

namespace beeline::transfer {

class Peer;

// A matrix that is quantised on its way.
struct QuantizedMatrix {
  std::uint64_t offset = 0;  // of the first element in the region
  std::int64_t rows = 0, columns = 0;
  std::int64_t row_stride = 0, column_stride = 0;  // in elements, in the region
  BlockShape shape;
  Grid<std::byte> values;
  Grid<std::byte> scales;  // float32
};

// Memory for what is on its way, kept for what comes next: of portions that are read one after the other.
class Scratch {
 public:
  std::span<std::byte> bytes(std::uint64_t size);

 private:
  std::unique_ptr<std::byte[]> bytes_;
  std::uint64_t size_ = 0;
};

// Borrows the region and the local memory. One read at a time.
struct Portion {
  const transport::Region* region = nullptr;
  transport::Device local_device = {};
  std::vector<transport::Run> runs;  // local addresses and strides are of elements as they arrive
  // At most one of them; none: bytes arrive as they are.
  std::optional<Conversion> conversion;
  std::optional<Quantizer> quantizer;
  std::vector<QuantizedMatrix> matrices;  // what the runs are made of, where they are quantised
  std::vector<StridedCopy> strided;       // likewise, where elements are put in another order
  std::shared_ptr<Scratch> scratch;       // for slices

  // How the portion is read; empty where Endpoint::read() will do. As long as the portion stays where it is.
  [[nodiscard]] ReadBy read_by() {
    return conversion || quantizer || !strided.empty() ? ReadBy(*this) : ReadBy(nullptr);
  }
  // Reads straight out of the path's mapping where it has one, and writes each target element once. Else in slices of
  // the path's choice, through the scratch memory. Looks at the deadline between slices.
  Status operator()(transport::Endpoint& endpoint, const transport::Capabilities& capabilities, const os::Wait& wait);

 private:
  Status convert_mapped(const std::byte* view, const os::Wait& wait) const;
  Status convert_in_slices(transport::Endpoint& endpoint, std::uint64_t slice_bytes, const os::Wait& wait);
  Status quantize_mapped(const std::byte* view, const os::Wait& wait) const;
  Status quantize_in_slices(transport::Endpoint& endpoint, std::uint64_t slice_bytes, const os::Wait& wait);
  // Some of a matrix, from element (row, column) on: whole blocks, but for the matrix's edges.
  struct Tile {
    const QuantizedMatrix* matrix = nullptr;
    std::int64_t row = 0, column = 0;
    std::int64_t rows = 0, columns = 0;
  };
  void quantize(const Tile& tile, const Grid<const std::byte>& from) const;
  Status place_strided(transport::Endpoint& endpoint, const std::byte* view, std::uint64_t slice_bytes,
                       const os::Wait& wait) const;
};

// Several portions that are to show one state of the owner's tensors: each by itself does.
class WholeState {
 public:
  WholeState(Peer& peer, std::span<const Portion> portions);
  // Peer::writes_to() of all their regions; nothing is asked for a single portion.
  [[nodiscard]] Result<std::uint64_t> writes(const os::Wait& wait) const;

 private:
  Peer& peer_;
  std::vector<const transport::Region*> regions_;
};

}  // namespace beeline::transfer
