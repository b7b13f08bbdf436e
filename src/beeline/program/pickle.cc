#include "beeline/program/pickle.h"

#include <algorithm>
#include <bit>
#include <cstring>
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

// A thing on the stack of an unpickler: a value, or one of what only a pickle knows.
struct Item {
  enum class Kind : std::uint8_t { kValue, kTensorRestorer, kArrayRestorer, kForeign, kBuffer };
  Kind kind = Kind::kValue;
  Value value;
  std::string name;        // kForeign: "module.name"
  std::size_t buffer = 0;  // kBuffer
};
// Shared with the memo: a container is filled after it was memoized.
using ItemPtr = std::shared_ptr<Item>;

// A small pickle can describe a huge value, by naming the same part again and again.
constexpr std::size_t kMaxCopies = 10'000'000;

// How many values there are in one, itself included.
std::size_t count_of(const Value& value) {
  std::size_t count = 1;
  if (const auto* items = value.as<Tuple>()) {
    for (const auto& item : items->items) count += count_of(item);
  } else if (const auto* list = value.as<List>()) {
    for (const auto& item : *list) count += count_of(item);
  } else if (const auto* dict = value.as<Dict>()) {
    for (const auto& [key, item] : *dict) count += count_of(key) + count_of(item);
  }
  return count;
}

class Unpickler {
 public:
  Unpickler(std::string_view text, const std::vector<BufferView>& buffers) : rest_(text), buffers_(buffers) {}

