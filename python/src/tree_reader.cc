// Reading what trees.cc has written: by pickle, which calls restore_tensor and restore_array, or without it.
#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "local_tensors.h"
#include "tree_format.h"
#include "trees.h"
#include "values.h"

namespace beeline::python {
namespace {

[[noreturn]] void raise_corrupt(const char* what) {
  throw nb::value_error((std::string(what) + ": the value's description does not fit its bytes").c_str());
}

// The bytes that the elements take; raises where that is no size.
std::size_t size_of(const std::int64_t* shape, std::int32_t ndim, std::size_t element_size, const char* what) {
  std::size_t size = element_size;
  for (std::int32_t i = 0; i < ndim; ++i) {
    if (shape[i] < 0 || __builtin_mul_overflow(size, static_cast<std::size_t>(shape[i]), &size)) raise_corrupt(what);
  }
  return size;
}

// In a thread that replaces tensors while it loads a value (set_target_for_ref): called with each.
thread_local nb::object* on_tensor = nullptr;

nb::object make_tensor(std::string_view header, const View& bytes) {
  constexpr const char* kWhat = "restore a tensor";
  TensorHeader head{};
  if (header.size() < sizeof head) raise_corrupt(kWhat);
  std::memcpy(&head, header.data(), sizeof head);
  if (head.ndim < 0 || head.ndim > kMaxDimensions ||
      header.size() != sizeof head + static_cast<std::size_t>(head.ndim) * sizeof(std::int64_t)) {
    raise_corrupt(kWhat);
  }
  const auto ndim = static_cast<std::size_t>(head.ndim);
  std::vector<std::int64_t> shape(ndim);
  if (ndim > 0) std::memcpy(shape.data(), header.data() + sizeof head, ndim * sizeof(std::int64_t));
  const bool is_known = head.dtype.lanes == 1 && head.dtype.bits % 8 == 0 && std::has_single_bit(head.dtype.bits);
  if (!is_known || size_of(shape.data(), head.ndim, head.dtype.bits / 8, kWhat) != bytes.size) {
    raise_corrupt(kWhat);
  }
  nb::object tensor = import_tensor(head.dtype, shape, {}, bytes.data, bytes.keep_alive);
  return on_tensor == nullptr ? tensor : (*on_tensor)(tensor);
}

// `exporter` gives the bytes by the buffer protocol.
nb::object make_array(std::string_view header, nb::handle exporter) {
  constexpr const char* kWhat = "restore an array";
  ArrayHeader head{};
  if (header.size() < sizeof head) raise_corrupt(kWhat);
  std::memcpy(&head, header.data(), sizeof head);
  if (head.ndim < 0 || head.ndim > kMaxDimensions || head.name_size < 0 ||
      header.size() != sizeof head + static_cast<std::size_t>(head.ndim) * sizeof(std::int64_t) +
                           static_cast<std::size_t>(head.name_size)) {
    raise_corrupt(kWhat);
  }
  if (array_type() == nullptr) nb::module_::import_("numpy");
  nb::object shape = nb::steal(PyTuple_New(head.ndim));
  const char* at = header.data() + sizeof head;
  for (std::int32_t i = 0; i < head.ndim; ++i, at += sizeof(std::int64_t)) {
    std::int64_t length = 0;
    std::memcpy(&length, at, sizeof length);
    PyTuple_SET_ITEM(shape.ptr(), i, PyLong_FromLongLong(length));
  }
  const nb::object dtype = dtype_named(std::string(at, static_cast<std::size_t>(head.name_size)));
  if (!dtype.is_valid()) raise_corrupt(kWhat);
  PyObject* arguments[] = {shape.ptr(), dtype.ptr(), exporter.ptr()};
  nb::object array = nb::steal(PyObject_Vectorcall(array_type(), arguments, 3, nullptr));
  if (!array.is_valid()) throw nb::python_error();
  return array;
}

std::string_view view_of_bytes(const nb::bytes& bytes) {
  return {bytes.c_str(), bytes.size()};
}

// As pickle calls it: `buffer` is a memoryview of a View, or bytes, which are copied.
nb::object restore_tensor(nb::bytes header, nb::handle buffer) {
  if (PyBytes_CheckExact(buffer.ptr())) {
    return make_tensor(view_of_bytes(header), copy_of(view_of_bytes(nb::borrow<nb::bytes>(buffer)), true));
  }
  Py_buffer* const exported = PyMemoryView_Check(buffer.ptr()) ? PyMemoryView_GET_BUFFER(buffer.ptr()) : nullptr;
  View* view = nullptr;
  if (exported == nullptr || exported->obj == nullptr || !nb::try_cast(nb::handle(exported->obj), view)) {
    raise_corrupt("restore a tensor");
  }
  return make_tensor(view_of_bytes(header), *view);
}

nb::object restore_array(nb::bytes header, nb::handle buffer) {
  if (!PyMemoryView_Check(buffer.ptr())) raise_corrupt("restore an array");
  return make_array(view_of_bytes(header), buffer);
}

// Calls load() while every tensor that this thread restores goes through `replace`.
nb::object replacing_tensors(nb::object replace, nb::object load) {
  struct Restore {
    nb::object* before;
    ~Restore() { on_tensor = before; }
  } restore{std::exchange(on_tensor, &replace)};
  return load();
}

// Gives up at the first thing that TreePickler does not write.
class TreeReader {
 public:
  TreeReader(std::string_view skeleton, std::span<const View> buffers) : rest_(skeleton), buffers_(buffers) {}

