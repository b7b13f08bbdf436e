#include "beeline/transfer/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <vector>

namespace beeline::transfer {

std::uint64_t checksum_of(const TensorSpec& spec, const std::byte* data, std::span<const std::int64_t> strides) {
  // As if it were brought here from where its elements lie in row-major order: runs come in the order they have there.
  const transport::Region row_major;
  std::vector<transport::Run> runs;
  append_runs(row_major, 0, {spec.dtype, spec.shape, {}}, const_cast<std::byte*>(data), strides, runs);  // only read
  XXH3_state_t state;
  XXH3_INITSTATE(&state);
  XXH3_64bits_reset(&state);
  for (const transport::Run& run : runs) {
    for (std::uint64_t i = 0; i < run.count; ++i) {
      XXH3_64bits_update(&state, run.local + i * run.local_stride, run.length);
    }
  }
  return XXH3_64bits_digest(&state);
}

}  // namespace beeline::transfer