  Result<Value> run() {
    std::uint8_t op = 0;
    while (take(op)) {
      if (op == kStop) {
        if (stack_.size() != 1) return corrupt();
        BEELINE_RETURN_IF_ERROR(check_value(*stack_.front()));
        return std::move(stack_.front()->value);
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
    stack_.push_back(std::make_shared<Item>(std::move(item)));
    return {};
  }
  Status push(Value value) { return push(Item{Item::Kind::kValue, std::move(value), {}, 0}); }
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
        return push(Value(List{}));
      case kEmptyDict:
        return push(Value(Dict{}));
      case kEmptyTuple:
        return push(Value(Tuple{}));
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
        return op == kTuple ? make_tuple(count) : op == kAppends ? append(count) : set_items(count);
      }
      case kAppend:
        return append(1);
      case kSetItem:
        return set_items(2);
      case kGlobal: {
        BEELINE_ASSIGN(const auto module, take_line());
        BEELINE_ASSIGN(const auto name, take_line());
        return push_global(module, name);
      }
      case kStackGlobal: {
        if (stack_.size() < 2) return corrupt();
        const ItemPtr name = pop();
        const ItemPtr module = pop();
        if (name->value.as<std::string>() == nullptr || module->value.as<std::string>() == nullptr) return corrupt();
        return push_global(*module->value.as<std::string>(), *name->value.as<std::string>());
      }
      case kReduce:
        return reduce();
      case kNextBuffer:
        if (next_buffer_ >= buffers_.size()) return corrupt();
        return push(Item{Item::Kind::kBuffer, {}, {}, next_buffer_++});
      case kReadOnlyBuffer:
        return stack_.empty() ? corrupt() : Status();
      default:
        // Instances, persistent ids, protocols before 2: nothing that a plain value needs.
        return {Code::kUnsupported, "the value is more than numbers, text, containers and tensors (pickle's opcode " +
                                        std::to_string(op) + ")"};
    }
  }

  ItemPtr pop() {
    ItemPtr item = std::move(stack_.back());
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
    const ItemPtr& known = memo_[index];
    if (std::find(stack_.begin(), stack_.end(), known) != stack_.end()) {
      return {Code::kUnsupported, "the value contains itself"};
    }
    stack_.push_back(known);
    return {};
  }

  static Status check_value(const Item& item) {
    if (item.kind == Item::Kind::kValue) return {};
    if (item.kind == Item::Kind::kForeign) return foreign(item.name);
    return corrupt();
  }
  static Status foreign(const std::string& name) {
    return {Code::kUnsupported, "the value needs Python's " + name +
                                    "; C++ takes numbers, text, bytes, containers of them, and contiguous tensors and "
                                    "arrays"};
  }

  // The last `count` values.
  Result<std::vector<Value>> take_values(std::size_t count) {
    if (stack_.size() < count) return corrupt();
    std::vector<Value> values;
    values.reserve(count);
    for (std::size_t i = stack_.size() - count; i < stack_.size(); ++i) {
      Item& item = *stack_[i];
      BEELINE_RETURN_IF_ERROR(check_value(item));
      if (stack_[i].use_count() == 1) {
        values.push_back(std::move(item.value));
        continue;
      }
      if ((copies_ += count_of(item.value)) > kMaxCopies) {
        return Status(Code::kResourceExhausted, "the value names its own parts more than 10,000,000 times");
      }
      values.push_back(item.value);
    }
    stack_.resize(stack_.size() - count);
    return values;
  }

  Status make_tuple(std::size_t count) {
    // The arguments of a restorer may be a buffer: looked at by reduce().
    if (count == 2 && stack_.size() >= 3 && is_restorer(*stack_[stack_.size() - 3])) {
      arguments_[1] = pop();
      arguments_[0] = pop();
      has_arguments_ = true;
      return {};
    }
    BEELINE_ASSIGN(auto values, take_values(count));
    return push(Value(Tuple{std::move(values)}));
  }

  template <typename Container>
  Result<Container*> container() {
    if (stack_.empty() || stack_.back()->kind != Item::Kind::kValue) return corrupt();
    auto* found = const_cast<Container*>(stack_.back()->value.as<Container>());
    return found == nullptr ? Result<Container*>(corrupt()) : Result<Container*>(found);
  }
  Status append(std::size_t count) {
    BEELINE_ASSIGN(auto values, take_values(count));
    BEELINE_ASSIGN(List* const list, container<List>());
    std::move(values.begin(), values.end(), std::back_inserter(*list));
    return {};
  }
  Status set_items(std::size_t count) {
    if (count % 2 != 0) return corrupt();
    BEELINE_ASSIGN(auto values, take_values(count));
    BEELINE_ASSIGN(Dict* const dict, container<Dict>());
    for (std::size_t i = 0; i < count; i += 2) dict->emplace_back(std::move(values[i]), std::move(values[i + 1]));
    return {};
  }

  static bool is_restorer(const Item& item) {
    return item.kind == Item::Kind::kTensorRestorer || item.kind == Item::Kind::kArrayRestorer;
  }
  Status push_global(std::string_view module, std::string_view name) {
    Item item;
    item.kind = module != kCore           ? Item::Kind::kForeign
                : name == kTensorRestorer ? Item::Kind::kTensorRestorer
                : name == kArrayRestorer  ? Item::Kind::kArrayRestorer
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
    const ItemPtr callee = pop();
    const Blob* header = arguments_[0]->value.as<Blob>();
    if (header == nullptr) return corrupt();
    BufferView bytes;
    if (arguments_[1]->kind == Item::Kind::kBuffer) {
      bytes = buffers_[arguments_[1]->buffer];
    } else if (const Blob* small = arguments_[1]->value.as<Blob>()) {
      const std::shared_ptr<std::byte[]> memory(new std::byte[std::max<std::size_t>(small->bytes.size(), 1)]);
      std::memcpy(memory.get(), small->bytes.data(), small->bytes.size());
      bytes = {{memory.get(), small->bytes.size()}, memory};
    } else {
      return corrupt();
    }
    return push_tensor(header->bytes, callee->kind == Item::Kind::kArrayRestorer, std::move(bytes));
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
  std::vector<ItemPtr> stack_;
  std::vector<std::size_t> marks_;
  std::vector<ItemPtr> memo_;
  std::size_t copies_ = 0;
  ItemPtr arguments_[2];  // of the restorer on top of the stack
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
