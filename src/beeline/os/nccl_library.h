// NVIDIA's NCCL, opened when something first needs it: a build knows nothing of it. Names, types and numbers are those
// of nccl.h, of which this declares what is used.
#pragma once

#include <climits>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

#include "beeline/base/status.h"
#include "beeline/os/cuda_driver.h"

namespace beeline::os::nccl {

using Return = std::int32_t;    // ncclResult_t
using Comm = struct ncclComm*;  // ncclComm_t
inline constexpr Return kSuccess = 0, kInvalidUsage = 5, kRemoteError = 6, kInProgress = 7;
inline constexpr std::int32_t kUint8 = 1;  // of ncclDataType_t

// ncclUniqueId: passed by value.
struct UniqueId {
  char bytes[128];
};
static_assert(sizeof(UniqueId) == 128 && std::is_trivially_copyable_v<UniqueId>);

// ncclConfig_t as NCCL 2.18 has it. Later ones have grown at the end: they take as many bytes as `size` says, and what
// came after `version` as undefined.
struct Config {
  static constexpr std::int32_t kUndefined = INT_MIN;
  std::size_t size = sizeof(Config);
  std::uint32_t magic = 0xcafebeef;
  std::uint32_t version = 21800;
  std::int32_t blocking = 0;
  std::int32_t cga_cluster_size = kUndefined;
  std::int32_t min_ctas = kUndefined;
  std::int32_t max_ctas = kUndefined;
  const char* net_name = nullptr;
  std::int32_t split_share = kUndefined;
};
static_assert(sizeof(Config) == 48 && offsetof(Config, blocking) == 16 && offsetof(Config, split_share) == 40);

struct Functions {
  Return (*get_version)(int*) = nullptr;
  const char* (*error_text)(Return) = nullptr;
  const char* (*last_error)(Comm) = nullptr;
  Return (*get_unique_id)(UniqueId*) = nullptr;
  Return (*init_rank)(Comm*, int ranks, UniqueId, int rank, Config*) = nullptr;
  Return (*async_error)(Comm, Return*) = nullptr;
  Return (*abort)(Comm) = nullptr;
  Return (*group_start)() = nullptr;
  Return (*group_end)() = nullptr;
  Return (*send)(const void*, std::size_t, std::int32_t type, int peer, Comm, cuda::Stream) = nullptr;
  Return (*receive)(void*, std::size_t, std::int32_t type, int peer, Comm, cuda::Stream) = nullptr;
};

// Thread-safe; never unloaded, for threads of its own run on.
class Library {
 public:
  // The first whose communicators take a configuration of this layout, and calls on them do not block.
  static constexpr int kOldest = 21800;

  // The library that BEELINE_NCCL_LIBRARY names, else one that this process has loaded already (torch's), else `given`
  // (a path; empty for none), else what the loader finds. The first that will do is kept. kUnsupported, with what would
  // help, where there is none.
  static Result<const Library*> open(const std::string& given);

  [[nodiscard]] const Functions& functions() const { return functions_; }
  // "NCCL 2.27.3 (/usr/lib/libnccl.so.2)".
  [[nodiscard]] const std::string& description() const { return description_; }
  // What a code means, with NCCL's own words: kPeerLost where the other side is gone, else kSystem.
  [[nodiscard]] Status failed(std::string_view what, Return code, Comm comm) const;

 private:
  Library() = default;
  static Result<const Library*> load(const std::string& given);

  Functions functions_;
  std::string description_;
};

}  // namespace beeline::os::nccl
