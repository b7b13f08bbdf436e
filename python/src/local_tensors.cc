#include "local_tensors.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "tree_format.h"

namespace beeline::python {
namespace {

// A tensor that torch knows through DLPack, with what keeps its memory.
struct Imported {
  dlpack::ManagedTensor managed{};
  std::shared_ptr<void> keep_alive;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;
  bool* deleted = nullptr;  // tells the importer that torch took it and let go of it
};

transfer::DType dtype_of(dlpack::DataType dtype) {
  return {dtype.code, dtype.bits, dtype.lanes};
}

// Whether a method of a tensor's says so; `name` is interned: they are asked of each tensor.
bool is_true(nb::handle tensor, PyObject* name) {
  const auto answer = nb::steal(PyObject_CallMethodNoArgs(tensor.ptr(), name));
  if (!answer.is_valid()) throw nb::python_error();
  return answer.ptr() == Py_True;
}

// Of a torch tensor: neither a lazy conjugate, which has to be complex, nor a lazy negative.
bool holds_its_values(nb::handle tensor, dlpack::DataType dtype) {
  static PyObject* const is_neg = PyUnicode_InternFromString("is_neg");
  static PyObject* const is_conj = PyUnicode_InternFromString("is_conj");
  return !is_true(tensor, is_neg) && !(dtype.code == dlpack::kComplex && is_true(tensor, is_conj));
}

bool is_dense(const dlpack::Tensor& tensor) {
  std::int64_t stride = 1;
  for (std::int32_t i = tensor.ndim; i-- > 0;) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != stride) return false;
    stride *= std::max<std::int64_t>(1, tensor.shape[i]);
  }
  return true;
}

transfer::TensorSpec spec_of(const dlpack::Tensor& tensor) {
  transfer::TensorSpec spec{dtype_of(tensor.dtype), {tensor.shape, tensor.shape + tensor.ndim}, {}};
  if (tensor.strides != nullptr && !is_dense(tensor)) {
    spec.strides.assign(tensor.strides, tensor.strides + tensor.ndim);
  }
  return spec;
}

Described describe_tensor(nb::handle value) {
  dlpack::Tensor tensor{};
  if (exchange() == nullptr) {
    throw std::runtime_error("this process's torch does not exchange tensors by DLPack's C interface");
  }
  if (exchange()->describe_object(value.ptr(), &tensor) != 0) {
    nb::python_error error;
    nb::raise_from(error, PyExc_ValueError, "a tensor that has no strided memory cannot be reached by others: %S on %S",
                   nb::object(value.attr("layout")).ptr(), nb::object(value.attr("device")).ptr());
  }
  if (!holds_its_values(value, tensor.dtype)) {
    throw nb::value_error(
        "the tensor is a lazy negative or conjugate: its memory does not hold its values. Register "
        "tensor.resolve_neg().resolve_conj()");
  }
  Described described;
  described.device = {tensor.device.type, tensor.device.id};
  described.spec = spec_of(tensor);
  described.data = static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
  return described;
}

// numpy's kinds as DLPack's codes.
std::optional<std::uint8_t> code_of_kind(char kind) {
  switch (kind) {
    case 'i':
      return 0;
    case 'u':
      return 1;
    case 'f':
      return 2;
    case 'c':
      return 5;
    case 'b':
      return 6;
    default:
      return std::nullopt;
  }
}

Described describe_array(nb::handle value, bool writable) {
  const nb::object dtype = value.attr("dtype");
  const auto code = code_of_kind(nb::cast<std::string>(dtype.attr("kind"))[0]);
  if (!code || !nb::cast<bool>(dtype.attr("isnative"))) {
    throw nb::type_error(("an array of dtype " + nb::cast<std::string>(nb::str(dtype)) +
                          " has no form that others would know: register numbers or booleans in native byte order")
                             .c_str());
  }
  if (writable && !nb::cast<bool>(value.attr("flags").attr("writeable"))) {
    throw nb::value_error("the array to be filled is read-only");
  }
  Described described;
  const auto size = nb::cast<std::int64_t>(dtype.attr("itemsize"));
  described.spec.dtype = {*code, static_cast<std::uint8_t>(size * 8), 1};
  for (const nb::handle length : nb::tuple(value.attr("shape"))) {
    described.spec.shape.push_back(nb::cast<std::int64_t>(length));
  }
  for (const nb::handle stride : nb::tuple(value.attr("strides"))) {
    const auto bytes = nb::cast<std::int64_t>(stride);
    if (bytes % size != 0) throw nb::value_error("an array whose strides are not whole elements");
    described.spec.strides.push_back(bytes / size);
  }
  const auto address = nb::cast<std::uintptr_t>(value.attr("ctypes").attr("data"));
  described.data = reinterpret_cast<std::byte*>(address);  // NOLINT: numpy gives it as a number
  return described;
}

