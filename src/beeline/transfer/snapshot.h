// Tensors as they are now, copied into one block of the arena: whatever happens to them next, readers see these bytes.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "beeline/base/clock.h"
#include "beeline/transfer/descriptor.h"
#include "beeline/transfer/regions.h"

namespace beeline::transfer {

// A tensor of this process; borrowed.
struct Source {
  const TensorSpec* spec = nullptr;
  const std::byte* data = nullptr;  // the element whose indices are all 0
  transport::Device device = {};
};

struct Snapshot {
  std::shared_ptr<const Descriptor> tensors;  // row-major without gaps
  std::shared_ptr<Registration> registration;
  Clock::time_point begun;  // the copy
};

// Of the host's memory: kUnsupported for others. Costs one copy, into memory that an earlier snapshot nobody reads any
// more has left warm. kResourceExhausted when the arena's quota is used up. `single`: as Descriptor has it.
Result<Snapshot> take_snapshot(memory::Arena& arena, Regions& regions, const std::string& owner,
                               std::span<const Source> sources, std::vector<std::string> names, bool with_checksums,
                               bool single = false);

}  // namespace beeline::transfer
