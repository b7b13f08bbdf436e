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
                         const std::vector<std::int64_t>& strides, std::byte* data, std::shared_ptr<void> keep_alive,
                         const transport::Device& device = {});

// A tensor or array of this process.
struct Described {
  transport::Device device;
  transfer::TensorSpec spec;
  std::byte* data = nullptr;  // the first element
};

// What owns the memory of a tensor or array: a tensor of torch's may be given other memory (`tensor.data = ...`) and
// stay the same object.
nb::object owner_of(nb::handle value);

// Of a torch tensor, a numpy array of numbers, or what another library shows by `__dlpack__` (cupy, jax), on whatever
// device: whoever uses memory of a device waits for what its streams hold. Raises TypeError for anything else,
// ValueError where the memory is not at hand, does not hold the values, or may not be written to though that is wanted.
Described describe(nb::handle value, bool writable);

// The stream into which torch puts work on that device now; 0 is the device's default one, also where this torch knows
// no such device.
std::uintptr_t current_stream(const transport::Device& device);

}  // namespace beeline::python
