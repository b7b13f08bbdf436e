#include "beeline/transport/cuda_ipc/endpoint.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "beeline/os/process.h"
#include "beeline/transport/cuda_ipc/copies.h"

namespace beeline::transport::cuda_ipc {
namespace {

// What a mapped tensor's end gives the work that its process has put into the default stream.
constexpr auto kDropPatience = std::chrono::seconds(60);

}  // namespace

struct CudaIpcEndpoint::OpenedMemory {
  std::shared_ptr<Gpu> gpu;
  cuda::Address base = 0;
  bool is_opened = false;  // else it is this process's own

  ~OpenedMemory() {
    if (!is_opened || gpu->is_forked()) return;
    const cuda::Current current(gpu->driver(), gpu->context());
    gpu->driver().end(gpu->driver().functions().close_ipc_memory, base);
  }
};

struct CudaIpcEndpoint::OpenedEvent {
  std::shared_ptr<Gpu> gpu;
  cuda::Event event = nullptr;
  bool is_opened = false;

  ~OpenedEvent() {
    if (!is_opened || gpu->is_forked()) return;
    const cuda::Current current(gpu->driver(), gpu->context());
    gpu->driver().end(gpu->driver().functions().destroy_event, event);
  }
};

// Of a mapped tensor. Work that uses it and lies in the default stream ends before the tensor's lease does.
struct CudaIpcEndpoint::MapHold {
  Reached reached;

