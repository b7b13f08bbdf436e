// SHA-256 (FIPS 180-4) and HMAC with it (RFC 2104): by these agents prove to each other that they have a token. They
// hash a few hundred bytes for each connection; nothing here is made for large inputs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "beeline/base/bytes.h"

namespace beeline {

class Sha256 {
 public:
  using Digest = std::array<std::byte, 32>;

  void update(BytesView bytes);
  // Once, and the last.
  Digest finish();

 private:
  static constexpr std::size_t kBlock = 64;
  void compress();

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, kBlock> block_{};
  std::size_t filled_ = 0;   // of the block
  std::uint64_t bytes_ = 0;  // of the message
};

Sha256::Digest sha256(BytesView message);
Sha256::Digest hmac_sha256(BytesView key, BytesView message);

// In a time that tells nothing of where they differ; it does tell that their sizes do.
bool equal_in_constant_time(BytesView a, BytesView b);

}  // namespace beeline
