// Values as pickles, which Python writes and reads with nothing but its own pickle. What only Python understands
// (instances of classes, functions) is refused by name.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "beeline/base/status.h"
#include "beeline/program/value.h"

namespace beeline::program {

struct Pickled {
  std::string skeleton;
  std::vector<api::Tensor> buffers;  // of tensors beyond kInlineTensorBytes, row-major without gaps
};

// Tensors of up to this size lie in the skeleton.
inline constexpr std::size_t kInlineTensorBytes = 1024;

// A tensor with gaps is copied. kInvalidArgument for what is nested too deeply, or too long for one string.
Result<Pickled> pickle(const Value& value);
// A call of an importable function or class of Python with one text, as a pickle by itself.
std::string pickle_call(std::string_view module, std::string_view name, std::string_view text);

// The bytes of a buffer, and what keeps them.
struct BufferView {
  std::span<std::byte> bytes;
  std::shared_ptr<void> memory;
};
// Tensors are views of `buffers`. kUnsupported for what C++ cannot hold, with its Python name; kCorrupt for what is no
// pickle.
Result<Value> unpickle(std::string_view skeleton, const std::vector<BufferView>& buffers);

}  // namespace beeline::program
