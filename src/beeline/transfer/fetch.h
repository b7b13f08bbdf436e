// Tensors of a descriptor, whole or in part, to and from local memory of any layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "beeline/transfer/descriptor.h"
#include "beeline/transfer/peer.h"
#include "beeline/transfer/portion.h"

namespace beeline::transfer {

// A tensor, or a part of one, where its owner has it. Copies; shares the descriptor.
struct RemoteTensor {
  std::shared_ptr<const Descriptor> descriptor;
  std::uint32_t region = 0;
  std::uint64_t offset = 0;  // of the element whose indices are all 0
  TensorSpec spec;

  static RemoteTensor whole(std::shared_ptr<const Descriptor> descriptor, std::size_t index);
  [[nodiscard]] const transport::Region& home() const { return descriptor->regions[region]; }
  // One slice for each of the first dimensions; kInvalidArgument if they do not fit.
  [[nodiscard]] Result<RemoteTensor> part(std::span<const Slice> slices) const;
};

// Memory of this process with the shape of the tensor it stands beside, and its dtype unless the copy says otherwise.
struct LocalTensor {
  std::byte* data = nullptr;          // of the element whose indices are all 0
  std::vector<std::int64_t> strides;  // in elements; empty: row-major without gaps
};

// How a tensor is quantised on its way: its values are float8_e4m3fn.
struct Quantization {
  Quantizer quantizer;
  BlockShape shape;    // checked against the tensor
  LocalTensor scales;  // of what scales_of() says
};

struct Copy {
  const RemoteTensor* remote = nullptr;
  LocalTensor local;
  // Of a fetch; at most one of them, made for the remote's dtype. None: elements arrive as they are.
  std::optional<Conversion> conversion = std::nullopt;
  std::optional<Quantization> quantization = std::nullopt;
};

// The copies by region and by what is done to the elements: different regions may be reached by different paths.
std::vector<Portion> portions_of(std::span<const Copy> copies);

// All of one peer. See Peer::read() and write() for what may fail and what is left then.
Status fetch(Peer& peer, std::span<const Copy> copies, const Requirement& requirement, const os::Wait& wait);
// Without conversions.
Status push(Peer& peer, std::span<const Copy> copies, const Requirement& requirement, const os::Wait& wait);

}  // namespace beeline::transfer
