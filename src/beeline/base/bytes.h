// Bounds-checked reading and appending of little-endian bytes: what every decoder of ours stands on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace beeline {

using Bytes = std::vector<std::byte>;
using BytesView = std::span<const std::byte>;

inline BytesView as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
inline std::string_view as_text(BytesView bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// The bytes of a plain value, borrowed.
template <typename T>
BytesView view_of(const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  return {reinterpret_cast<const std::byte*>(&value), sizeof value};
}

// Reads values in order. After the first short read every further read yields zeroes and ok() is false:
// decode everything, then ask once.
class Reader {
 public:
  explicit Reader(BytesView bytes) : bytes_(bytes) {}

  template <typename T>
  T read() {
    static_assert(std::is_trivially_copyable_v<T>);
    T value{};
    if (left() < sizeof(T)) {
      ok_ = false;
    } else {
      std::memcpy(&value, bytes_.data() + at_, sizeof(T));
      at_ += sizeof(T);
    }
    return value;
  }

  BytesView read_bytes(std::size_t size) {
    if (left() < size) {
      ok_ = false;
      return {};
    }
    const auto view = bytes_.subspan(at_, size);
    at_ += size;
    return view;
  }
  // A u32 length, then that many bytes.
  BytesView read_block() { return read_bytes(read<std::uint32_t>()); }
  std::string read_string() { return std::string(as_text(read_block())); }

  [[nodiscard]] bool ok() const { return ok_; }
  [[nodiscard]] std::size_t left() const { return ok_ ? bytes_.size() - at_ : 0; }

 private:
  BytesView bytes_;
  std::size_t at_ = 0;
  bool ok_ = true;
};

// Appends values to a growing buffer.
class Writer {
 public:
  explicit Writer(Bytes& out) : out_(out) {}

  template <typename T>
  void write(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    append({reinterpret_cast<const std::byte*>(&value), sizeof(T)});
  }
  void append(BytesView bytes) { out_.insert(out_.end(), bytes.begin(), bytes.end()); }
  void write_block(BytesView bytes) {
    write(static_cast<std::uint32_t>(bytes.size()));
    append(bytes);
  }
  void write_string(std::string_view text) { write_block(as_bytes(text)); }

 private:
  Bytes& out_;
};

}  // namespace beeline
