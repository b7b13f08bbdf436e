// Tensors of a descriptor, whole or in part, to and from local memory of any layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
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
  std::optional<std::uint64_t> checksum = std::nullopt;  // of a whole tensor whose owner gave one

  static RemoteTensor whole(std::shared_ptr<const Descriptor> descriptor, std::size_t index);
  [[nodiscard]] const transport::Region& home() const { return descriptor->regions[region]; }
  // One slice for each of the first dimensions; kInvalidArgument if they do not fit.
  [[nodiscard]] Result<RemoteTensor> part(std::span<const Slice> slices) const;
  // By itself, without a name.
  [[nodiscard]] Descriptor alone() const;
};

// Memory of this process with the shape of the tensor it stands beside, and its dtype unless the copy says otherwise.
struct LocalTensor {
  std::byte* data = nullptr;          // of the element whose indices are all 0
  std::vector<std::int64_t> strides;  // in elements; empty: row-major without gaps
  transport::Device device = {};
};

// A tensor of this process beside what is wanted; `whose` that is stands in the message ("the remote one is").
// kInvalidArgument unless shapes and dtypes are the same and, where it is to be filled, each of its elements has a
// place of its own.
enum class Use : std::uint8_t { kFilled, kRead };
Result<LocalTensor> fit(const TensorSpec& wanted, const std::string& whose, const TensorSpec& local, std::byte* data,
                        Use use);

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
// kInvalidArgument unless all are of the first one's owner.
Status check_one_owner(std::span<const Copy> copies);
// For messages: "3 tensors, 4096 bytes".
std::string text_of(std::span<const Copy> copies);

// The copies by region and by what is done to the elements: different regions may be reached by different paths. What
// is to become of the local memory says whether elements can be put in their places here.
std::vector<Portion> portions_of(std::span<const Copy> copies, Use use);

// What the references say of their regions' keys.
void learn_keys(Peer& peer, std::span<const Copy> copies);

// All of one peer. Checksums are compared where the requirement asks for it: kTorn, and local memory is undefined,
// where one differs; kInvalidArgument, before a byte moves, where a tensor has none. See Peer::read() and write() for
// what may fail and what is left then.
Status fetch(Peer& peer, std::span<const Copy> copies, const Requirement& requirement, const os::Wait& wait);
// Without conversions.
Status push(Peer& peer, std::span<const Copy> copies, const Requirement& requirement, const os::Wait& wait);

}  // namespace beeline::transfer
