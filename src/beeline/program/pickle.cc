#include "beeline/program/pickle.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <deque>
#include <limits>

namespace beeline::program {
namespace {

using api::DType;
using api::Tensor;

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

constexpr int kMaxDepth = 100;
constexpr std::int32_t kMaxDimensions = 64;
constexpr std::string_view kCore = "beeline._core";
constexpr std::string_view kTensorRestorer = "restore_tensor";
constexpr std::string_view kArrayRestorer = "restore_array";

// As in python/src/tree_format.h.
struct TensorHeader {
  DType dtype;
  std::int32_t ndim;
};
static_assert(sizeof(TensorHeader) == 8);
struct ArrayHeader {
  std::int32_t ndim;
  std::int32_t name_size;
};
static_assert(sizeof(ArrayHeader) == 8);

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

// What numpy calls a dtype of numbers in this machine's byte order: "<f4", "|u1".
Result<DType> dtype_named(std::string_view name) {
  const auto unknown = [&] {
    return Status(Code::kUnsupported, "numpy's dtype " + std::string(name) + " has no like in C++");
  };
  if (name.size() < 3 || name.size() > 4 || (name[0] != '<' && name[0] != '|')) return unknown();
  unsigned size = 0;
  for (const char digit : name.substr(2)) {
    if (digit < '0' || digit > '9') return unknown();
    size = size * 10 + static_cast<unsigned>(digit - '0');
  }
  constexpr std::string_view kKinds = "iufc";
  constexpr std::uint8_t kCodes[] = {0, 1, 2, 5};
  if (name[1] == 'b' && size == 1) return api::kBool;
  const auto kind = kKinds.find(name[1]);
  if (kind == std::string_view::npos || size == 0 || size > 16 || !std::has_single_bit(size)) return unknown();
  return DType{kCodes[kind], static_cast<std::uint8_t>(size * 8)};
}

// A thing on the stack of an unpickler. Containers name their parts, which the memo may name as well, and become values
// at the end: a container is memoized before it is filled.
struct Item;
struct Item {
  enum class Kind : std::uint8_t { kLeaf, kList, kTuple, kDict, kRestoresTensor, kRestoresArray, kForeign, kBuffer };
  Kind kind = Kind::kLeaf;
  Value leaf;
  std::vector<Item*> parts;  // of a dict, keys and values in turn
  std::string name;          // kForeign: "module.name"
  std::size_t buffer = 0;    // kBuffer
  bool is_being_read = false;
};

// A small pickle can describe a huge value, by naming the same part again and again.
constexpr std::size_t kMaxRepeated = 1'000'000;
constexpr int kMaxReadDepth = 1000;

class Unpickler {
 public:
  Unpickler(std::string_view text, const std::vector<BufferView>& buffers) : rest_(text), buffers_(buffers) {}

  Result<Value> run() {
    std::uint8_t op = 0;
    while (take(op)) {
      if (op == kStop) {
        return stack_.size() == 1 ? value_of(*stack_.front(), 0) : corrupt();
      }
      BEELINE_RETURN_IF_ERROR(step(op));
    }
    return corrupt();
  }

 private:
  static Status corrupt() { return {Code::kCorrupt, "a pickle that ends early or does not add up"}; }

  template <typename T>
  bool take(T& value) {
    if (rest_.size() < sizeof value) return false;
    std::memcpy(&value, rest_.data(), sizeof value);
    rest_.remove_prefix(sizeof value);
    return true;
  }
  template <typename Size>
  Result<std::string_view> take_sized() {
    Size size = 0;
    if (!take(size) || rest_.size() < size) return corrupt();
    const auto taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }
  Result<std::string_view> take_line() {
    const auto end = rest_.find('\n');
    if (end == std::string_view::npos) return corrupt();
    const auto line = rest_.substr(0, end);
    rest_.remove_prefix(end + 1);
    return line;
  }