  nb::object run() {
    if (!rest_.starts_with(op::kProtocol)) return {};
    rest_.remove_prefix(op::kProtocol.size());
    char code = 0;
    while (take(code)) {
      if (code == op::kStop) {
        if (stack_.size() != 1 || !marks_.empty() || !rest_.empty()) return {};
        return std::move(stack_.front());
      }
      if (!step(code)) break;
    }
    PyErr_Clear();
    return {};
  }

 private:
  enum class Leaf : std::uint8_t { kTensor, kArray };

  template <typename Value>
  bool take(Value& value) {
    if (rest_.size() < sizeof value) return false;
    std::memcpy(&value, rest_.data(), sizeof value);
    rest_.remove_prefix(sizeof value);
    return true;
  }
  bool take(std::size_t size, std::string_view& out) {
    if (rest_.size() < size) return false;
    out = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return true;
  }
  template <typename Size>
  bool take_sized(std::string_view& out) {
    Size size = 0;
    return take(size) && take(size, out);
  }
  bool take_line(std::string_view expected) {
    if (!rest_.starts_with(expected) || rest_.size() == expected.size() || rest_[expected.size()] != '\n') return false;
    rest_.remove_prefix(expected.size() + 1);
    return true;
  }
  // True for an object; false, with an error set, for null.
  bool push(PyObject* made) {
    stack_.push_back(nb::steal(made));
    return made != nullptr;
  }

  bool step(char code) {
    std::string_view text;
    switch (code) {
      case op::kNone:
        return push(Py_NewRef(Py_None));
      case op::kTrue:
        return push(Py_NewRef(Py_True));
      case op::kFalse:
        return push(Py_NewRef(Py_False));
      case op::kInt4: {
        std::int32_t number = 0;
        return take(number) && push(PyLong_FromLong(number));
      }
      case op::kLong1: {
        std::uint8_t size = 0;
        long long number = 0;
        return take(size) && size == sizeof number && take(number) && push(PyLong_FromLongLong(number));
      }
      case op::kFloat: {
        std::uint64_t bits = 0;
        return take(bits) && push(PyFloat_FromDouble(std::bit_cast<double>(__builtin_bswap64(bits))));
      }
      case op::kText1:
        return take_sized<std::uint8_t>(text) && push_text(text);
      case op::kText4:
        return take_sized<std::uint32_t>(text) && push_text(text);
      case op::kBytes1:
      case op::kBytes4:
        return take_bytes(code, text) &&
               push(PyBytes_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
      case op::kMark:
        marks_.push_back(stack_.size());
        return true;
      case op::kEmptyTuple:
        return push(PyTuple_New(0));
      case op::kEmptyList:
        return push(PyList_New(0));
      case op::kEmptyDict:
        return push(PyDict_New());
      case op::kTuple:
      case op::kAppends:
      case op::kSetItems:
        return close(code);
      case op::kGlobal:
      case op::kGet1:
        return read_leaf(code);
      default:
        return false;
    }
  }

  bool push_text(std::string_view text) {
    return push(PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "strict"));
  }
  bool take_bytes(char code, std::string_view& out) {
    return code == op::kBytes1 ? take_sized<std::uint8_t>(out) : code == op::kBytes4 && take_sized<std::uint32_t>(out);
  }

