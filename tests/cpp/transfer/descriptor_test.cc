// Addresses and descriptors as values: what goes out comes back, and what is none is refused.
#include "beeline/transfer/descriptor.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "beeline/transfer/address.h"
#include "seed.h"

namespace beeline::transfer {
namespace {

constexpr DType kBFloat16{4, 16, 1};
constexpr DType kFloat{2, 32, 1};

Descriptor model(std::size_t tensors) {
  auto schema = std::make_shared<Schema>();
  Descriptor descriptor;
  descriptor.owner = "beeline://trainer?id=0123456789abcdef0123456789abcdef";
  descriptor.regions.push_back({{7, 3}, std::uint64_t{64} << 30, 0x7f0000000000, 4096, {}});
  std::uint64_t offset = 0;
  for (std::size_t i = 0; i < tensors; ++i) {
    const bool is_norm = i % 9 == 0;
    schema->tensors.push_back({is_norm ? kFloat : kBFloat16,
                               is_norm ? std::vector<std::int64_t>{4096} : std::vector<std::int64_t>{11008, 4096},
                               {}});
    descriptor.places.push_back({0, offset});
    offset += (schema->tensors.back().bytes() + (2 << 20)) & ~std::uint64_t{(2 << 20) - 1};  // blocks of an arena
  }
  descriptor.schema = std::move(schema);
  return descriptor;
}

void expect_same(const Descriptor& a, const Descriptor& b) {
  EXPECT_EQ(a.owner, b.owner);
  EXPECT_EQ(a.regions, b.regions);
  EXPECT_EQ(a.schema->tensors, b.schema->tensors);
  EXPECT_EQ(a.places, b.places);
  EXPECT_EQ(a.names, b.names);
}

TEST(DescriptorTest, KeysComeBackFromTheBinaryForm) {
  Descriptor descriptor = model(2);
  const auto without = Descriptor::decode(descriptor.encode());
  ASSERT_TRUE(without.is_ok() && without->keys == RegionKeys{});
  descriptor.keys = {"nixl", {Bytes(30, std::byte{5})}};
  const auto with = Descriptor::decode(descriptor.encode());
  ASSERT_TRUE(with.is_ok());
  EXPECT_EQ(with->keys, descriptor.keys);
  EXPECT_EQ(Descriptor::from_json(descriptor.to_json())->keys, RegionKeys{});
  descriptor.keys.keys.emplace_back();
  EXPECT_EQ(Descriptor::decode(descriptor.encode()).status().code(), Code::kCorrupt) << "two keys of one region";
}

// As releases before keys have encoded it: two items less.
TEST(DescriptorTest, OneWithoutAPlaceForKeysIsRead) {
  Bytes bytes = model(2).encode();
  ASSERT_EQ(bytes.front(), std::byte{0x9b}) << "an array of eleven";
  bytes.front() = std::byte{0x99};
  bytes.resize(bytes.size() - 2);  // no path, and no keys: a byte each
  const auto decoded = Descriptor::decode(bytes);
  ASSERT_TRUE(decoded.is_ok()) << decoded.status().message();
  expect_same(*decoded, model(2));
}

TEST(DescriptorTest, ComesBackAsItWas) {
  Descriptor descriptor = model(20);
  descriptor.regions.push_back({{9, 1}, 1000, 0x1234, transport::Region::kOutsideArena, {2, 1}});
  auto schema = std::make_shared<Schema>(*descriptor.schema);
  schema->tensors.push_back({kFloat, {5, 7}, {-7, 1}});
  schema->tensors.push_back({{6, 8, 1}, {}, {}});
  schema->tensors.push_back({kFloat, {0, 3}, {}});
  descriptor.schema = schema;
  descriptor.places.insert(descriptor.places.end(), {{1, 112}, {1, 0}, {0, 17}});
  for (std::size_t i = 0; i < schema->tensors.size(); ++i) descriptor.names.push_back("layer" + std::to_string(i));
  const auto decoded = Descriptor::decode(descriptor.encode());
  ASSERT_TRUE(decoded.is_ok()) << decoded.status().message();
  expect_same(*decoded, descriptor);
  const auto from_json = Descriptor::from_json(descriptor.to_json());
  ASSERT_TRUE(from_json.is_ok()) << from_json.status().message();
  expect_same(*from_json, descriptor);
}

TEST(DescriptorTest, ASingleTensorComesBackAsOne) {
  Descriptor descriptor = model(1);
  EXPECT_FALSE(Descriptor::decode(descriptor.encode())->single);
  EXPECT_FALSE(Descriptor::from_json(descriptor.to_json())->single);
  descriptor.single = true;
  EXPECT_TRUE(Descriptor::decode(descriptor.encode())->single);
  EXPECT_TRUE(Descriptor::from_json(descriptor.to_json())->single);
  Descriptor several = model(2);
  several.single = true;
  EXPECT_EQ(Descriptor::decode(several.encode()).status().code(), Code::kCorrupt);
}

TEST(DescriptorTest, JsonThatIsNoneIsRefused) {
  const std::string good =
      R"({"owner": "beeline://a?id=0123456789abcdef0123456789abcdef", "regions": [[1, 2, 64, 4096, -1, 1, 0]],)"
      R"( "tensors": [{"code": 2, "bits": 32, "lanes": 1, "shape": [2, 3], "strides": [], "region": 0, "offset": 8}]})";
  const auto decoded = Descriptor::from_json(good);
  ASSERT_TRUE(decoded.is_ok()) << decoded.status().message();
  EXPECT_FALSE(decoded->regions[0].in_arena());
  EXPECT_EQ(decoded->spec(0).shape, (std::vector<std::int64_t>{2, 3}));
  // What was there, and what would be read in its place by a decoder that converts whatever it finds.
  const std::pair<const char*, const char*> changes[] = {{"{", ""},
                                                         {"\"owner\"", "\"o\""},
                                                         {"4096", "-4096"},
                                                         {"4096", "18446744073709551616"},
                                                         {"4096", "1.5"},
                                                         {"-1", "-2"},
                                                         {", 1, 0]", ", 1]"},
                                                         {"[1, 2,", "[4294967297, 2,"},
                                                         {"32", "288"},
                                                         {"[2, 3]", "[2, -3]"},
                                                         {"[2, 3]", "6"},
                                                         {"[2, 3]", "[\"2\", 3]"},
                                                         {"[2, 3]", "[2, 8]"},
                                                         {"[]", "[1]"},
                                                         {"\"region\": 0", "\"region\": 1"},
                                                         {"\"offset\": 8", "\"offset\": 41"},
                                                         {"\"offset\": 8", "\"offset\": 8, \"name\": 1"}};
  for (const auto& [was, is] : changes) {
    std::string bad = good;
    bad.replace(bad.find(was), std::strlen(was), is);
    EXPECT_EQ(Descriptor::from_json(bad).status().code(), Code::kCorrupt) << bad;
  }
}

TEST(DescriptorTest, AThousandTensorsCostSixteenBytesEachAtMost) {
  const Descriptor descriptor = model(1000);
  EXPECT_LE(descriptor.encode().size(), 16'000u);
  // The schema told by its hash: what is left are places.
  EXPECT_LE(descriptor.encode(Descriptor::With::kSchemaHash).size(), 5'000u);
}

TEST(DescriptorTest, TwoTensorsOfOneNameAreRefused) {
  Descriptor descriptor = model(2);
  descriptor.names = {"a", "a"};
  EXPECT_EQ(Descriptor::decode(descriptor.encode()).status().code(), Code::kCorrupt);
  descriptor.names = {"a", "b"};
  EXPECT_TRUE(Descriptor::decode(descriptor.encode()).is_ok());
}

TEST(DescriptorTest, AKnownSchemaIsNamedByItsHash) {
  const Descriptor descriptor = model(3);
  const Bytes bytes = descriptor.encode(Descriptor::With::kSchemaHash);
  EXPECT_EQ(Descriptor::decode(bytes).status().code(), Code::kNotFound);
  const auto decoded = Descriptor::decode(
      bytes, [&](std::uint64_t hash) { return hash == descriptor.schema->hash() ? descriptor.schema : nullptr; });
  ASSERT_TRUE(decoded.is_ok()) << decoded.status().message();
  expect_same(*decoded, descriptor);
}

TEST(DescriptorTest, ATensorThatLeavesItsRegionIsRefused) {
  Descriptor descriptor = model(1);
  descriptor.regions[0].length = descriptor.bytes() - 1;
  EXPECT_EQ(Descriptor::decode(descriptor.encode()).status().code(), Code::kCorrupt);
  descriptor.regions[0].length = descriptor.bytes();
  EXPECT_TRUE(Descriptor::decode(descriptor.encode()).is_ok());
  descriptor.places[0].offset = 1;
  EXPECT_EQ(Descriptor::decode(descriptor.encode()).status().code(), Code::kCorrupt);
  descriptor.places[0].offset = UINT64_MAX - 3;
  EXPECT_EQ(Descriptor::decode(descriptor.encode()).status().code(), Code::kCorrupt);
}

TEST(DescriptorTest, ChangedAndTruncatedOnesAreRefusedOrWhole) {
  const auto seed = test_seed();
  std::mt19937_64 random(seed);
  const Bytes good = model(12).encode();
  for (int round = 0; round < 20000; ++round) {
    Bytes bytes = good;
    if (random() % 4 == 0) bytes.resize(random() % bytes.size());
    for (auto changes = random() % 4; changes > 0 && !bytes.empty(); --changes) {
      bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    }
    const auto decoded = Descriptor::decode(bytes);
    if (!decoded) continue;
    // Whatever was accepted lies inside its regions.
    for (std::size_t i = 0; i < decoded->places.size(); ++i) {
      const auto& spec = decoded->spec(i);
      if (spec.elements() == 0) continue;
      const auto& region = decoded->regions[decoded->places[i].region];
      const auto extent = extent_of(spec);
      ASSERT_LE(static_cast<std::uint64_t>(-extent.first), decoded->places[i].offset) << "seed " << seed;
      ASSERT_LE(decoded->places[i].offset + static_cast<std::uint64_t>(extent.end), region.length) << "seed " << seed;
    }
  }
}

TEST(AddressTest, ComesBackAsItWas) {
  Address address;
  address.name = "trainer 0/ä&=?%";
  address.id = make_agent_id();
  address.boot_id = make_agent_id();
  address.unix_path = "/run/user/1000/bee line/x.agent";
  address.tcp = {{"10.0.0.1", 4000}, {"fe80::1", 1}, {"host.example", 65535}};
  const auto parsed = Address::parse(address.text());
  ASSERT_TRUE(parsed.is_ok()) << parsed.status().message();
  EXPECT_EQ(*parsed, address);
  address.certificate = std::string(32, '0') + std::string(32, 'f');
  const auto secured = Address::parse(address.text());
  ASSERT_TRUE(secured.is_ok()) << secured.status().message();
  EXPECT_EQ(*secured, address);
}

TEST(AddressTest, WithoutItsCertificateAnAddressOfTlsIsNone) {
  const std::string begin = "beeline://a?id=0123456789abcdef0123456789abcdef";
  const std::string certificate = "&certificate=" + std::string(64, 'a');
  EXPECT_TRUE(Address::parse(begin + "&tls=h:1" + certificate).is_ok());
  for (const std::string& rest : {std::string("&tls=h:1"), certificate, "&tcp=h:1" + certificate, "&tls=" + certificate,
                                  "&tcp=h:1&tls=h:1" + certificate, std::string("&tls=h:1&certificate=a"),
                                  "&tls=h:1&certificate=" + std::string(64, 'g'), "&tls=nowhere" + certificate}) {
    EXPECT_EQ(Address::parse(begin + rest).status().code(), Code::kInvalidArgument) << rest;
  }
}

TEST(AddressTest, WhatIsNoneIsRefused) {
  const std::string id = "?id=0123456789abcdef0123456789abcdef";
  EXPECT_TRUE(Address::parse("beeline://a" + id).is_ok());
  for (const std::string& text :
       {std::string(), std::string("http://a") + id, std::string("beeline://a"), "beeline://a%4" + id,
        "beeline://a%zz" + id, std::string("beeline://a?id=12"), "beeline://a" + id + "&tcp=nowhere",
        "beeline://a" + id + "&tcp=h:99999", "beeline://a" + id + "&boot=7", "beeline://a" + id + "&x",
        "beeline://" + std::string(5000, 'a') + id}) {
    EXPECT_EQ(Address::parse(text).status().code(), Code::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace beeline::transfer
