// SHA-256 and HMAC against published vectors: FIPS 180-4's examples (NIST's CSRC), and RFC 4231.
#include "beeline/base/sha256.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace beeline {
namespace {

std::string hex(BytesView bytes) {
  std::string text;
  for (const std::byte byte : bytes) {
    text += "0123456789abcdef"[std::to_integer<unsigned>(byte >> 4)];
    text += "0123456789abcdef"[std::to_integer<unsigned>(byte & std::byte{15})];
  }
  return text;
}

TEST(Sha256Test, DigestsAreThoseOfTheStandard) {
  const auto of = [](const std::string& text) { return hex(sha256(as_bytes(text))); };
  EXPECT_EQ(of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(
      of("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrst"
         "nopqrstu"),
      "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
  EXPECT_EQ(of(std::string(1'000'000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256Test, PiecesMakeTheDigestOfTheWhole) {
  const std::string text(300, 'x');
  for (std::size_t size = 0; size <= text.size(); ++size) {
    const std::string whole = text.substr(0, size);
    const auto expected = sha256(as_bytes(whole));
    for (const std::size_t step : {1, 7, 55, 56, 63, 64, 65}) {
      Sha256 hash;
      for (std::size_t at = 0; at < size; at += step)
        hash.update(as_bytes(whole).subspan(at, std::min(step, size - at)));
      ASSERT_EQ(hash.finish(), expected) << size << " bytes by " << step;
    }
  }
}

TEST(HmacTest, CodesAreThoseOfRfc4231) {
  const auto of = [](const std::string& key, const std::string& data) {
    return hex(hmac_sha256(as_bytes(key), as_bytes(data)));
  };
  EXPECT_EQ(of(std::string(20, '\x0b'), "Hi There"),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  EXPECT_EQ(of("Jefe", "what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  EXPECT_EQ(of(std::string(20, '\xaa'), std::string(50, '\xdd')),
            "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
  std::string counted;
  for (char c = 1; c <= 25; ++c) counted += c;
  EXPECT_EQ(of(counted, std::string(50, '\xcd')), "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b");
  const std::string long_key(131, '\xaa');
  EXPECT_EQ(of(long_key, "Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
  EXPECT_EQ(of(long_key,
               "This is a test using a larger than block-size key and a larger than block-size data. The key needs to "
               "be hashed before being used by the HMAC algorithm."),
            "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2");
}

TEST(ConstantTimeTest, BytesAreEqualOrNot) {
  EXPECT_TRUE(equal_in_constant_time(as_bytes(""), as_bytes("")));
  EXPECT_TRUE(equal_in_constant_time(as_bytes("token"), as_bytes("token")));
  for (const char* other : {"Token", "tokem", "tok", "token2", ""}) {
    EXPECT_FALSE(equal_in_constant_time(as_bytes("token"), as_bytes(other))) << other;
  }
}

}  // namespace
}  // namespace beeline
