// The part of the DLPack ABI (version 1) by which torch hands over tensors from C to C, without a Python call.
// https://dmlc.github.io/dlpack/latest/c_api.html; layouts are the standard's.
#pragma once

#include <cstdint>

namespace beeline::python::dlpack {

struct Version {
  std::uint32_t major, minor;
};

struct Device {
  std::int32_t type, id;
};
inline constexpr std::int32_t kCpu = 1, kCuda = 2;

struct DataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
inline constexpr std::uint8_t kComplex = 5;  // a code

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: contiguous
  std::uint64_t byte_offset;
};
static_assert(sizeof(Tensor) == 48);

struct ManagedTensor {
  Version version;
  void* context;
  void (*deleter)(ManagedTensor* self);
  std::uint64_t flags;
  Tensor tensor;
};
static_assert(sizeof(ManagedTensor) == 80);
inline constexpr std::uint64_t kReadOnly = 1;  // a flag

// What capsules of `__dlpack__()` hold, by their names, until somebody takes them.
inline constexpr const char* kVersionedCapsule = "dltensor_versioned";  // a ManagedTensor
inline constexpr const char* kCapsule = "dltensor";                     // of version 0: begins with a Tensor
// How `__dlpack__(stream=)` counts the legacy default stream of CUDA.
inline constexpr int kDefaultStream = 1;

// What the capsule in `torch.Tensor.__dlpack_c_exchange_api__` points to. Functions return 0, or -1 with a Python error
// set; the GIL is held.
struct ExchangeApi {
  Version version;
  const ExchangeApi* previous;
  void* allocate;
  void* managed_from_object;
  int (*object_from_managed)(ManagedTensor* tensor, void** object);
  int (*describe_object)(void* object, Tensor* out);  // nothing is kept alive by it; may be null
  int (*current_stream)(std::int32_t device_type, std::int32_t device_id, void** out);  // the device API's handle
};
static_assert(sizeof(ExchangeApi) == 56);
inline constexpr const char* kCapsuleName = "dlpack_exchange_api";
inline constexpr std::uint32_t kMajorVersion = 1;

}  // namespace beeline::python::dlpack