  Status push(Item item) {
    stack_.push_back(&items_.emplace_back(std::move(item)));
    return {};
  }
  Status push(Item::Kind kind) {
    Item item;
    item.kind = kind;
    return push(std::move(item));
  }
  Status push(Value leaf) {
    Item item;
    item.leaf = std::move(leaf);
    return push(std::move(item));
  }
  template <typename T>
  Status push_number() {
    T number{};
    return take(number) ? push(Value(static_cast<std::int64_t>(number))) : corrupt();
  }
  template <typename Size, typename Held>
  Status push_bytes() {
    BEELINE_ASSIGN(const auto bytes, take_sized<Size>());
    return push(Value(Held{std::string(bytes)}));
  }

  Status step(std::uint8_t op) {
    switch (op) {
      case kProtocol: {
        std::uint8_t version = 0;
        return take(version) ? Status() : corrupt();
      }
      case kFrame: {
        std::uint64_t size = 0;
        return take(size) ? Status() : corrupt();
      }
      case kNone:
        return push(Value());
      case kTrue:
      case kFalse:
        return push(Value(op == kTrue));
      case kInt4:
        return push_number<std::int32_t>();
      case kInt2:
        return push_number<std::uint16_t>();
      case kInt1:
        return push_number<std::uint8_t>();
      case kLong1:
        return push_long();
      case kFloat: {
        std::uint64_t bits = 0;
        return take(bits) ? push(Value(std::bit_cast<double>(__builtin_bswap64(bits)))) : corrupt();
      }
      case kText1:
        return push_bytes<std::uint8_t, std::string>();
      case kText4:
        return push_bytes<std::uint32_t, std::string>();
      case kText8:
        return push_bytes<std::uint64_t, std::string>();
      case kBytes1:
        return push_bytes<std::uint8_t, Blob>();
      case kBytes4:
        return push_bytes<std::uint32_t, Blob>();
      case kBytes8:
      case kByteArray8:
        return push_bytes<std::uint64_t, Blob>();
      case kMark:
        marks_.push_back(stack_.size());
        return {};
      case kMemoize:
        if (stack_.empty()) return corrupt();
        memo_.push_back(stack_.back());
        return {};
      case kGet1:
        return get<std::uint8_t>();
      case kGet4:
        return get<std::uint32_t>();
      default:
        return step_into_container(op);
    }
  }

  Status step_into_container(std::uint8_t op) {
    switch (op) {
      case kEmptyList:
        return push(Item::Kind::kList);
      case kEmptyDict:
        return push(Item::Kind::kDict);
      case kEmptyTuple:
        return push(Item::Kind::kTuple);
      case kTuple1:
      case kTuple2:
      case kTuple3:
        return make_tuple(op - kTuple1 + 1u);
      case kTuple:
      case kAppends:
      case kSetItems: {
        if (marks_.empty() || marks_.back() > stack_.size()) return corrupt();
        const std::size_t count = stack_.size() - marks_.back();
        marks_.pop_back();
        return op == kTuple ? make_tuple(count) : fill(op == kAppends ? Item::Kind::kList : Item::Kind::kDict, count);
      }
      case kAppend:
        return fill(Item::Kind::kList, 1);
      case kSetItem:
        return fill(Item::Kind::kDict, 2);
      case kGlobal: {
        BEELINE_ASSIGN(const auto module, take_line());
        BEELINE_ASSIGN(const auto name, take_line());
        return push_global(module, name);
      }
      case kStackGlobal: {
        if (stack_.size() < 2) return corrupt();
        const Item* const name = pop();
        const Item* const module = pop();
        if (name->leaf.as<std::string>() == nullptr || module->leaf.as<std::string>() == nullptr) return corrupt();
        return push_global(*module->leaf.as<std::string>(), *name->leaf.as<std::string>());
      }
      case kReduce:
        return reduce();
      case kNextBuffer:
        if (next_buffer_ >= buffers_.size()) return corrupt();
        {
          Item item;
          item.kind = Item::Kind::kBuffer;
          item.buffer = next_buffer_++;
          return push(std::move(item));
        }
      case kReadOnlyBuffer:
        return stack_.empty() ? corrupt() : Status();
      default:
        // Instances, persistent ids, protocols before 2: nothing that a plain value needs.
        return {Code::kUnsupported, "the value is more than numbers, text, containers and tensors (pickle's opcode " +
                                        std::to_string(op) + ")"};
    }
  }

