// The encoding of values: random ones come back, none of their beginnings does, and lies about lengths are kCorrupt.
#include "beeline/store/payload.h"

#include <gtest/gtest.h>

#include <random>

#include "seed.h"

namespace beeline::store {
namespace {

std::string random_text(std::mt19937_64& random, std::size_t limit) {
  std::string text(random() % (limit + 1), '\0');
  for (auto& c : text) c = static_cast<char>(random());
  return text;
}

Payload random_payload(std::mt19937_64& random) {
  Payload payload;
  payload.skeleton = random_text(random, 300);
  const bool has_placement = random() % 2 == 0;
  if (has_placement) {
    payload.placement = std::make_unique<Placement>();
    payload.placement->holder = static_cast<ProcessIndex>(random());
    payload.placement->publication.slot = static_cast<std::uint32_t>(random());
    payload.placement->publication.generation = static_cast<std::uint32_t>(random());
    payload.placement->direct = random() % 2 == 0;
    payload.placement->way = static_cast<Way>(random() % 3);
  }
  // Inline buffers, with or without what their holder keeps; or buffers in an arena.
  const bool is_inline = !has_placement || random() % 2 == 0;
  for (auto left = random() % 4; left > 0; --left) {
    if (is_inline) {
      payload.inline_buffers.push_back({random_text(random, 100), random() % 2 == 0});
    } else {
      payload.placement->buffers.push_back({{random(), random() >> 1}, random() % 2 == 0});
    }
  }
  payload.skeleton_in_buffer = !payload.is_inline() && random() % 2 == 0;
  if (random() % 3 == 0) {
    payload.failure = std::make_unique<Failure>(
        Failure{static_cast<ErrorKind>(random() % 17), random_text(random, 80), random(), random_text(random, 20)});
  }
  for (auto left = random() % 4; left > 0; --left) {
    payload.refs.push_back({static_cast<ProcessIndex>(random()), static_cast<ObjectKind>(random() % 2), random()});
  }
  return payload;
}

void expect_same(const Payload& a, const Payload& b) {
  EXPECT_EQ(a.skeleton, b.skeleton);
  EXPECT_EQ(a.skeleton_in_buffer, b.skeleton_in_buffer);
  EXPECT_EQ(a.is_inline(), b.is_inline());
  ASSERT_EQ(a.inline_buffers.size(), b.inline_buffers.size());
  for (std::size_t i = 0; i < a.inline_buffers.size(); ++i) {
    EXPECT_EQ(a.inline_buffers[i].bytes, b.inline_buffers[i].bytes);
    EXPECT_EQ(a.inline_buffers[i].writable, b.inline_buffers[i].writable);
  }
  ASSERT_EQ(a.placement != nullptr, b.placement != nullptr);
  if (a.placement) {
    EXPECT_EQ(a.placement->holder, b.placement->holder);
    EXPECT_EQ(a.placement->publication.slot, b.placement->publication.slot);
    EXPECT_EQ(a.placement->publication.generation, b.placement->publication.generation);
    EXPECT_EQ(a.placement->direct, b.placement->direct);
    EXPECT_EQ(a.placement->way, b.placement->way);
    EXPECT_EQ(a.placement->buffers, b.placement->buffers);
  }
  ASSERT_EQ(a.is_error(), b.is_error());
  if (a.failure) {
    EXPECT_EQ(a.failure->kind, b.failure->kind);
    EXPECT_EQ(a.failure->message, b.failure->message);
    EXPECT_EQ(a.failure->actor, b.failure->actor);
    EXPECT_EQ(a.failure->name, b.failure->name);
  }
  EXPECT_EQ(a.refs, b.refs);
  EXPECT_EQ(a.size_bytes(), b.size_bytes());
}

Bytes encoded(const Payload& payload) {
  Bytes bytes;
  Writer writer(bytes);
  encode_payload(payload, writer);
  return bytes;
}

class PayloadTest : public ::testing::Test {
 protected:
  std::mt19937_64 random_{test_seed()};
};

TEST_F(PayloadTest, RandomPayloadsComeBack) {
  for (int round = 0; round < 2000; ++round) {
    const Payload payload = random_payload(random_);
    Bytes bytes = encoded(payload);
    Writer(bytes).append(as_bytes("what follows"));
    Reader reader(bytes);
    auto decoded = decode_payload(reader);
    ASSERT_TRUE(decoded.is_ok()) << decoded.status().message();
    expect_same(payload, **decoded);
    EXPECT_EQ(as_text(reader.read_bytes(reader.left())), "what follows");
    if (HasFailure()) return;
  }
}

TEST_F(PayloadTest, NoBeginningOfAPayloadIsOne) {
  for (int round = 0; round < 40; ++round) {
    const Bytes bytes = encoded(random_payload(random_));
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      Reader reader(BytesView(bytes).first(size));
      auto decoded = decode_payload(reader);
      ASSERT_FALSE(decoded.is_ok()) << size << " of " << bytes.size();
      ASSERT_EQ(decoded.status().code(), Code::kCorrupt);
    }
  }
}

TEST_F(PayloadTest, ChangedBytesDecodeOrAreCorrupt) {
  for (int round = 0; round < 20'000; ++round) {
    Bytes bytes = encoded(random_payload(random_));
    for (auto left = random_() % 4 + 1; left > 0; --left) {
      bytes[random_() % bytes.size()] = static_cast<std::byte>(random_() % 2 == 0 ? 0xff : random_());
    }
    Reader reader(bytes);
    auto decoded = decode_payload(reader);
    if (!decoded.is_ok()) {
      ASSERT_EQ(decoded.status().code(), Code::kCorrupt);
      continue;
    }
    // Nothing is larger than what it came from.
    ASSERT_LE((*decoded)->skeleton.size(), bytes.size());
    ASSERT_LE((*decoded)->refs.size() * sizeof(ObjectId), bytes.size());
  }
}

TEST(PayloadFormatTest, HostileCountsAllocateNothing) {
  for (const std::size_t at : {4u, 8u, 12u}) {  // of the skeleton's bytes, the buffers, the references
    for (const std::uint8_t flags : {0, 1, 2}) {
      Bytes bytes(16 + 16, std::byte{0});
      bytes[0] = static_cast<std::byte>(flags);
      const std::uint32_t count = 0xffffffff;
      std::memcpy(bytes.data() + at, &count, sizeof count);
      Reader reader(bytes);
      EXPECT_EQ(decode_payload(reader).status().code(), Code::kCorrupt) << at << " " << int{flags};
    }
  }
}

TEST(PayloadFormatTest, ASkeletonInABufferThatIsNotThereIsCorrupt) {
  Payload payload;
  payload.skeleton_in_buffer = true;
  const Bytes bytes = encoded(payload);
  Reader reader(bytes);
  EXPECT_EQ(decode_payload(reader).status().code(), Code::kCorrupt);
}

TEST(PayloadFormatTest, AFailureTellsWhatItIsOf) {
  const auto failure = make_failure(ErrorKind::kActorDied, "it died", 7, "Counter");
  const Bytes bytes = encoded(*failure);
  Reader reader(bytes);
  auto decoded = decode_payload(reader);
  ASSERT_TRUE(decoded.is_ok());
  ASSERT_TRUE((*decoded)->is_error());
  EXPECT_EQ((*decoded)->failure->kind, ErrorKind::kActorDied);
  EXPECT_EQ((*decoded)->failure->message, "it died");
  EXPECT_EQ((*decoded)->failure->actor, 7u);
  EXPECT_EQ((*decoded)->failure->name, "Counter");
}

}  // namespace
}  // namespace beeline::store
