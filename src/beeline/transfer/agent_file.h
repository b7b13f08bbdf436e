// Files that an agent keeps beside its socket for any process of its user to read: its counters, its spans.
//
// Their owner holds a flock on each as long as it lives: that, and not the name, says whether a file was left behind.
// Readers read, and do not map: a file that is cut short meanwhile is an error then, and no signal.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "beeline/base/bytes.h"
#include "beeline/base/status.h"
#include "beeline/os/fd.h"

namespace beeline::transfer {

inline constexpr std::string_view kCountersSuffix = ".counters";
inline constexpr std::string_view kUnfinishedCountersSuffix = ".counters.new";
inline constexpr std::string_view kSpansSuffix = ".spans";
// Of what a program counts itself, in a session (runtime/metrics.h).
inline constexpr std::string_view kMetricsSuffix = ".metrics";
inline constexpr std::string_view kUnfinishedMetricsSuffix = ".metrics.new";

// New, and locked. ENOENT when the folder is not there (any more), or another agent took the file for one that was left
// behind before it was locked.
Result<os::Fd> create_agent_file(const std::string& path);
// For reading. kNotFound when there is none; kInvalidArgument when it is no file of this user.
Result<os::Fd> open_agent_file(const std::string& path);
// Appends up to `size` bytes from `offset` on; fewer where the file ends.
Status append_from(int fd, std::uint64_t offset, std::size_t size, Bytes& out);
// Whether somebody holds it: its agent, or a child that was forked from its process.
bool is_held(int fd);
// Whether a name in the agents' folder is that of such a file.
bool is_agent_file(std::string_view path);
// Removes the file unless somebody holds it.
void remove_if_left_behind(const std::string& path);

// Texts end at their first 0, or fill their field.
template <std::size_t kSize>
void write_field(char (&field)[kSize], std::string_view text) {
  // Not in the middle of a character of UTF-8.
  std::size_t size = std::min(text.size(), kSize);
  while (size > 0 && size < text.size() && (static_cast<unsigned char>(text[size]) & 0xC0u) == 0x80u) --size;
  std::memcpy(field, text.data(), size);
}
inline std::string field_text(BytesView field) {
  const std::string_view text = as_text(field);
  return std::string(text.substr(0, text.find('\0')));
}

}  // namespace beeline::transfer
