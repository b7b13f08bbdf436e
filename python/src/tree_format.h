// The pickles that trees.h describes: which opcodes they use, how their leaves look, and what torch and numpy know of
// those.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "dlpack.h"
#include "session.h"

namespace beeline::python {

// Pickle's opcodes (protocol 5): https://docs.python.org/3/library/pickletools.html
namespace op {
inline constexpr char kNone = 'N', kTrue = '\x88', kFalse = '\x89', kFloat = 'G', kStop = '.';
inline constexpr char kInt4 = 'J', kLong1 = '\x8a';
inline constexpr char kText1 = '\x8c', kText4 = 'X', kBytes1 = 'C', kBytes4 = 'B';
inline constexpr char kMark = '(', kTuple = 't', kEmptyTuple = ')', kEmptyList = ']', kAppends = 'e', kEmptyDict = '}',
                      kSetItems = 'u';
inline constexpr char kGlobal = 'c', kMemoize = '\x94', kGet1 = 'h', kReduce = 'R', kTuple2 = '\x86',
                      kNextBuffer = '\x97';
inline constexpr std::string_view kProtocol("\x80\x05", 2);
}  // namespace op

// The functions by which a pickle names what restores its leaves.
inline constexpr std::string_view kModule = "beeline._core", kTensorRestorer = "restore_tensor",
                                  kArrayRestorer = "restore_array";
inline constexpr std::int32_t kMaxDimensions = 64;

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

// torch.Tensor and numpy.ndarray, borrowed; null until the program has imported them.
PyObject* tensor_type();
PyObject* array_type();
// How torch exchanges tensors; null where it has no such interface. Only once there is a tensor_type().
const dlpack::ExchangeApi* exchange();
// numpy's dtype of that name ("<f4"); null where it has none, or one of Python objects.
nb::object dtype_named(const std::string& name);

}  // namespace beeline::python
