// Tensors of a call of the public API, as the core takes them. Not installed.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "beeline/api/references.h"
#include "beeline/api/target.h"
#include "beeline/transfer/fetch.h"
#include "beeline/transfer/snapshot.h"

namespace beeline::api {

// Borrows the tensors. kInvalidArgument where one is none.
struct Sources {
  std::shared_ptr<const transfer::Schema> schema;
  std::vector<transfer::Source> all;

  static Result<Sources> of(std::span<const Tensor> tensors);
};

// Borrow what stands behind the references, and the tensors' memory. kInvalidArgument where they do not fit, or are of
// several owners.
Result<std::vector<transfer::Copy>> copies_into(std::span<const TensorRef> refs, std::span<const Tensor> targets);
Result<std::vector<transfer::Copy>> copies_into(std::span<const TensorRef> refs, std::span<const Target> targets);
Result<std::vector<transfer::Copy>> copies_from(std::span<const TensorRef> refs, std::span<const Tensor> sources);

// What keeps them.
std::vector<std::shared_ptr<void>> memory_of(std::span<const Tensor> tensors);
std::vector<std::shared_ptr<void>> memory_of(std::span<const Target> targets);

}  // namespace beeline::api
