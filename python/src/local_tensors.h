// Tensors of this process: what a torch tensor or numpy array is and where it lies, and tensors over memory of ours.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "beeline/transfer/tensor.h"
#include "dlpack.h"
#include "session.h"

namespace beeline::python {

// A tensor over `data`, its first element, which `keep_alive` keeps. Strides in elements; empty: row-major without
// gaps. Raises what torch raises. torch is imported if need be.
nb::object import_tensor(dlpack::DataType dtype, const std::vector<std::int64_t>& shape,
                         const std::vector<std::int64_t>& strides, std::byte* data, std::shared_ptr<void> keep_alive);

// A tensor or array of this process.
struct Described {
  transport::Device device;
  transfer::TensorSpec spec;
  std::byte* data = nullptr;  // the first element
};

// What owns the memory of a tensor or array: a tensor of torch's may be given other memory (`tensor.data = ...`) and
// stay the same object.
nb::object owner_of(nb::handle value);

// Of a torch tensor on the CPU, or a numpy array of numbers. Raises TypeError for anything else, ValueError where the
// memory is not at hand, does not hold the values, or may not be written to though that is wanted.
Described describe(nb::handle value, bool writable);

}  // namespace beeline::python
