#include "trees.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "dlpack.h"
#include "values.h"

namespace beeline::python {
namespace {

constexpr int kMaxDepth = 16;
// A value of more scalars than this is left to pickle.
constexpr std::size_t kMaxScalars = 1024;
constexpr Py_ssize_t kMaxText = 64 * 1024;
// Tensors of up to this size travel inside the skeleton, each a copy of its own (as beeline.tensors.torch_values does).
constexpr std::size_t kInlineTensor = 1024;
constexpr std::int32_t kMaxDimensions = 64;

// Pickle's opcodes (protocol 5): https://docs.python.org/3/library/pickletools.html
namespace op {
constexpr char kNone = 'N', kTrue = '\x88', kFalse = '\x89', kFloat = 'G', kStop = '.';
constexpr char kInt4 = 'J', kLong1 = '\x8a';
constexpr char kText1 = '\x8c', kText4 = 'X', kBytes1 = 'C', kBytes4 = 'B';
constexpr char kMark = '(', kTuple = 't', kEmptyTuple = ')', kEmptyList = ']', kAppends = 'e', kEmptyDict = '}',
               kSetItems = 'u';
constexpr char kGlobal = 'c', kMemoize = '\x94', kGet1 = 'h', kReduce = 'R', kTuple2 = '\x86', kNextBuffer = '\x97';
constexpr std::string_view kProtocol("\x80\x05", 2);
}  // namespace op

// The name of an attribute, made once.
template <typename Tag>
PyObject* interned(const char* text) {
  static PyObject* name = PyUnicode_InternFromString(text);
  return name;
}

// A type of a module that the program has imported; null until then.
PyObject* loaded_type(PyObject*& cache, const char* module, const char* name) {
  if (cache != nullptr) return cache;
  PyObject* const loaded = PyDict_GetItemString(PyImport_GetModuleDict(), module);  // borrowed
  if (loaded == nullptr) return nullptr;
  cache = PyObject_GetAttrString(loaded, name);
  if (cache == nullptr) PyErr_Clear();  // it is being imported
  return cache;
}

PyObject* tensor_type() {
  static PyObject* type = nullptr;
  return loaded_type(type, "torch", "Tensor");
}

PyObject* array_type() {
  static PyObject* type = nullptr;
  return loaded_type(type, "numpy", "ndarray");
}

// numpy's dtype of that name ("<f4"); raises what numpy does.
nb::object dtype_named(const std::string& name) {
  static auto* dtypes = new std::unordered_map<std::string, nb::object>;
  const auto found = dtypes->find(name);
  if (found != dtypes->end()) return found->second;
  nb::object dtype = nb::module_::import_("numpy").attr("dtype")(nb::str(name.data(), name.size()));
  if (dtypes->size() < 64) dtypes->emplace(name, dtype);
  return dtype;
}

// Null where this torch has no such interface.
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

// What a skeleton says of a tensor; its shape follows, 8 bytes a dimension.
struct TensorHeader {
  dlpack::DataType dtype;
  std::int32_t ndim;
};
static_assert(sizeof(TensorHeader) == 8);

// What it says of an array; shape and numpy's name of the dtype follow.
struct ArrayHeader {
  std::int32_t ndim;
  std::int32_t name_size;
};
static_assert(sizeof(ArrayHeader) == 8);

class TreePickler {
 public:
  TreePickler(runtime::Mode mode, Tree& tree) : live_(mode == runtime::Mode::kLive), mode_(mode), tree_(tree) {}

  // False, without a Python error, where it is for others to pickle the value.
  bool run(PyObject* value) {
    out_ = op::kProtocol;
    if (!write(value, 0) || (tensors_ == 0 && arrays_ == 0) || has_sharing()) return false;
    out_ += op::kStop;
    tree_.skeleton = std::move(out_);
    return true;
  }

 private:
  template <typename Value>
  void raw(const Value& value) {
    out_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }

