// Numbers of few bytes: seven bits each, the lowest first (LEB128); signed ones zigzag.
#pragma once

#include <cstdint>

#include "beeline/base/bytes.h"

namespace beeline::transfer {

inline void write_varint(Bytes& out, std::uint64_t value) {
  while (value >= 0x80) {
    out.push_back(static_cast<std::byte>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<std::byte>(value));
}

inline void write_signed_varint(Bytes& out, std::int64_t value) {
  write_varint(out, (static_cast<std::uint64_t>(value) << 1) ^ static_cast<std::uint64_t>(value >> 63));
}

// Reads in order; after the first number that is cut short or too long ok() is false and all are 0.
class VarintReader {
 public:
  explicit VarintReader(BytesView bytes) : reader_(bytes) {}

  std::uint64_t read() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto byte = reader_.read<std::uint8_t>();
      value |= std::uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return ok() ? value : 0;
    }
    too_long_ = true;
    return 0;
  }
  std::int64_t read_signed() {
    const std::uint64_t value = read();
    return static_cast<std::int64_t>(value >> 1) ^ -static_cast<std::int64_t>(value & 1);
  }

  [[nodiscard]] bool ok() const { return reader_.ok() && !too_long_; }
  [[nodiscard]] std::size_t left() const { return ok() ? reader_.left() : 0; }

 private:
  Reader reader_;
  bool too_long_ = false;
};

}  // namespace beeline::transfer