  Item* pop() {
    Item* const item = stack_.back();
    stack_.pop_back();
    return item;
  }

  // Of any length in a pickle; here as far as 64 bits go.
  Status push_long() {
    BEELINE_ASSIGN(const auto bytes, take_sized<std::uint8_t>());
    if (bytes.size() > sizeof(std::int64_t)) {
      return {Code::kUnsupported, "an integer of " + std::to_string(bytes.size()) + " bytes does not fit into 64 bits"};
    }
    std::uint64_t number = !bytes.empty() && (bytes.back() & 0x80) != 0 ? ~std::uint64_t{0} : 0;
    std::memcpy(&number, bytes.data(), bytes.size());
    return push(Value(static_cast<std::int64_t>(number)));
  }

  template <typename Index>
  Status get() {
    Index index = 0;
    if (!take(index) || index >= memo_.size()) return corrupt();
    stack_.push_back(memo_[index]);
    return {};
  }

  static Status foreign(const std::string& name) {
    return {Code::kUnsupported, "the value needs Python's " + name +
                                    "; C++ takes numbers, text, bytes, containers of them, and contiguous tensors and "
                                    "arrays"};
  }

  Result<Value> value_of(Item& item, int depth) {
    if (item.is_being_read) return Status(Code::kUnsupported, "the value contains itself");
    if (depth > kMaxReadDepth) return Status(Code::kUnsupported, "the value is nested more than 1000 deep");
    if (++values_ > items_.size() + kMaxRepeated) {
      return Status(Code::kResourceExhausted, "the value names parts of its own again more than 1,000,000 times");
    }
    if (item.kind == Item::Kind::kLeaf) return item.leaf;
    if (item.kind == Item::Kind::kForeign) return foreign(item.name);
    if (item.kind > Item::Kind::kDict) return corrupt();
    item.is_being_read = true;
    std::vector<Value> parts;
    parts.reserve(item.parts.size());
    for (Item* const part : item.parts) {
      BEELINE_ASSIGN(auto value, value_of(*part, depth + 1));
      parts.push_back(std::move(value));
    }
    item.is_being_read = false;
    if (item.kind == Item::Kind::kList) return Value(std::move(parts));
    if (item.kind == Item::Kind::kTuple) return Value(Tuple{std::move(parts)});
    Dict dict;
    for (std::size_t i = 0; i + 1 < parts.size(); i += 2)
      dict.emplace_back(std::move(parts[i]), std::move(parts[i + 1]));
    return Value(std::move(dict));
  }

  Status take_parts(std::size_t count, std::vector<Item*>& parts) {
    if (stack_.size() < count) return corrupt();
    const auto first = stack_.end() - static_cast<std::ptrdiff_t>(count);
    parts.insert(parts.end(), first, stack_.end());
    stack_.erase(first, stack_.end());
    return {};
  }

  Status make_tuple(std::size_t count) {
    // The arguments of a restorer may be a buffer: looked at by reduce().
    if (count == 2 && stack_.size() >= 3 && is_restorer(*stack_[stack_.size() - 3])) {
      arguments_[1] = pop();
      arguments_[0] = pop();
      has_arguments_ = true;
      return {};
    }
    Item tuple;
    tuple.kind = Item::Kind::kTuple;
    BEELINE_RETURN_IF_ERROR(take_parts(count, tuple.parts));
    return push(std::move(tuple));
  }

  // What came last, into the container below it.
  Status fill(Item::Kind kind, std::size_t count) {
    if (stack_.size() <= count || (kind == Item::Kind::kDict && count % 2 != 0)) return corrupt();
    Item& container = *stack_[stack_.size() - 1 - count];
    if (container.kind != kind) return corrupt();
    return take_parts(count, container.parts);
  }