  bool write(PyObject* value, int depth) {
    PyTypeObject* const type = Py_TYPE(value);
    if (reinterpret_cast<PyObject*>(type) == tensor_type()) return write_tensor(value);
    if (reinterpret_cast<PyObject*>(type) == array_type()) return write_array(value);
    if (type == &PyTuple_Type || type == &PyList_Type) return write_sequence(value, depth);
    if (type == &PyDict_Type) return write_dict(value, depth);
    if (++scalars_ > kMaxScalars) return false;
    if (value == Py_None) {
      out_ += op::kNone;
    } else if (value == Py_True || value == Py_False) {
      out_ += value == Py_True ? op::kTrue : op::kFalse;
    } else if (type == &PyLong_Type) {
      return write_int(value);
    } else if (type == &PyFloat_Type) {
      write_float(PyFloat_AS_DOUBLE(value));
    } else if (type == &PyUnicode_Type) {
      Py_ssize_t size = 0;
      const char* const text = PyUnicode_AsUTF8AndSize(value, &size);
      if (text == nullptr) PyErr_Clear();  // lone surrogates
      return text != nullptr && write_bytes({text, static_cast<std::size_t>(size)}, op::kText1, op::kText4);
    } else if (type == &PyBytes_Type) {
      return write_bytes(view_of_bytes(value), op::kBytes1, op::kBytes4);
    } else {
      return false;
    }
    return true;
  }

  static std::string_view view_of_bytes(PyObject* bytes) {
    return {PyBytes_AS_STRING(bytes), static_cast<std::size_t>(PyBytes_GET_SIZE(bytes))};
  }

  bool write_bytes(std::string_view bytes, char small, char large) {
    if (bytes.size() > static_cast<std::size_t>(kMaxText)) return false;
    if (bytes.size() < 256) {
      out_ += small;
      raw(static_cast<std::uint8_t>(bytes.size()));
    } else {
      out_ += large;
      raw(static_cast<std::uint32_t>(bytes.size()));
    }
    out_ += bytes;
    return true;
  }

  bool write_int(PyObject* value) {
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow != 0) return false;
    if (number >= INT32_MIN && number <= INT32_MAX) {
      out_ += op::kInt4;
      raw(static_cast<std::int32_t>(number));
    } else {
      out_ += op::kLong1;
      out_ += static_cast<char>(sizeof number);
      raw(number);
    }
    return true;
  }

  void write_float(double number) {
    static_assert(std::endian::native == std::endian::little);
    out_ += op::kFloat;
    raw(__builtin_bswap64(std::bit_cast<std::uint64_t>(number)));
  }

  bool write_sequence(PyObject* value, int depth) {
    const bool is_list = PyList_CheckExact(value);
    const Py_ssize_t size = PySequence_Fast_GET_SIZE(value);
    if (size == 0) {
      if (is_list) containers_.push_back(value);
      out_ += is_list ? op::kEmptyList : op::kEmptyTuple;
      return true;
    }
    if (depth == kMaxDepth) return false;
    containers_.push_back(value);
    if (is_list) out_ += op::kEmptyList;
    out_ += op::kMark;
    // Nothing below runs code that could change the container, but attributes of tensors: items are looked at anew.
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(value); ++i) {
      if (!write(PySequence_Fast_GET_ITEM(value, i), depth + 1)) return false;
    }
    out_ += is_list ? op::kAppends : op::kTuple;
    return true;
  }

  bool write_dict(PyObject* value, int depth) {
    containers_.push_back(value);
    out_ += op::kEmptyDict;
    if (PyDict_GET_SIZE(value) == 0) return true;
    if (depth == kMaxDepth) return false;
    out_ += op::kMark;
    PyObject* key = nullptr;
    PyObject* item = nullptr;
    Py_ssize_t at = 0;
    while (PyDict_Next(value, &at, &key, &item)) {
      const bool is_plain_key = PyUnicode_CheckExact(key) || PyLong_CheckExact(key);
      if (!is_plain_key || !write(key, kMaxDepth) || !write(item, depth + 1)) return false;
    }
    out_ += op::kSetItems;
    return true;
  }

  // The function that the reader calls for a leaf: found by name once, then by its place in the reader's memo.
  void write_restorer(const char* name, std::optional<std::uint8_t>& place) {
    if (place) {
      out_ += op::kGet1;
      raw(*place);
      return;
    }
    out_ += op::kGlobal;
    out_ += "beeline._core\n";
    out_ += name;
    out_ += '\n';
    out_ += op::kMemoize;
    place = memoized_++;
  }

  static bool is_contiguous(const dlpack::Tensor& tensor) {
    std::int64_t expected = 1;
    for (std::int32_t i = tensor.ndim; tensor.strides != nullptr && i-- > 0;) {
      if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return false;
      expected *= tensor.shape[i];
    }
    return true;
  }

