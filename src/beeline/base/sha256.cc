#include "beeline/base/sha256.h"

#include <algorithm>
#include <bit>

namespace beeline {
namespace {

constexpr std::array<std::uint32_t, 64> kRounds{
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

std::uint32_t read_big_endian(const std::byte* at) {
  std::uint32_t value = 0;
  for (int i = 0; i < 4; ++i) value = value << 8 | std::to_integer<std::uint32_t>(at[i]);
  return value;
}

template <typename Unsigned>
void write_big_endian(Unsigned value, std::byte* at) {
  for (std::size_t i = sizeof value; i-- > 0; value >>= 8) at[i] = static_cast<std::byte>(value & 0xff);
}

}  // namespace

void Sha256::compress() {
  std::array<std::uint32_t, 64> w{};
  for (std::size_t i = 0; i < 16; ++i) w[i] = read_big_endian(block_.data() + 4 * i);
  for (std::size_t i = 16; i < 64; ++i) {
    const auto low = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ (w[i - 15] >> 3);
    const auto high = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ (w[i - 2] >> 10);
    w[i] = w[i - 16] + low + w[i - 7] + high;
  }
  auto [a, b, c, d, e, f, g, h] = state_;
  for (std::size_t i = 0; i < 64; ++i) {
    const auto of_e = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
    const auto first = h + of_e + ((e & f) ^ (~e & g)) + kRounds[i] + w[i];
    const auto of_a = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
    const auto second = of_a + ((a & b) ^ (a & c) ^ (b & c));
    h = g;
    g = f;
    f = e;
    e = d + first;
    d = c;
    c = b;
    b = a;
    a = first + second;
  }
  const std::array<std::uint32_t, 8> added{a, b, c, d, e, f, g, h};
  for (std::size_t i = 0; i < state_.size(); ++i) state_[i] += added[i];
  filled_ = 0;
}

void Sha256::update(BytesView bytes) {
  bytes_ += bytes.size();
  while (!bytes.empty()) {
    const std::size_t taken = std::min(bytes.size(), kBlock - filled_);
    std::copy_n(bytes.begin(), taken, block_.begin() + static_cast<std::ptrdiff_t>(filled_));
    filled_ += taken;
    bytes = bytes.subspan(taken);
    if (filled_ == kBlock) compress();
  }
}

Sha256::Digest Sha256::finish() {
  const std::uint64_t bits = bytes_ * 8;
  // A bit that is set, zeroes up to the last 8 bytes of a block, and there the message's length.
  const std::byte end{0x80};
  update({&end, 1});
  const std::byte zero{};
  while (filled_ != kBlock - sizeof bits) update({&zero, 1});
  write_big_endian(bits, block_.data() + filled_);
  compress();
  Digest digest{};
  for (std::size_t i = 0; i < state_.size(); ++i) write_big_endian(state_[i], digest.data() + 4 * i);
  return digest;
}

Sha256::Digest sha256(BytesView message) {
  Sha256 hash;
  hash.update(message);
  return hash.finish();
}

Sha256::Digest hmac_sha256(BytesView key, BytesView message) {
  std::array<std::byte, 64> padded{};  // a block of the hash
  if (key.size() > padded.size()) {
    std::ranges::copy(sha256(key), padded.begin());
  } else {
    std::ranges::copy(key, padded.begin());
  }
  Sha256 inner;
  Sha256 outer;
  for (std::byte& byte : padded) byte ^= std::byte{0x36};
  inner.update(padded);
  for (std::byte& byte : padded) byte ^= std::byte{0x36 ^ 0x5c};
  outer.update(padded);
  inner.update(message);
  outer.update(inner.finish());
  return outer.finish();
}

bool equal_in_constant_time(BytesView a, BytesView b) {
  if (a.size() != b.size()) return false;
  std::byte difference{};
  for (std::size_t i = 0; i < a.size(); ++i) difference |= a[i] ^ b[i];
  return difference == std::byte{};
}

}  // namespace beeline