  static bool is_restorer(const Item& item) {
    return item.kind == Item::Kind::kRestoresTensor || item.kind == Item::Kind::kRestoresArray;
  }
  Status push_global(std::string_view module, std::string_view name) {
    Item item;
    item.kind = module != kCore           ? Item::Kind::kForeign
                : name == kTensorRestorer ? Item::Kind::kRestoresTensor
                : name == kArrayRestorer  ? Item::Kind::kRestoresArray
                                          : Item::Kind::kForeign;
    item.name = std::string(module) + "." + std::string(name);
    return push(std::move(item));
  }

  Status reduce() {
    if (!has_arguments_) {
      if (stack_.size() < 2) return corrupt();
      const Item& callee = *stack_[stack_.size() - 2];
      return callee.kind == Item::Kind::kForeign ? foreign(callee.name) : corrupt();
    }
    has_arguments_ = false;
    if (stack_.empty()) return corrupt();
    const Item* const callee = pop();
    const Blob* header = arguments_[0]->leaf.as<Blob>();
    if (header == nullptr) return corrupt();
    BufferView bytes;
    if (arguments_[1]->kind == Item::Kind::kBuffer) {
      bytes = buffers_[arguments_[1]->buffer];
    } else if (const Blob* small = arguments_[1]->leaf.as<Blob>()) {
      const std::shared_ptr<std::byte[]> memory(new std::byte[std::max<std::size_t>(small->bytes.size(), 1)]);
      std::memcpy(memory.get(), small->bytes.data(), small->bytes.size());
      bytes = {{memory.get(), small->bytes.size()}, memory};
    } else {
      return corrupt();
    }
    return push_tensor(header->bytes, callee->kind == Item::Kind::kRestoresArray, std::move(bytes));
  }

  Status push_tensor(std::string_view header, bool is_array, BufferView bytes) {
    std::int32_t ndim = 0;
    std::size_t name_size = 0;
    Tensor tensor;
    if (header.size() < sizeof(TensorHeader)) return corrupt();
    if (is_array) {
      ArrayHeader head{};
      std::memcpy(&head, header.data(), sizeof head);
      if (head.name_size < 0) return corrupt();
      ndim = head.ndim;
      name_size = static_cast<std::size_t>(head.name_size);
    } else {
      TensorHeader head{};
      std::memcpy(&head, header.data(), sizeof head);
      ndim = head.ndim;
      tensor.dtype = head.dtype;
    }
    if (ndim < 0 || ndim > kMaxDimensions) return corrupt();
    const std::size_t lengths = static_cast<std::size_t>(ndim) * sizeof(std::int64_t);
    if (header.size() != sizeof(TensorHeader) + lengths + name_size) return corrupt();
    tensor.shape.resize(static_cast<std::size_t>(ndim));
    std::memcpy(tensor.shape.data(), header.data() + sizeof(TensorHeader), lengths);
    if (is_array) {
      BEELINE_ASSIGN(tensor.dtype, dtype_named(header.substr(sizeof(TensorHeader) + lengths)));
    }
    std::size_t size = tensor.dtype.bits / 8;
    for (const auto length : tensor.shape) {
      if (length < 0 || __builtin_mul_overflow(size, static_cast<std::size_t>(length), &size)) return corrupt();
    }
    if (size != bytes.bytes.size()) return corrupt();
    tensor.data = bytes.bytes.data();
    tensor.memory = std::move(bytes.memory);
    return push(Value(std::move(tensor)));
  }

  std::string_view rest_;
  const std::vector<BufferView>& buffers_;
  std::size_t next_buffer_ = 0;
  std::deque<Item> items_;  // all there are; they may name each other in circles
  std::vector<Item*> stack_;
  std::vector<std::size_t> marks_;
  std::vector<Item*> memo_;
  std::size_t values_ = 0;
  Item* arguments_[2] = {};  // of the restorer on top of the stack
  bool has_arguments_ = false;
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

Result<Value> unpickle(std::string_view skeleton, const std::vector<BufferView>& buffers) {
  return Unpickler(skeleton, buffers).run();
}

}  // namespace beeline::program
