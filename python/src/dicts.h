// Structures of the core as Python dicts.
#pragma once

#include <nanobind/nanobind.h>

namespace beeline::python {

namespace nb = nanobind;

// dict_of("pid", row.pid, "name", row.name): one item per pair. The types' casters must be included.
template <typename... Pairs>
nb::dict dict_of(const Pairs&... pairs);

// One dict per row, by `describe(row)`.
template <typename Rows, typename Describe>
nb::list list_of(const Rows& rows, Describe&& describe) {
  nb::list out;
  for (const auto& row : rows) out.append(describe(row));
  return out;
}

// ----- implementation

inline void add_items(nb::dict&) {}

template <typename Value, typename... Rest>
void add_items(nb::dict& out, const char* name, const Value& value, const Rest&... rest) {
  out[name] = nb::cast(value);
  add_items(out, rest...);
}

template <typename... Pairs>
nb::dict dict_of(const Pairs&... pairs) {
  nb::dict out;
  add_items(out, pairs...);
  return out;
}

}  // namespace beeline::python
