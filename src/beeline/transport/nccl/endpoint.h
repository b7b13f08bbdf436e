// One owner's memory, as its readers reach it: channels between pairs of GPUs, kept for the next transfer.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "beeline/os/nccl_library.h"
#include "beeline/transport/exposures.h"
#include "beeline/transport/gpu.h"
#include "beeline/transport/nccl/channel.h"
#include "beeline/transport/transport.h"

namespace beeline::transport::nccl {

// Thread-safe.
class NcclEndpoint final : public Endpoint {
 public:
  static Result<std::unique_ptr<NcclEndpoint>> open(const PeerFacts& peer, std::shared_ptr<Gpus> gpus,
                                                    const os::nccl::Library& library, const os::Wait& wait);

  Status read(std::span<const Run> runs, const os::Wait& wait) override { return transfer(runs, Access::kRead, wait); }
  Status write(std::span<const Run> runs, const os::Wait& wait) override {
    return transfer(runs, Access::kWrite, wait);
  }
  // Where tensors of that GPU can be fetched to: one that is not the owner's, of the same number if there is.
  Result<Device> here(const Device& theirs, const os::Wait& wait) override;

 private:
  using GpuPair = std::pair<cuda::Ordinal, std::int32_t>;  // ours, the owner's

  NcclEndpoint(const PeerFacts& peer, std::shared_ptr<Gpus> gpus, const os::nccl::Library& library)
      : gpus_(std::move(gpus)), library_(library), keys_(*peer.owner, kName) {}
  Status transfer(std::span<const Run> runs, Access access, const os::Wait& wait);
  // kUnsupported where the two are one GPU.
  Result<Bytes> uuid_beside(cuda::Ordinal ours, std::int32_t theirs) const;
  Result<std::unique_ptr<Channel>> take(const GpuPair& pair, const os::Wait& wait, bool& was_idle);
  void give(const GpuPair& pair, std::unique_ptr<Channel> channel);

  const std::shared_ptr<Gpus> gpus_;
  const os::nccl::Library& library_;
  Owner owner_;
  Keys keys_;
  std::mutex mutex_;
  std::map<GpuPair, std::vector<std::unique_ptr<Channel>>> idle_;  // needs mutex_
};

}  // namespace beeline::transport::nccl