  // Whether the tensor is no more than its elements: no gradient, no attributes, not a lazy negative.
  static bool is_bare(PyObject* tensor) {
    struct Gradient;
    struct Attributes;
    struct Negative;
    nb::object gradient = nb::steal(PyObject_GetAttr(tensor, interned<Gradient>("requires_grad")));
    nb::object attributes = nb::steal(PyObject_GetAttr(tensor, interned<Attributes>("__dict__")));
    nb::object negative = nb::steal(PyObject_CallMethodNoArgs(tensor, interned<Negative>("is_neg")));
    if (!gradient.is_valid() || !attributes.is_valid() || !negative.is_valid()) {
      PyErr_Clear();
      return false;
    }
    return gradient.is(nb::handle(Py_False)) && negative.is(nb::handle(Py_False)) && nb::len(attributes) == 0;
  }

  bool write_tensor(PyObject* value) {
    const auto* api = exchange();
    if (api == nullptr) return false;
    dlpack::Tensor tensor{};
    if (api->describe_object(value, &tensor) != 0) {
      PyErr_Clear();
      return false;
    }
    const std::size_t bits = std::size_t{tensor.dtype.bits} * tensor.dtype.lanes;
    if (tensor.device.type != dlpack::kCpu || tensor.dtype.code == dlpack::kComplex || bits % 8 != 0 ||
        tensor.ndim > kMaxDimensions || !is_contiguous(tensor) || !is_bare(value)) {
      return false;
    }
    std::size_t size = bits / 8;
    for (std::int32_t i = 0; i < tensor.ndim; ++i) size *= static_cast<std::size_t>(tensor.shape[i]);
    if (size == 0) return false;
    ++tensors_;

    write_restorer("restore_tensor", tensor_restorer_);
    std::string header;
    const TensorHeader head{tensor.dtype, tensor.ndim};
    header.append(reinterpret_cast<const char*>(&head), sizeof head);
    if (tensor.ndim > 0) {
      header.append(reinterpret_cast<const char*>(tensor.shape),
                    static_cast<std::size_t>(tensor.ndim) * sizeof(std::int64_t));
    }
    write_bytes(header, op::kBytes1, op::kBytes4);
    const auto* data = static_cast<const std::byte*>(tensor.data) + tensor.byte_offset;
    extents_.emplace_back(data, size);
    if (live_) tree_.referred.emplace_back(data, size);
    if (size <= kInlineTensor) {
      write_bytes({reinterpret_cast<const char*>(data), size}, op::kBytes1, op::kBytes4);
    } else {
      out_ += op::kNextBuffer;
      tree_.buffers.push_back({data, size, true});
      tree_.leaves.push_back(nb::borrow(value));
      if (live_) tree_.counted.append(nb::handle(value));
    }
    out_ += op::kTuple2;
    out_ += op::kReduce;
    return true;
  }

