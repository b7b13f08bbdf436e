#include "beeline/transport/nccl/endpoint.h"

#include "beeline/os/process.h"
#include "beeline/transport/nccl/exporter.h"

namespace beeline::transport::nccl {
namespace {

// Of a pair of GPUs: a communicator takes memory of both.
constexpr std::size_t kIdleChannels = 2;

// Runs without gaps on either side are one piece, and one send.
void join_runs(std::vector<KeyedRun>& pieces) {
  for (auto& [run, key] : pieces) {
    if (run.count < 2 || run.stride != run.length || run.local_stride != run.length) continue;
    run.length *= run.count;
    run.count = 1;
  }
}

}  // namespace

Result<std::unique_ptr<NcclEndpoint>> NcclEndpoint::open(const PeerFacts& peer, std::shared_ptr<Gpus> gpus,
                                                         const os::nccl::Library& library, const os::Wait& wait) {
  std::unique_ptr<NcclEndpoint> endpoint(new NcclEndpoint(peer, std::move(gpus), library));
  Owner& owner = endpoint->owner_;
  owner.name = peer.name;
  owner.is_on_this_host = peer.same_host();
  owner.tcp = peer.tcp;
  if (owner.is_on_this_host) {
    BEELINE_ASSIGN(owner.pidfd, os::open_pidfd(peer.pid));
  }
  BEELINE_ASSIGN(const Bytes told, peer.owner->contact(kName, wait));
  BEELINE_ASSIGN(owner.contact, unpack<Contact>(told, "the contact of an agent's NCCL"));
  if (owner.contact.secret.size() != kSecretBytes) {
    return Status(Code::kCorrupt, "a secret of " + std::to_string(owner.contact.secret.size()) + " bytes");
  }
  return endpoint;
}

Result<Bytes> NcclEndpoint::uuid_beside(cuda::Ordinal ours, std::int32_t theirs) const {
  const auto& uuids = owner_.contact.uuids;
  if (theirs < 0 || static_cast<std::size_t>(theirs) >= uuids.size()) {
    return Status(Code::kCorrupt,
                  "GPU " + std::to_string(theirs) + " of an owner that has " + std::to_string(uuids.size()));
  }
  BEELINE_ASSIGN(const cuda::Driver* const driver, cuda::Driver::open());
  BEELINE_ASSIGN(Bytes uuid, uuid_of(*driver, ours));
  if (uuid == uuids[static_cast<std::size_t>(theirs)]) return one_gpu();
  return uuid;
}

Result<Device> NcclEndpoint::here(const Device& theirs, const os::Wait& /*wait*/) {
  BEELINE_ASSIGN(const cuda::Driver* const driver, cuda::Driver::open());
  if (theirs.id < driver->devices() && uuid_beside(theirs.id, theirs.id)) return Device{Device::kCuda, theirs.id};
  for (cuda::Ordinal ours = 0; ours < driver->devices(); ++ours) {
    if (uuid_beside(ours, theirs.id)) return Device{Device::kCuda, ours};
  }
  return one_gpu();
}

Status NcclEndpoint::transfer(std::span<const Run> runs, Access access, const os::Wait& wait) {
  if (runs.empty()) return Status::ok();
  const Device& theirs = runs.front().region->device;
  const Device& ours = runs.front().local_device;
  if (theirs.type != Device::kCuda || ours.type != Device::kCuda) {
    return {Code::kUnsupported, "it moves memory of GPUs to memory of GPUs, and no memory of the host's"};
  }
  std::vector<KeyedRun> pieces;
  std::vector<std::shared_ptr<const Keys::Extents>> kept;
  const auto open = [](const ExtentKey& extent) -> Result<std::shared_ptr<void>> {
    BEELINE_RETURN_IF_ERROR(check_extent_key(extent));
    return std::shared_ptr<void>();
  };
  BEELINE_RETURN_IF_ERROR(keys_.append_pieces(runs, access, open, wait, pieces, kept));
  if (pieces.empty()) return Status::ok();
  join_runs(pieces);
  const GpuPair pair{ours.id, theirs.id};
  for (;;) {
    bool was_idle = false;
    BEELINE_ASSIGN(auto channel, take(pair, wait, was_idle));
    Status status = channel->transfer(access, pieces, wait);
    if (channel->is_in_order()) give(pair, std::move(channel));
    // One that lay idle may have ended long ago: that says nothing of the owner.
    if (status.code() == Code::kPeerLost && was_idle && wait.check()) continue;
    return std::move(status).with_context("while moving " + std::to_string(bytes_of(runs)) + " bytes between GPU " +
                                          std::to_string(theirs.id) + " of " + owner_.name + " and GPU " +
                                          std::to_string(ours.id) + " here");
  }
}

Result<std::unique_ptr<Channel>> NcclEndpoint::take(const GpuPair& pair, const os::Wait& wait, bool& was_idle) {
  {
    const std::lock_guard guard(mutex_);
    auto& idle = idle_[pair];
    if (!idle.empty()) {
      auto channel = std::move(idle.back());
      idle.pop_back();
      was_idle = true;
      return channel;
    }
  }
  const auto [ours, theirs] = pair;
  BEELINE_ASSIGN(const Bytes uuid, uuid_beside(ours, theirs));
  BEELINE_ASSIGN(auto gpu, gpus_->at(ours));
  auto channel = Channel::open(owner_, library_, std::move(gpu), uuid, theirs, wait);
  if (channel) return channel;
  return channel.status().with_context("while meeting GPU " + std::to_string(theirs) + " of " + owner_.name +
                                       " in a communicator");
}

void NcclEndpoint::give(const GpuPair& pair, std::unique_ptr<Channel> channel) {
  const std::lock_guard guard(mutex_);
  auto& idle = idle_[pair];
  if (idle.size() < kIdleChannels) idle.push_back(std::move(channel));
}

}  // namespace beeline::transport::nccl
