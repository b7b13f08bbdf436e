// What pickles are made of, for pickle.cc, which writes them, and unpickle.cc, which reads them.
#pragma once

#include <cstdint>
#include <string_view>

#include "beeline/api/tensor.h"

namespace beeline::program {

// Pickle's opcodes: https://docs.python.org/3/library/pickletools.html
enum Op : unsigned char {
  kProtocol = 0x80,
  kFrame = 0x95,
  kStop = '.',
  kNone = 'N',
  kTrue = 0x88,
  kFalse = 0x89,
  kInt4 = 'J',
  kInt1 = 'K',
  kInt2 = 'M',
  kLong1 = 0x8a,
  kFloat = 'G',
  kText1 = 0x8c,
  kText4 = 'X',
  kText8 = 0x8d,
  kBytes1 = 'C',
  kBytes4 = 'B',
  kBytes8 = 0x8e,
  kByteArray8 = 0x96,
  kEmptyList = ']',
  kAppend = 'a',
  kAppends = 'e',
  kEmptyTuple = ')',
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kTuple = 't',
  kEmptyDict = '}',
  kSetItem = 's',
  kSetItems = 'u',
  kMark = '(',
  kMemoize = 0x94,
  kGet1 = 'h',
  kGet4 = 'j',
  kGlobal = 'c',
  kStackGlobal = 0x93,
  kReduce = 'R',
  kNextBuffer = 0x97,
  kReadOnlyBuffer = 0x98,
};

inline constexpr std::int32_t kMaxDimensions = 64;
inline constexpr std::string_view kCore = "beeline._core";
inline constexpr std::string_view kTensorRestorer = "restore_tensor";
inline constexpr std::string_view kArrayRestorer = "restore_array";

// As in python/src/tree_format.h.
struct TensorHeader {
  api::DType dtype;
  std::int32_t ndim;
};
static_assert(sizeof(TensorHeader) == 8);
struct ArrayHeader {
  std::int32_t ndim;
  std::int32_t name_size;
};
static_assert(sizeof(ArrayHeader) == 8);

}  // namespace beeline::program
