#include "beeline/program/value.h"

#include <array>

namespace beeline::program {

const char* Value::kind() const {
  static constexpr std::array kNames = {"None",  "a bool",   "an integer", "a float", "a string",
                                        "bytes", "a tensor", "a list",     "a tuple", "a dict"};
  static_assert(kNames.size() == std::variant_size_v<Variant>);
  return kNames.at(held_.index());
}

}  // namespace beeline::program
