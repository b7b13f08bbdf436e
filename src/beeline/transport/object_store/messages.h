// What the two sides say to each other, in frames over a unix connection. The bytes themselves go through a memfd of
// the reader's, which came with its first frame.
#pragma once

#include <cstdint>
#include <type_traits>

#include "beeline/transport/served_extents.h"

namespace beeline::transport::object_store {

// The memory is cut into chunks, each of one request at a time. Together they stay in a cache that both sides share.
inline constexpr std::uint32_t kChunks = 4;
inline constexpr std::uint64_t kChunkBytes = std::uint64_t{1} << 20;
inline constexpr std::uint64_t kStagingBytes = kChunks * kChunkBytes;
inline constexpr std::uint32_t kMaxRequestRuns = 1024;

// The reader's first frame, with one descriptor. Not answered.
struct Hello {
  static constexpr std::uint64_t kMagic = 0x31726F7473656542;  // "Beestor1"
  std::uint64_t magic = kMagic;
};

enum class Op : std::uint32_t { kRead = 1, kWrite = 2 };

// Followed by `runs` RunRecords. In the chunk the runs lie in order, without gaps: from the request on where it writes,
// else from the reply on.
struct Request {
  Op op = Op::kRead;
  std::uint32_t chunk = 0;
  std::uint32_t runs = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(Request) == 16 && std::is_trivially_copyable_v<Request>);

// In the order of the requests. Followed by text where the code is none of kOk.
struct Reply {
  std::uint32_t chunk = 0;
  std::uint32_t code = 0;  // Code
};
static_assert(sizeof(Reply) == 8 && std::is_trivially_copyable_v<Reply>);

}  // namespace beeline::transport::object_store
