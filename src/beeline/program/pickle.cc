#include "beeline/program/pickle.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "beeline/program/pickle_format.h"

namespace beeline::program {
namespace {

using api::Tensor;

constexpr int kMaxDepth = 100;

std::vector<std::int64_t> row_major(const std::vector<std::int64_t>& shape) {
  std::vector<std::int64_t> strides(shape.size());
  std::int64_t step = 1;
  for (std::size_t i = shape.size(); i-- > 0;) {
    strides[i] = step;
    step *= shape[i];
  }
  return strides;
}

bool has_gaps(const Tensor& tensor) {
  if (tensor.strides.empty()) return false;
  const auto dense = row_major(tensor.shape);
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
    if (tensor.shape[i] > 1 && tensor.strides[i] != dense[i]) return true;
  }
  return false;
}

// Row-major, in memory of its own.
Tensor without_gaps(const Tensor& tensor) {
  const std::size_t element = tensor.dtype.bits / 8;
  const std::shared_ptr<std::byte[]> memory(new std::byte[std::max<std::size_t>(tensor.bytes(), 1)]);
  Tensor dense{memory.get(), tensor.dtype, tensor.shape, {}, memory};
  std::vector<std::int64_t> index(tensor.shape.size());
  std::byte* out = memory.get();
  for (std::size_t left = tensor.elements(); left > 0; --left, out += element) {
    std::int64_t offset = 0;
    for (std::size_t i = 0; i < index.size(); ++i) offset += index[i] * tensor.strides[i];
    std::memcpy(out, tensor.data + offset * static_cast<std::int64_t>(element), element);
    for (std::size_t i = index.size(); i-- > 0;) {
      if (++index[i] < tensor.shape[i]) break;
      index[i] = 0;
    }
  }
  return dense;
}

class Pickler {
 public:
  Result<Pickled> run(const Value& value) {
    put(kProtocol);
    out_ += '\5';
    BEELINE_RETURN_IF_ERROR(write(value, 0));
    put(kStop);
    return Pickled{std::move(out_), std::move(buffers_)};
  }

 private:
  void put(Op op) { out_ += static_cast<char>(op); }
  template <typename T>
  void raw(const T& value) {
    static_assert(std::endian::native == std::endian::little);
    out_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }

  Status write(const Value& value, int depth) {
    if (depth > kMaxDepth) return {Code::kInvalidArgument, "a value is nested more than 100 deep"};
    return std::visit([&](const auto& held) { return write_held(held, depth); }, value.held());
  }

  Status write_held(std::monostate, int) {
    put(kNone);
    return {};
  }
  Status write_held(bool value, int) {
    put(value ? kTrue : kFalse);
    return {};
  }
  Status write_held(std::int64_t value, int) {
    if (value >= INT32_MIN && value <= INT32_MAX) {
      put(kInt4);
      raw(static_cast<std::int32_t>(value));
    } else {
      put(kLong1);
      out_ += '\10';
      raw(value);
    }
    return {};
  }
  Status write_held(double value, int) {
    put(kFloat);
    raw(__builtin_bswap64(std::bit_cast<std::uint64_t>(value)));
    return {};
  }
  Status write_held(const std::string& text, int) {
    write_sized(text, kText1, kText4, kText8);
    return {};
  }
  Status write_held(const Blob& blob, int) {
    write_sized(blob.bytes, kBytes1, kBytes4, kBytes8);
    return {};
  }
  void write_sized(std::string_view bytes, Op small, Op large, Op huge) {
    if (bytes.size() < 256) {
      put(small);
      raw(static_cast<std::uint8_t>(bytes.size()));
    } else if (bytes.size() <= std::numeric_limits<std::uint32_t>::max()) {
      put(large);
      raw(static_cast<std::uint32_t>(bytes.size()));
    } else {
      put(huge);
      raw(static_cast<std::uint64_t>(bytes.size()));
    }
    out_ += bytes;
  }
  Status write_held(const List& list, int depth) {
    put(kEmptyList);
    if (list.empty()) return {};
    put(kMark);
    for (const auto& item : list) BEELINE_RETURN_IF_ERROR(write(item, depth + 1));
    put(kAppends);
    return {};
  }
  Status write_held(const Tuple& tuple, int depth) {
    if (tuple.items.empty()) {
      put(kEmptyTuple);
      return {};
    }
    put(kMark);
    for (const auto& item : tuple.items) BEELINE_RETURN_IF_ERROR(write(item, depth + 1));
    put(kTuple);
    return {};
  }
  Status write_held(const Dict& dict, int depth) {
    put(kEmptyDict);
    if (dict.empty()) return {};
    put(kMark);
    for (const auto& [key, item] : dict) {
      BEELINE_RETURN_IF_ERROR(write(key, depth + 1));
      BEELINE_RETURN_IF_ERROR(write(item, depth + 1));
    }
    put(kSetItems);
    return {};
  }

  // beeline._core.restore_tensor(header, bytes)
  Status write_held(const Tensor& given, int) {
    if (given.shape.size() > static_cast<std::size_t>(kMaxDimensions)) {
      return {Code::kInvalidArgument, "a tensor has more than 64 dimensions"};
    }
    if (given.dtype.lanes != 1 || given.dtype.bits % 8 != 0) {
      return {Code::kInvalidArgument, "a tensor's elements are not of whole bytes"};
    }
    const Tensor tensor = has_gaps(given) ? without_gaps(given) : given;
    if (is_restorer_known_) {
      put(kGet1);
      out_ += '\0';
    } else {
      put(kGlobal);
      (out_ += kCore) += '\n';
      (out_ += kTensorRestorer) += '\n';
      put(kMemoize);
      is_restorer_known_ = true;
    }
    std::string header;
    const TensorHeader head{tensor.dtype, static_cast<std::int32_t>(tensor.shape.size())};
    header.append(reinterpret_cast<const char*>(&head), sizeof head);
    header.append(reinterpret_cast<const char*>(tensor.shape.data()), tensor.shape.size() * sizeof(std::int64_t));
    write_sized(header, kBytes1, kBytes4, kBytes8);
    if (tensor.bytes() <= kInlineTensorBytes) {
      write_sized({reinterpret_cast<const char*>(tensor.data), tensor.bytes()}, kBytes1, kBytes4, kBytes8);
    } else {
      put(kNextBuffer);
      buffers_.push_back(tensor);
    }
    put(kTuple2);
    put(kReduce);
    return {};
  }

  std::string out_;
  std::vector<Tensor> buffers_;
  bool is_restorer_known_ = false;
};

}  // namespace

Result<Pickled> pickle(const Value& value) {
  return Pickler().run(value);
}

std::string pickle_call(std::string_view module, std::string_view name, std::string_view text) {
  std::string out("\x80\x05", 2);
  out += static_cast<char>(kGlobal);
  ((out += module) += '\n') += name;
  out += '\n';
  out += static_cast<char>(kText4);
  const auto size = static_cast<std::uint32_t>(text.size());
  out.append(reinterpret_cast<const char*>(&size), sizeof size);
  out += text;
  out += static_cast<char>(kTuple1);
  out += static_cast<char>(kReduce);
  out += static_cast<char>(kStop);
  return out;
}

}  // namespace beeline::program
