// Values as they travel between C++ and Python: what a C++ program gets of anybody, and gives to anybody.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "beeline/api/tensor.h"
#include "beeline/base/export.h"

namespace beeline::program {

class Value;
// Python's list, tuple and dict; a dict keeps the order in which it was filled.
using List = std::vector<Value>;
struct Tuple {
  std::vector<Value> items;
};
using Dict = std::vector<std::pair<Value, Value>>;
// Python's bytes; its str is a std::string in UTF-8.
struct Blob {
  std::string bytes;
};

// One of the plain values of Python, or a tensor: torch's on that side. numpy's arrays arrive as tensors too.
class BEELINE_API Value {
 public:
  using Variant =
      std::variant<std::monostate, bool, std::int64_t, double, std::string, Blob, api::Tensor, List, Tuple, Dict>;

  Value() = default;  // None
  template <typename T>
    requires(!std::is_same_v<T, Value>)
  explicit Value(T value) : held_(std::move(value)) {}

  [[nodiscard]] const Variant& held() const { return held_; }
  [[nodiscard]] bool is_none() const { return std::holds_alternative<std::monostate>(held_); }
  // The value as a T, null if it is something else.
  template <typename T>
  [[nodiscard]] const T* as() const {
    return std::get_if<T>(&held_);
  }
  // For messages: "a list".
  [[nodiscard]] const char* kind() const;

 private:
  Variant held_;
};

}  // namespace beeline::program
