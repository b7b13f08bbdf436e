// What an owner's side tells its readers: which GPUs it sees, and how they reach an extent of its memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "beeline/base/bytes.h"
#include "beeline/base/msgpack.h"
#include "beeline/os/cuda_driver.h"

namespace beeline::transport::cuda_ipc {

// By the owner's ordinals.
struct Contact {
  std::vector<Bytes> uuids;
  MSGPACK_DEFINE_ARRAY(uuids)
};

struct MemoryKey {
  std::int32_t ordinal = 0;       // the owner's
  std::uint64_t offset = 0;       // of the extent in its allocation
  std::uint64_t length = 0;       // of the allocation
  Bytes memory;                   // CUipcMemHandle of the allocation
  Bytes event;                    // CUipcEventHandle of what the owner announces on that GPU
  std::uint64_t own_address = 0;  // of the allocation, and the event, where the reader is the owner's own process:
  std::uint64_t own_event = 0;    // handles open in others only
  MSGPACK_DEFINE_ARRAY(ordinal, offset, length, memory, event, own_address, own_event)
};

template <typename Plain>
Bytes bytes_of_plain(const Plain& plain) {
  const BytesView view = view_of(plain);
  return {view.begin(), view.end()};
}

// kCorrupt where there are more or fewer bytes.
template <typename Plain>
Result<Plain> plain_of(BytesView bytes, const char* what) {
  if (bytes.size() == sizeof(Plain)) return Reader(bytes).read<Plain>();
  return Status(Code::kCorrupt, std::string(what) + " of " + std::to_string(bytes.size()) + " bytes");
}

}  // namespace beeline::transport::cuda_ipc
