// The reader's side: what a peer has exported, opened once, and copies to and from it.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "beeline/os/fd.h"
#include "beeline/transport/cuda_ipc/keys.h"
#include "beeline/transport/exposures.h"
#include "beeline/transport/gpu.h"

namespace beeline::transport::cuda_ipc {

inline constexpr std::string_view kName = "cuda_ipc";

// Thread-safe.
class CudaIpcEndpoint final : public Endpoint {
 public:
  static Result<std::unique_ptr<CudaIpcEndpoint>> open(const PeerFacts& peer, std::shared_ptr<Gpus> gpus,
                                                       std::shared_ptr<std::atomic<std::uint64_t>> through_host);

  Status read(std::span<const Run> runs, const os::Wait& wait) override { return transfer(runs, Access::kRead, wait); }
  Status write(std::span<const Run> runs, const os::Wait& wait) override {
    return transfer(runs, Access::kWrite, wait);
  }
  Result<MappedBytes> map(const Region& region, std::uint64_t offset, std::uint64_t length,
                          const os::Wait& wait) override;
  Result<Device> here(const Device& theirs, const os::Wait& wait) override;

 private:
  // An allocation of the peer's, or an event: open as long as somebody refers to it.
  struct OpenedMemory;
  struct OpenedEvent;
  // What an extent's key was made of.
  struct Reached {
    std::shared_ptr<Gpu> gpu;
    std::shared_ptr<OpenedMemory> memory;
    std::shared_ptr<OpenedEvent> event;
    cuda::Address address = 0;  // of the extent's first byte, here
  };
  struct MapHold;

  explicit CudaIpcEndpoint(const PeerFacts& peer);
  static const Reached& reached(const KeyedRun& piece) { return *static_cast<const Reached*>(piece.key->opened.get()); }
  Status transfer(std::span<const Run> runs, Access access, const os::Wait& wait);
  // Of the host's memory in the peer's arena, into memory of a GPU.
  Status read_arena(std::span<const Run> runs, const os::Wait& wait);
  // What the runs reach, opened the first time.
  Status open_pieces(std::span<const Run> runs, Access access, const os::Wait& wait, std::vector<KeyedRun>& pieces,
                     std::vector<std::shared_ptr<const Keys::Extents>>& kept);
  // Until what the owner is to do by now is done. Nothing is put into the lane before.
  Status wait_for_owner(Lane& lane, const Region& region, cuda::Event event, const os::Wait& wait);
  Result<std::shared_ptr<void>> open_extent(const ExtentKey& extent, const os::Wait& wait);
  Result<std::shared_ptr<OpenedMemory>> open_memory(const std::shared_ptr<Gpu>& gpu, const MemoryKey& key);
  Result<std::shared_ptr<OpenedEvent>> open_event(const std::shared_ptr<Gpu>& gpu, const MemoryKey& key);

  const std::string peer_name_;
  OwnerLine& owner_;
  const std::shared_ptr<memory::PeerArena> arena_;
  const bool is_own_process_;
  os::Fd pidfd_;
  std::shared_ptr<Gpus> gpus_;
  std::shared_ptr<std::atomic<std::uint64_t>> through_host_;
  std::mutex mutex_;
  std::optional<std::vector<cuda::Ordinal>> ordinals_;     // needs mutex_; here, by the peer's; -1: not visible here
  std::map<Bytes, std::weak_ptr<OpenedMemory>> memories_;  // needs mutex_; by handle
  std::map<Bytes, std::shared_ptr<OpenedEvent>> events_;   // needs mutex_; likewise: as many as the peer has GPUs
  Keys keys_;                                              // the first to go: what it has opened is of the above
};

}  // namespace beeline::transport::cuda_ipc
