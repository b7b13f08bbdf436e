// Reading pickles: those of pickle.cc, and what Python writes of plain values.
#include <algorithm>
#include <bit>
#include <cstring>
#include <deque>

#include "beeline/program/pickle.h"
#include "beeline/program/pickle_format.h"

namespace beeline::program {
namespace {

using api::DType;

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
    api::Tensor tensor;
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

Result<Value> unpickle(std::string_view skeleton, const std::vector<BufferView>& buffers) {
  return Unpickler(skeleton, buffers).run();
}

}  // namespace beeline::program
