#include "trees.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "tree_format.h"

namespace beeline::python {
namespace {

constexpr int kMaxDepth = 16;
// A value of more scalars than this is left to pickle: it is hardly one of tensors.
constexpr std::size_t kMaxScalars = 1024;
constexpr std::size_t kScalarsPerLeaf = 8;
constexpr Py_ssize_t kMaxText = 64 * 1024;
// Tensors of up to this size travel inside the skeleton, each a copy of its own (as beeline.tensors.torch_values does).
constexpr std::size_t kInlineTensor = 1024;

// The name of an attribute, made once.
template <typename Tag>
PyObject* interned(const char* text) {
  static PyObject* name = PyUnicode_InternFromString(text);
  return name;
}

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
    if (++scalars_ > kMaxScalars + kScalarsPerLeaf * (tensors_ + arrays_)) return false;
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
      if (is_list && !visit(value)) return false;
      out_ += is_list ? op::kEmptyList : op::kEmptyTuple;
      return true;
    }
    if (depth == kMaxDepth || !visit(value)) return false;
    if (is_list) out_ += op::kEmptyList;
    out_ += op::kMark;
    // Looking at a tensor may let other threads run, which may change the container: items are held, sizes compared.
    for (Py_ssize_t i = 0; i < size; ++i) {
      const nb::object item = nb::borrow(PySequence_Fast_GET_ITEM(value, i));
      if (!write(item.ptr(), depth + 1) || PySequence_Fast_GET_SIZE(value) != size) return false;
    }
    out_ += is_list ? op::kAppends : op::kTuple;
    return true;
  }

  bool write_dict(PyObject* value, int depth) {
    if (!visit(value)) return false;
    out_ += op::kEmptyDict;
    const Py_ssize_t size = PyDict_GET_SIZE(value);
    if (size == 0) return true;
    if (depth == kMaxDepth) return false;
    out_ += op::kMark;
    PyObject* next_key = nullptr;
    PyObject* next_item = nullptr;
    Py_ssize_t at = 0;
    while (PyDict_Next(value, &at, &next_key, &next_item)) {
      const nb::object key = nb::borrow(next_key);
      const nb::object item = nb::borrow(next_item);
      const bool is_plain_key = PyUnicode_CheckExact(key.ptr()) || PyLong_CheckExact(key.ptr());
      if (!is_plain_key || !write(key.ptr(), kMaxDepth) || !write(item.ptr(), depth + 1)) return false;
      if (PyDict_GET_SIZE(value) != size) return false;
    }
    out_ += op::kSetItems;
    return true;
  }

  // The function that the reader calls for a leaf: found by name once, then by its place in the reader's memo.
  void write_restorer(std::string_view name, std::optional<std::uint8_t>& place) {
    if (place) {
      out_ += op::kGet1;
      raw(*place);
      return;
    }
    out_ += op::kGlobal;
    out_ += kModule;
    out_ += '\n';
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

  // Whether DLPack knows the tensor's dtype as torch does: it has one name for torch.uint8 and torch.uint4, and complex
  // tensors may be lazily conjugated.
  static bool has_plain_dtype(PyObject* tensor) {
    static const auto* known = [] {
      auto* dtypes = new std::unordered_set<PyObject*>;
      const nb::module_ torch = nb::module_::import_("torch");
      for (const char* name :
           {"bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "bfloat16",
            "float32", "float64", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"}) {
        if (nb::hasattr(torch, name)) dtypes->insert(nb::object(torch.attr(name)).release().ptr());
      }
      return dtypes;
    }();
    struct Type;
    const nb::object dtype = nb::steal(PyObject_GetAttr(tensor, interned<Type>("dtype")));
    if (!dtype.is_valid()) PyErr_Clear();
    return known->contains(dtype.ptr());
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
    if (!visit(value) || !has_plain_dtype(value)) return false;
    dlpack::Tensor tensor{};
    if (api->describe_object(value, &tensor) != 0) {
      PyErr_Clear();
      return false;
    }
    const auto& dtype = tensor.dtype;
    if (tensor.device.type != dlpack::kCpu || dtype.lanes != 1 || dtype.bits % 8 != 0 || tensor.ndim > kMaxDimensions ||
        !is_contiguous(tensor) || !is_bare(value)) {
      return false;
    }
    std::size_t size = dtype.bits / 8;
    for (std::int32_t i = 0; i < tensor.ndim; ++i) size *= static_cast<std::size_t>(tensor.shape[i]);
    if (size == 0) return false;
    ++tensors_;

    write_restorer(kTensorRestorer, tensor_restorer_);
    std::string header;
    const TensorHeader head{dtype, tensor.ndim};
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
    if (!visit(value)) return false;
    struct Type;
    struct Name;
    nb::object dtype = nb::steal(PyObject_GetAttr(value, interned<Type>("dtype")));
    nb::object name = nb::steal(dtype.is_valid() ? PyObject_GetAttr(dtype.ptr(), interned<Name>("str")) : nullptr);
    const char* const text_of_name = name.is_valid() ? PyUnicode_AsUTF8(name.ptr()) : nullptr;
    Py_buffer view{};
    // The one dtype of its name: a number, with neither fields nor metadata nor a foreign byte order.
    if (text_of_name == nullptr || !dtype.is(dtype_named(text_of_name)) ||
        PyObject_GetBuffer(value, &view, PyBUF_C_CONTIGUOUS) != 0) {
      PyErr_Clear();
      return false;
    }
    const auto* data = static_cast<const std::byte*>(view.buf);
    const auto size = static_cast<std::size_t>(view.len);
    std::vector<std::int64_t> shape(view.shape, view.shape + view.ndim);
    // As in beeline.tensors.values: what comes from the object store is read-only.
    const bool writable = mode_ != runtime::Mode::kStored && view.readonly == 0;
    PyBuffer_Release(&view);
    if (size == 0 || shape.size() > static_cast<std::size_t>(kMaxDimensions)) return false;
    ++arrays_;

    const std::string_view text(text_of_name);
    write_restorer(kArrayRestorer, array_restorer_);
    std::string header;
    const ArrayHeader head{static_cast<std::int32_t>(shape.size()), static_cast<std::int32_t>(text.size())};
    header.append(reinterpret_cast<const char*>(&head), sizeof head);
    header.append(reinterpret_cast<const char*>(shape.data()), shape.size() * sizeof(std::int64_t));
    header += text;
    write_bytes(header, op::kBytes1, op::kBytes4);
    out_ += op::kNextBuffer;
    extents_.emplace_back(data, size);
    tree_.buffers.push_back({data, size, writable});
    tree_.leaves.push_back(nb::borrow(value));
    if (live_) tree_.referred.emplace_back(data, size);
    out_ += op::kTuple2;
    out_ += op::kReduce;
    return true;
  }

  // False where a container or leaf comes by again: what is one on this side must be one on the other.
  bool visit(PyObject* value) { return visited_.insert(value).second; }

  // Whether memory occurs twice.
  bool has_sharing() {
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
  std::unordered_set<PyObject*> visited_;
  std::vector<runtime::Extent> extents_;
};

}  // namespace

bool pickle_tree(nb::handle value, runtime::Mode mode, Tree& tree) {
  if (tensor_type() == nullptr && array_type() == nullptr) return false;
  return TreePickler(mode, tree).run(value.ptr());
}

}  // namespace beeline::python
