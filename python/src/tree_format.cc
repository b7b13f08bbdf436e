#include "tree_format.h"

#include <unordered_map>

namespace beeline::python {
namespace {

// A type of a module that the program has imported; null until then.
PyObject* loaded_type(PyObject*& cache, const char* module, const char* name) {
  if (cache != nullptr) return cache;
  PyObject* const loaded = PyDict_GetItemString(PyImport_GetModuleDict(), module);  // borrowed
  if (loaded == nullptr) return nullptr;
  cache = PyObject_GetAttrString(loaded, name);
  if (cache == nullptr) PyErr_Clear();  // it is being imported
  return cache;
}

}  // namespace

PyObject* tensor_type() {
  static PyObject* type = nullptr;
  return loaded_type(type, "torch", "Tensor");
}

PyObject* array_type() {
  static PyObject* type = nullptr;
  return loaded_type(type, "numpy", "ndarray");
}

nb::object dtype_named(const std::string& name) {
  static auto* dtypes = new std::unordered_map<std::string, nb::object>;
  const auto found = dtypes->find(name);
  if (found != dtypes->end()) return found->second;
  nb::object dtype;
  try {
    dtype = nb::module_::import_("numpy").attr("dtype")(nb::str(name.data(), name.size()));
    if (nb::cast<bool>(dtype.attr("hasobject"))) return {};
  } catch (const nb::python_error&) {
    return {};
  }
  if (dtypes->size() < 64) dtypes->emplace(name, dtype);
  return dtype;
}

const dlpack::ExchangeApi* exchange() {
  static const dlpack::ExchangeApi* api = []() -> const dlpack::ExchangeApi* {
    PyObject* const capsule = PyObject_GetAttrString(tensor_type(), "__dlpack_c_exchange_api__");
    // Kept: the table lives as long as the process.
    const auto* found =
        capsule == nullptr
            ? nullptr
            : static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule, dlpack::kCapsuleName));
    if (found == nullptr) PyErr_Clear();
    while (found != nullptr && found->version.major != dlpack::kMajorVersion) found = found->previous;
    return found != nullptr && found->describe_object != nullptr ? found : nullptr;
  }();
  return api;
}

}  // namespace beeline::python