// By DLPack's Python protocol. The producer makes CUDA's default stream come after its work.
Described describe_exchanged(nb::handle value, bool writable) {
  const auto [type, id] = nb::cast<std::pair<std::int32_t, std::int32_t>>(value.attr("__dlpack_device__")());
  nb::dict options;
  if (type == dlpack::kCuda) options["stream"] = dlpack::kDefaultStream;
  nb::object capsule;
  const nb::object exchanged = value.attr("__dlpack__");
  try {
    const auto versioned = nb::steal<nb::dict>(PyDict_Copy(options.ptr()));
    versioned["max_version"] = nb::make_tuple(dlpack::kMajorVersion, 0);
    capsule = exchanged(**versioned);
  } catch (nb::python_error& error) {
    if (!error.matches(PyExc_TypeError)) throw;
    capsule = exchanged(**options);  // from before there were versions
  }
  Described described;
  dlpack::Tensor tensor{};
  if (PyCapsule_IsValid(capsule.ptr(), dlpack::kVersionedCapsule) != 0) {
    const auto* managed =
        static_cast<const dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), dlpack::kVersionedCapsule));
    if (writable && (managed->flags & dlpack::kReadOnly) != 0) {
      throw nb::value_error("the array to be filled is read-only");
    }
    tensor = managed->tensor;
  } else {
    const void* held = PyCapsule_GetPointer(capsule.ptr(), dlpack::kCapsule);
    if (held == nullptr) throw nb::python_error();
    tensor = *static_cast<const dlpack::Tensor*>(held);
  }
  described.device = {tensor.device.type, tensor.device.id};
  described.spec = spec_of(tensor);
  described.data = static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
  return described;
}

}  // namespace

std::uintptr_t current_stream(const transport::Device& device) {
  if (device.type != dlpack::kCuda || tensor_type() == nullptr || exchange() == nullptr) return 0;
  void* stream = nullptr;
  if (exchange()->current_stream(device.type, device.id, &stream) == 0) return reinterpret_cast<std::uintptr_t>(stream);
  PyErr_Clear();  // a torch without CUDA has put nothing into a stream
  return 0;
}

nb::object owner_of(nb::handle value) {
  const bool is_tensor = tensor_type() != nullptr && PyObject_IsInstance(value.ptr(), tensor_type()) == 1;
  return is_tensor ? nb::object(value.attr("detach")()) : nb::borrow(value);
}

Described describe(nb::handle value, bool writable) {
  Described described;
  if (tensor_type() != nullptr && PyObject_IsInstance(value.ptr(), tensor_type()) == 1) {
    described = describe_tensor(value);
  } else if (array_type() != nullptr && PyObject_IsInstance(value.ptr(), array_type()) == 1) {
    described = describe_array(value, writable);
  } else if (nb::hasattr(value, "__dlpack__") && nb::hasattr(value, "__dlpack_device__")) {
    described = describe_exchanged(value, writable);
  } else {
    throw nb::type_error(("expected a torch tensor or a numpy array, got " +
                          nb::cast<std::string>(nb::handle(value.type()).attr("__name__")))
                             .c_str());
  }
  if (const Status status = transfer::check(described.spec); !status) {
    raise_status(status, "describe a tensor", Work::kAgent);
  }
  return described;
}

nb::object import_tensor(dlpack::DataType dtype, const std::vector<std::int64_t>& shape,
                         const std::vector<std::int64_t>& strides, std::byte* data, std::shared_ptr<void> keep_alive,
                         const transport::Device& device) {
  if (tensor_type() == nullptr) nb::module_::import_("torch");
  const auto* api = tensor_type() != nullptr ? exchange() : nullptr;
  if (api == nullptr) {
    throw std::runtime_error("this process's torch does not exchange tensors by DLPack's C interface");
  }
  auto imported = std::make_unique<Imported>();
  imported->shape = shape;
  imported->strides = strides;
  if (strides.empty()) {
    imported->strides.resize(shape.size());
    std::int64_t stride = 1;
    for (std::size_t i = shape.size(); i-- > 0;) {
      imported->strides[i] = stride;
      stride *= std::max<std::int64_t>(1, shape[i]);
    }
  }
  imported->keep_alive = std::move(keep_alive);
  auto& managed = imported->managed;
  managed.version = {dlpack::kMajorVersion, 0};
  managed.context = imported.get();
  managed.deleter = [](dlpack::ManagedTensor* self) {
    const std::unique_ptr<Imported> owned(static_cast<Imported*>(self->context));
    if (owned->deleted != nullptr) *owned->deleted = true;
  };
  const dlpack::Device own{device.type, device.id};
  managed.tensor = {
      data, own, static_cast<std::int32_t>(shape.size()), dtype, imported->shape.data(), imported->strides.data(), 0};
  void* made = nullptr;
  bool deleted = false;
  imported->deleted = &deleted;
  if (api->object_from_managed(&managed, &made) != 0) {
    if (deleted) imported.release();  // NOLINT: torch failed after it had taken it
    throw nb::python_error();
  }
  imported.release()->deleted = nullptr;  // torch has it now
  return nb::steal(static_cast<PyObject*>(made));
}

}  // namespace beeline::python