  bool write_array(PyObject* value) {
    struct Type;
    struct Name;
    nb::object dtype = nb::steal(PyObject_GetAttr(value, interned<Type>("dtype")));
    nb::object name = nb::steal(dtype.is_valid() ? PyObject_GetAttr(dtype.ptr(), interned<Name>("str")) : nullptr);
    const char* const text_of_name = name.is_valid() ? PyUnicode_AsUTF8(name.ptr()) : nullptr;
    Py_buffer view{};
    // The one dtype of its name: a number, with neither fields nor metadata nor a foreign byte order.
    if (text_of_name == nullptr || !dtype.is(dtype_named(text_of_name)) ||
        PyObject_GetBuffer(value, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) {
      PyErr_Clear();
      return false;
    }
    const auto* data = static_cast<const std::byte*>(view.buf);
    const auto size = static_cast<std::size_t>(view.len);
    const bool is_object = view.format != nullptr && view.format[0] == 'O';
    std::vector<std::int64_t> shape(view.shape, view.shape + view.ndim);
    PyBuffer_Release(&view);
    if (size == 0 || is_object || shape.size() > static_cast<std::size_t>(kMaxDimensions)) return false;
    ++arrays_;

    const std::string_view text(text_of_name);
    write_restorer("restore_array", array_restorer_);
    std::string header;
    const ArrayHeader head{static_cast<std::int32_t>(shape.size()), static_cast<std::int32_t>(text.size())};
    header.append(reinterpret_cast<const char*>(&head), sizeof head);
    header.append(reinterpret_cast<const char*>(shape.data()), shape.size() * sizeof(std::int64_t));
    header += text;
    write_bytes(header, op::kBytes1, op::kBytes4);
    out_ += op::kNextBuffer;
    // As in beeline.tensors.values: what comes from the object store is read-only.
    const bool writable = mode_ != runtime::Mode::kStored;
    extents_.emplace_back(data, size);
    tree_.buffers.push_back({data, size, writable});
    tree_.leaves.push_back(nb::borrow(value));
    if (live_) tree_.referred.emplace_back(data, size);
    out_ += op::kTuple2;
    out_ += op::kReduce;
    return true;
  }

  // Whether a container or memory occurs twice: what is one on this side must be one on the other.
  bool has_sharing() {
    std::sort(containers_.begin(), containers_.end());
    if (std::adjacent_find(containers_.begin(), containers_.end()) != containers_.end()) return true;
    const auto by_start = [](const runtime::Extent& a, const runtime::Extent& b) { return a.data() < b.data(); };
    const auto overlap = [](const runtime::Extent& a, const runtime::Extent& b) {
      return b.data() < a.data() + a.size();
    };
    std::sort(extents_.begin(), extents_.end(), by_start);
    return std::adjacent_find(extents_.begin(), extents_.end(), overlap) != extents_.end();
  }

  const bool live_;
  const runtime::Mode mode_;
  Tree& tree_;
  std::string out_;
  std::size_t scalars_ = 0, tensors_ = 0, arrays_ = 0;
  std::uint8_t memoized_ = 0;
  std::optional<std::uint8_t> tensor_restorer_, array_restorer_;
  std::vector<PyObject*> containers_;
  std::vector<runtime::Extent> extents_;
};

[[noreturn]] void raise_corrupt(const char* what) {
  throw nb::value_error((std::string(what) + ": the value's description does not fit its bytes").c_str());
}

// The bytes that `count` elements of `bits` bits take; raises where that is no size.
std::size_t size_of(const std::int64_t* shape, std::int32_t ndim, std::size_t element_size, const char* what) {
  std::size_t size = element_size;
  for (std::int32_t i = 0; i < ndim; ++i) {
    if (shape[i] < 0 || __builtin_mul_overflow(size, static_cast<std::size_t>(shape[i]), &size)) raise_corrupt(what);
  }
  return size;
}

// A tensor that torch knows through DLPack, with what keeps its memory.
struct Imported {
  dlpack::ManagedTensor managed{};
  std::shared_ptr<void> keep_alive;
  std::vector<std::int64_t> shape_and_strides;
};

// In a thread that replaces tensors while it loads a value (set_target_for_ref): called with each.
thread_local nb::object* on_tensor = nullptr;

nb::object restore_tensor(nb::bytes header, nb::handle buffer) {
  constexpr const char* kWhat = "restore a tensor";
  if (tensor_type() == nullptr) nb::module_::import_("torch");
  const auto* api = tensor_type() != nullptr ? exchange() : nullptr;
  if (api == nullptr)
    throw std::runtime_error("this process's torch does not exchange tensors by DLPack's C interface");
  TensorHeader head{};
  if (header.size() < sizeof head) raise_corrupt(kWhat);
  std::memcpy(&head, header.c_str(), sizeof head);
  if (head.ndim < 0 || head.ndim > kMaxDimensions ||
      header.size() != sizeof head + static_cast<std::size_t>(head.ndim) * sizeof(std::int64_t)) {
    raise_corrupt(kWhat);
  }
  const auto ndim = static_cast<std::size_t>(head.ndim);
  auto imported = std::make_unique<Imported>();
  auto& dimensions = imported->shape_and_strides;
  dimensions.resize(2 * ndim);
  if (ndim > 0) std::memcpy(dimensions.data(), header.c_str() + sizeof head, ndim * sizeof(std::int64_t));
  const std::size_t element_size = std::size_t{head.dtype.bits} * head.dtype.lanes / 8;
  const std::size_t size = size_of(dimensions.data(), head.ndim, element_size, kWhat);
  std::int64_t stride = 1;
  for (std::size_t i = ndim; i-- > 0;) {
    dimensions[ndim + i] = stride;
    stride *= std::max<std::int64_t>(1, dimensions[i]);
  }

  void* data = nullptr;
  if (PyBytes_CheckExact(buffer.ptr())) {
    if (static_cast<std::size_t>(PyBytes_GET_SIZE(buffer.ptr())) != size) raise_corrupt(kWhat);
    constexpr std::size_t kAlign = 64;
    imported->keep_alive =
        std::shared_ptr<void>(std::aligned_alloc(kAlign, (size + kAlign - 1) / kAlign * kAlign), std::free);
    data = imported->keep_alive.get();
    std::memcpy(data, PyBytes_AS_STRING(buffer.ptr()), size);
  } else {
    Py_buffer* const exported = PyMemoryView_Check(buffer.ptr()) ? PyMemoryView_GET_BUFFER(buffer.ptr()) : nullptr;
    View* view = nullptr;
    if (exported == nullptr || exported->obj == nullptr || !nb::try_cast(nb::handle(exported->obj), view) ||
        view->size != size) {
      raise_corrupt(kWhat);
    }
    data = view->data;
    imported->keep_alive = view->keep_alive;
  }

  auto& managed = imported->managed;
  managed.version = {dlpack::kMajorVersion, 0};
  managed.context = imported.get();
  managed.deleter = [](dlpack::ManagedTensor* self) { delete static_cast<Imported*>(self->context); };
  managed.tensor = {data, {dlpack::kCpu, 0}, head.ndim, head.dtype, dimensions.data(), dimensions.data() + ndim, 0};
  void* made = nullptr;
  if (api->object_from_managed(&managed, &made) != 0) throw nb::python_error();
  imported.release();  // NOLINT: torch has it now
  nb::object tensor = nb::steal(static_cast<PyObject*>(made));
  return on_tensor == nullptr ? tensor : (*on_tensor)(tensor);
}

nb::object restore_array(nb::bytes header, nb::handle buffer) {
  constexpr const char* kWhat = "restore an array";
  ArrayHeader head{};
  if (header.size() < sizeof head) raise_corrupt(kWhat);
  std::memcpy(&head, header.c_str(), sizeof head);
  if (head.ndim < 0 || head.ndim > kMaxDimensions || head.name_size < 0 ||
      header.size() != sizeof head + static_cast<std::size_t>(head.ndim) * sizeof(std::int64_t) +
                           static_cast<std::size_t>(head.name_size)) {
    raise_corrupt(kWhat);
  }
  if (array_type() == nullptr) nb::module_::import_("numpy");
  nb::object shape = nb::steal(PyTuple_New(head.ndim));
  const char* at = header.c_str() + sizeof head;
  for (std::int32_t i = 0; i < head.ndim; ++i, at += sizeof(std::int64_t)) {
    std::int64_t length = 0;
    std::memcpy(&length, at, sizeof length);
    PyTuple_SET_ITEM(shape.ptr(), i, PyLong_FromLongLong(length));
  }
  const nb::object dtype = dtype_named(std::string(at, static_cast<std::size_t>(head.name_size)));
  PyObject* arguments[] = {shape.ptr(), dtype.ptr(), buffer.ptr()};
  nb::object array = nb::steal(PyObject_Vectorcall(array_type(), arguments, 3, nullptr));
  if (!array.is_valid()) throw nb::python_error();
  return array;
}

// Calls load() while every tensor that this thread restores goes through `replace`.
nb::object replacing_tensors(nb::object replace, nb::object load) {
  struct Restore {
    nb::object* before;
    ~Restore() { on_tensor = before; }
  } restore{std::exchange(on_tensor, &replace)};
  return load();
}

}  // namespace

bool pickle_tree(nb::handle value, runtime::Mode mode, Tree& tree) {
  if (tensor_type() == nullptr && array_type() == nullptr) return false;
  return TreePickler(mode, tree).run(value.ptr());
}

void bind_trees(nb::module_& m) {
  m.def("pickle_tree", [](nb::handle value, int mode) -> nb::object {
    Tree tree;
    if (!pickle_tree(value, static_cast<runtime::Mode>(mode), tree)) return nb::none();
    nb::list buffers;
    for (const auto& buffer : tree.buffers) {
      buffers.append(nb::make_tuple(nb::bytes(buffer.data, buffer.size), buffer.writable));
    }
    return nb::make_tuple(nb::bytes(tree.skeleton.data(), tree.skeleton.size()), buffers);
  });
  m.def("restore_tensor", &restore_tensor);
  m.def("restore_array", &restore_array);
  m.def("replacing_tensors", &replacing_tensors);
}

}  // namespace beeline::python
