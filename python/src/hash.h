// How a pickled function is known to workers: its definition and its key.
#pragma once

#define XXH_INLINE_ALL 1
#include <xxhash.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

namespace beeline::python {

// Never 0, which means no function.
inline std::uint64_t hash_of(std::string_view blob) {
  return XXH3_64bits(blob.data(), blob.size()) | 1;
}

// A definition: the size of the function's blob, the blob, then the pickled filter of exceptions that let a call be
// retried.
inline std::string join_definition(std::string_view blob, std::string_view filter) {
  const auto size = static_cast<std::uint64_t>(blob.size());
  std::string out(reinterpret_cast<const char*>(&size), sizeof size);
  out.append(blob);
  out.append(filter);
  return out;
}

inline std::pair<std::string_view, std::string_view> split_definition(std::string_view definition) {
  std::uint64_t size = 0;
  if (definition.size() < sizeof size) return {};
  std::memcpy(&size, definition.data(), sizeof size);
  definition.remove_prefix(sizeof size);
  if (size > definition.size()) return {};
  return {definition.substr(0, size), definition.substr(size)};
}

}  // namespace beeline::python
