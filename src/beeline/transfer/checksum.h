// Checksums of tensors: what arrived is what was there. XXH3 (64 bits) of the elements in row-major order, so that it
// does not depend on how either side lays them out. It finds accidents, not forgeries.
#pragma once

#include <cstdint>
#include <span>

#include "beeline/transfer/tensor.h"

namespace beeline::transfer {

// `data` is the element whose indices are all 0; `strides` in elements, empty: row-major without gaps.
std::uint64_t checksum_of(const TensorSpec& spec, const std::byte* data, std::span<const std::int64_t> strides);

}  // namespace beeline::transfer