  // Puts what came since the last mark into a tuple, or into the list or dict below it.
  bool close(char code) {
    if (marks_.empty()) return false;
    const std::size_t mark = marks_.back();
    marks_.pop_back();
    const std::size_t count = stack_.size() - mark;
    if (code == op::kTuple) {
      PyObject* const tuple = PyTuple_New(static_cast<Py_ssize_t>(count));
      if (tuple == nullptr) return false;
      for (std::size_t i = 0; i < count; ++i) {
        PyTuple_SET_ITEM(tuple, static_cast<Py_ssize_t>(i), stack_[mark + i].release().ptr());
      }
      stack_.resize(mark);
      return push(tuple);
    }
    if (mark == 0) return false;
    PyObject* const container = stack_[mark - 1].ptr();
    if (code == op::kAppends) {
      if (!PyList_CheckExact(container)) return false;
      for (std::size_t i = mark; i < stack_.size(); ++i) {
        if (PyList_Append(container, stack_[i].ptr()) != 0) return false;
      }
    } else {
      if (!PyDict_CheckExact(container) || count % 2 != 0) return false;
      for (std::size_t i = mark; i < stack_.size(); i += 2) {
        if (PyDict_SetItem(container, stack_[i].ptr(), stack_[i + 1].ptr()) != 0) return false;
      }
    }
    stack_.resize(mark);
    return true;
  }

  // A call of a restorer, from its name to its result.
  bool read_leaf(char code) {
    Leaf leaf{};
    std::uint8_t place = 0;
    if (code == op::kGet1) {
      if (!take(place) || place >= memo_.size()) return false;
      leaf = memo_[place];
    } else {
      if (!take_line(kModule)) return false;
      if (take_line(kTensorRestorer)) {
        leaf = Leaf::kTensor;
      } else if (take_line(kArrayRestorer)) {
        leaf = Leaf::kArray;
      } else {
        return false;
      }
      char memoize = 0;
      if (!take(memoize) || memoize != op::kMemoize) return false;
      memo_.push_back(leaf);
    }
    std::string_view header;
    std::string_view small;
    char kind = 0;
    if (!take(kind) || !take_bytes(kind, header) || !take(kind)) return false;
    const bool is_buffer = kind == op::kNextBuffer;
    if (is_buffer ? next_buffer_ >= buffers_.size() : leaf == Leaf::kArray || !take_bytes(kind, small)) return false;
    char tuple = 0;
    char reduce = 0;
    if (!take(tuple) || tuple != op::kTuple2 || !take(reduce) || reduce != op::kReduce) return false;
    const View bytes = is_buffer ? buffers_[next_buffer_++] : copy_of(small, true);
    if (leaf == Leaf::kTensor) {
      stack_.push_back(make_tensor(header, bytes));
    } else {
      stack_.push_back(make_array(header, nb::cast(new View(bytes), nb::rv_policy::take_ownership)));
    }
    return true;
  }

  std::string_view rest_;
  std::span<const View> buffers_;
  std::size_t next_buffer_ = 0;
  std::vector<nb::object> stack_;
  std::vector<std::size_t> marks_;
  std::vector<Leaf> memo_;
};

}  // namespace

nb::object unpickle_tree(std::string_view skeleton, std::span<const View> buffers) {
  return TreeReader(skeleton, buffers).run();
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
  m.def("unpickle_tree", [](nb::bytes skeleton, nb::list buffers) -> nb::object {
    std::vector<View> views;
    for (nb::handle buffer : buffers) {
      views.push_back(copy_of(view_of_bytes(nb::cast<nb::bytes>(buffer[0])), nb::cast<bool>(buffer[1])));
    }
    nb::object value = unpickle_tree(view_of_bytes(skeleton), views);
    return value.is_valid() ? nb::object(nb::make_tuple(value)) : nb::none();
  });
  m.def("restore_tensor", &restore_tensor);
  m.def("restore_array", &restore_array);
  m.def("replacing_tensors", &replacing_tensors);
}

}  // namespace beeline::python
