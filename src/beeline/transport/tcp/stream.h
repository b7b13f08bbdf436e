// The stream protocol: what a reader and the owner of memory say to each other over one connection, once both know who
// the other is. docs/wire_format.md describes the same as a format.
#pragma once

#include <cstdint>
#include <type_traits>

namespace beeline::transport::tcp {

// What one request may ask for.
inline constexpr std::uint32_t kMaxRequestRuns = 2048;
inline constexpr std::uint64_t kMaxRequestBytes = std::uint64_t{4} << 20;

enum class Op : std::uint16_t { kRead = 1, kWrite = 2 };

// Followed by `runs` RunRecords, then, for kWrite, by the bytes.
struct RequestHeader {
  static constexpr std::uint32_t kMagic = 0x71524C42;  // "BLRq"
  std::uint32_t magic = kMagic;
  Op op = Op::kRead;
  std::uint16_t reserved = 0;
  std::uint32_t runs = 0;
  std::uint32_t id = 0;     // echoed in the reply
  std::uint64_t bytes = 0;  // of all runs
};
static_assert(sizeof(RequestHeader) == 24 && std::is_trivially_copyable_v<RequestHeader>);

struct RunRecord {
  std::uint32_t slot = 0;
  std::uint32_t generation = 0;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::uint64_t count = 1;
  std::uint64_t stride = 0;
};
static_assert(sizeof(RunRecord) == 40 && std::is_trivially_copyable_v<RunRecord>);

// Followed by `message_bytes` of text, then by `bytes` of content: for a kRead that is granted all that was asked for,
// and a ReadTrailer.
struct ReplyHeader {
  static constexpr std::uint32_t kMagic = 0x70524C42;  // "BLRp"
  std::uint32_t magic = kMagic;
  std::uint32_t id = 0;
  std::uint16_t code = 0;  // Code
  std::uint16_t reserved = 0;
  std::uint32_t message_bytes = 0;
  std::uint64_t bytes = 0;
};
static_assert(sizeof(ReplyHeader) == 24 && std::is_trivially_copyable_v<ReplyHeader>);
inline constexpr std::uint32_t kMaxMessageBytes = 4096;

// After the bytes of a read.
struct ReadTrailer {
  static constexpr std::uint64_t kTorn = ~std::uint64_t{0};
  std::uint64_t writes = kTorn;  // memory::PublicationSlot::writes of the runs' regions, summed; kTorn: it changed
};
static_assert(sizeof(ReadTrailer) == 8);

}  // namespace beeline::transport::tcp