  ~MapHold() {
    if (reached.gpu->is_forked()) return;
    const os::Wait wait(Deadline::after(kDropPatience));
    const auto go_on = [&] { return wait.check(); };
    Lane lane(reached.gpu);
    if (!lane.status()) return;
    // A stream that is stuck for so long, or a context that is broken, leaves nothing to wait for.
    (void)lane.wait_for_stream(stream_of(0), go_on);
  }
};

CudaIpcEndpoint::CudaIpcEndpoint(const PeerFacts& peer)
    : peer_name_(peer.name),
      owner_(*peer.owner),
      arena_(peer.arena),
      is_own_process_(peer.pid == ::getpid()),
      keys_(*peer.owner, kName) {}

Result<std::unique_ptr<CudaIpcEndpoint>> CudaIpcEndpoint::open(
    const PeerFacts& peer, std::shared_ptr<Gpus> gpus, std::shared_ptr<std::atomic<std::uint64_t>> through_host) {
  std::unique_ptr<CudaIpcEndpoint> endpoint(new CudaIpcEndpoint(peer));
  BEELINE_ASSIGN(endpoint->pidfd_, os::open_pidfd(peer.pid));
  endpoint->gpus_ = std::move(gpus);
  endpoint->through_host_ = std::move(through_host);
  return endpoint;
}

Result<Device> CudaIpcEndpoint::here(const Device& theirs, const os::Wait& wait) {
  std::optional<std::vector<cuda::Ordinal>> ordinals;
  {
    const std::lock_guard guard(mutex_);
    ordinals = ordinals_;
  }
  if (!ordinals) {
    BEELINE_ASSIGN(const cuda::Driver* const driver, cuda::Driver::open());
    BEELINE_ASSIGN(const Bytes told, owner_.contact(kName, wait));
    BEELINE_ASSIGN(const auto contact, unpack<Contact>(told, "the GPUs of an agent"));
    ordinals.emplace(contact.uuids.size(), -1);
    for (cuda::Ordinal own = 0; own < driver->devices(); ++own) {
      BEELINE_ASSIGN(const Bytes uuid, uuid_of(*driver, own));
      const auto same = std::ranges::find(contact.uuids, uuid);
      if (same != contact.uuids.end()) (*ordinals)[static_cast<std::size_t>(same - contact.uuids.begin())] = own;
    }
    const std::lock_guard guard(mutex_);
    ordinals_ = ordinals;
  }
  const auto at = static_cast<std::size_t>(theirs.id);
  if (theirs.type == Device::kCuda && theirs.id >= 0 && at < ordinals->size() && (*ordinals)[at] >= 0) {
    return Device{Device::kCuda, (*ordinals)[at]};
  }
  return Status(Code::kUnsupported, "GPU " + std::to_string(theirs.id) + " of " + peer_name_ +
                                        " is not visible to this process: see its CUDA_VISIBLE_DEVICES");
}

Result<std::shared_ptr<CudaIpcEndpoint::OpenedMemory>> CudaIpcEndpoint::open_memory(const std::shared_ptr<Gpu>& gpu,
                                                                                    const MemoryKey& key) {
  auto opened = std::make_shared<OpenedMemory>();  // ends without the lock
  opened->gpu = gpu;
  if (is_own_process_) {
    opened->base = key.own_address;
    return opened;
  }
  BEELINE_ASSIGN(const auto handle, plain_of<cuda::IpcHandle>(key.memory, "a handle"));
  const std::lock_guard guard(mutex_);
  auto& known = memories_[key.memory];
  if (auto again = known.lock()) return again;
  const cuda::Current current(gpu->driver(), gpu->context());
  BEELINE_RETURN_IF_ERROR(current.status());
  BEELINE_RETURN_IF_ERROR(
      gpu->driver()
          .call(gpu->driver().functions().open_ipc_memory, &opened->base, handle, cuda::kIpcMemLazyEnablePeerAccess)
          .with_context("while opening memory of " + peer_name_));
  opened->is_opened = true;
  known = opened;
  std::erase_if(memories_, [](const auto& each) { return each.second.expired(); });
  return opened;
}

Result<std::shared_ptr<CudaIpcEndpoint::OpenedEvent>> CudaIpcEndpoint::open_event(const std::shared_ptr<Gpu>& gpu,
                                                                                  const MemoryKey& key) {
  const std::lock_guard guard(mutex_);
  auto& known = events_[key.event];
  if (known != nullptr) return known;
  auto opened = std::make_shared<OpenedEvent>();
  opened->gpu = gpu;
  if (is_own_process_) {
    opened->event = reinterpret_cast<cuda::Event>(key.own_event);  // NOLINT: its own process gave it as a number
  } else {
    BEELINE_ASSIGN(const auto handle, plain_of<cuda::IpcHandle>(key.event, "an event's handle"));
    const cuda::Current current(gpu->driver(), gpu->context());
    BEELINE_RETURN_IF_ERROR(current.status());
    BEELINE_RETURN_IF_ERROR(gpu->driver()
                                .call(gpu->driver().functions().open_ipc_event, &opened->event, handle)
                                .with_context("while opening an event of " + peer_name_));
    opened->is_opened = true;
  }
  known = std::move(opened);
  return known;
}

Result<std::shared_ptr<void>> CudaIpcEndpoint::open_extent(const ExtentKey& extent, const os::Wait& wait) {
  BEELINE_ASSIGN(const auto key, unpack<MemoryKey>(extent.key, "a key of GPU memory"));
  if (key.offset > key.length || extent.length > key.length - key.offset) {
    return Status(Code::kCorrupt, "a key of an allocation of " + std::to_string(key.length) + " bytes for " +
                                      std::to_string(extent.length) + " from byte " + std::to_string(key.offset) +
                                      " on");
  }
  BEELINE_ASSIGN(const Device device, here({Device::kCuda, key.ordinal}, wait));
  Reached reached;
  BEELINE_ASSIGN(reached.gpu, gpus_->at(device.id));
  BEELINE_ASSIGN(reached.memory, open_memory(reached.gpu, key));
  BEELINE_ASSIGN(reached.event, open_event(reached.gpu, key));
  reached.address = reached.memory->base + key.offset;
  return std::shared_ptr<void>(std::make_shared<Reached>(std::move(reached)));
}

Status CudaIpcEndpoint::open_pieces(std::span<const Run> runs, Access access, const os::Wait& wait,
                                    std::vector<KeyedRun>& pieces,
                                    std::vector<std::shared_ptr<const Keys::Extents>>& kept) {
  bool is_first = true;
  const auto open = [&](const ExtentKey& extent) {
    // What the owner has undone is closed once something else is opened: nothing of it is read any more.
    if (std::exchange(is_first, false)) {
      keys_.forget_if([&](memory::PublicationId id) { return !arena_->is_published(id); });
    }
    return open_extent(extent, wait);
  };
  return keys_.append_pieces(runs, access, open, wait, pieces, kept);
}

Status CudaIpcEndpoint::wait_for_owner(Lane& lane, const Region& region, cuda::Event event, const os::Wait& wait) {
  BEELINE_RETURN_IF_ERROR(owner_.announce(kName, region, wait));
  Patience patience(wait, pidfd_, peer_name_);
  return lane.wait_for(event, patience).with_context("while waiting for what " + peer_name_ + "'s GPU does before");
}

Status CudaIpcEndpoint::read_arena(std::span<const Run> runs, const os::Wait& wait) {
  BEELINE_ASSIGN(const std::byte* const view, arena_->view());
  BEELINE_ASSIGN(const auto local, gpus_->at(runs.front().local_device.id));
  Lane lane(local);
  BEELINE_RETURN_IF_ERROR(lane.status());
  Copies copies(lane, *local, nullptr, local.get(), true, Access::kRead);
  Status status;
  for (const Run& run : runs) {
    status = copies.add(run, reinterpret_cast<std::uintptr_t>(view + run.region->arena_offset), wait);
    if (!status) break;
  }
  const Status ended = copies.finish();
  return status ? ended : status;
}

Status CudaIpcEndpoint::transfer(std::span<const Run> runs, Access access, const os::Wait& wait) {
  if (runs.empty()) return Status::ok();
  if (runs.front().region->device.is_host()) {
    if (access == Access::kRead && !runs.front().local_device.is_host()) return read_arena(runs, wait);
    return {Code::kUnsupported, "it brings the host's memory into memory of GPUs only"};
  }
  std::vector<KeyedRun> pieces;
  std::vector<std::shared_ptr<const Keys::Extents>> kept;
  BEELINE_RETURN_IF_ERROR(open_pieces(runs, access, wait, pieces, kept));
  if (pieces.empty()) return Status::ok();
  const Reached& first = reached(pieces.front());
  std::shared_ptr<Gpu> local;
  bool is_direct = true;
  if (const Device& device = runs.front().local_device; !device.is_host()) {
    BEELINE_ASSIGN(local, gpus_->at(device.id));
    BEELINE_ASSIGN(is_direct, gpus_->is_direct(first.gpu, local));
  }
  Lane lane(first.gpu);
  BEELINE_RETURN_IF_ERROR(lane.status());
  BEELINE_RETURN_IF_ERROR(wait_for_owner(lane, *runs.front().region, first.event->event, wait));
  Copies copies(lane, *first.gpu, first.gpu.get(), local.get(), is_direct, access);
  Status status;
  for (const KeyedRun& piece : pieces) {
    status = copies.add(piece.run, reached(piece).address, wait);
    if (!status) break;
  }
  // What was begun ends, in whatever way, before the memory is anybody else's.
  const Status ended = copies.finish();
  if (!is_direct) through_host_->fetch_add(copies.count(), std::memory_order_relaxed);  // a statistic on its own
  return status ? ended : status;
}

Result<MappedBytes> CudaIpcEndpoint::map(const Region& region, std::uint64_t offset, std::uint64_t length,
                                         const os::Wait& wait) {
  const Run run{&region, offset, nullptr, length};
  std::vector<KeyedRun> pieces;
  std::vector<std::shared_ptr<const Keys::Extents>> kept;
  BEELINE_RETURN_IF_ERROR(open_pieces({&run, 1}, Access::kRead, wait, pieces, kept));
  if (pieces.size() != 1) {
    return Status(Code::kUnsupported, "the bytes lie in " + std::to_string(pieces.size()) + " allocations");
  }
  const Reached& own = reached(pieces.front());
  {
    Lane lane(own.gpu);
    BEELINE_RETURN_IF_ERROR(lane.status());
    BEELINE_RETURN_IF_ERROR(wait_for_owner(lane, region, own.event->event, wait));
  }
  MappedBytes mapped;
  const cuda::Address address = own.address + pieces.front().run.offset;
  mapped.data = reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(address));  // NOLINT: an address on the GPU
  mapped.device = {Device::kCuda, own.gpu->ordinal()};
  mapped.hold = std::shared_ptr<MapHold>(new MapHold{own});
  return mapped;
}

}  // namespace beeline::transport::cuda_ipc
