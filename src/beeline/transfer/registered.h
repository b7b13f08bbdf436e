// Tensors that are registered where they lie: nothing is copied.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "beeline/transfer/descriptor.h"
#include "beeline/transfer/regions.h"
#include "beeline/transfer/snapshot.h"

namespace beeline::transfer {

// kInvalidArgument unless there are none or as many as tensors, all different.
Status check_names(std::span<const std::string> names, std::size_t tensors);

struct Registered {
  std::shared_ptr<const Descriptor> tensors;
  std::shared_ptr<Registration> registration;
};

// Whether a registration by itself keeps the tensor's memory: it lies in one block of the arena, or is none.
bool is_pinned(const memory::Arena& arena, const Source& source);

// `keep_alive` keeps the memory of the others; the schema is the sources'. Fails as check_names() and Regions::add().
Result<Registered> register_tensors(Regions& regions, const std::string& owner, std::shared_ptr<const Schema> schema,
                                    std::span<const Source> sources, std::vector<std::string> names,
                                    std::shared_ptr<void> keep_alive, bool with_checksums);

}  // namespace beeline::transfer
