#include "beeline/transport/cuda_ipc/exporter.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "beeline/transport/cuda_ipc/keys.h"

namespace beeline::transport::cuda_ipc {

Result<Bytes> CudaExporter::contact() {
  BEELINE_ASSIGN(const cuda::Driver* const driver, cuda::Driver::open());
  Contact contact;
  BEELINE_ASSIGN(contact.uuids, visible_uuids(*driver));
  return pack(contact);
}

Status CudaExporter::check(const std::byte* data, std::uint64_t length, const Device& device) {
  if (device.type != Device::kCuda) {
    return {Code::kUnsupported, "it does not reach memory of device type " + std::to_string(device.type)};
  }
  if (length == 0) return Status::ok();
  BEELINE_ASSIGN(const auto gpu, gpus_->at(device.id));
  const cuda::Driver& driver = gpu->driver();
  const cuda::Current current(driver, gpu->context());
  BEELINE_RETURN_IF_ERROR(current.status());
  BEELINE_RETURN_IF_ERROR(check_memory(*gpu, data));
  BEELINE_ASSIGN(const auto is_capable,
                 pointer_attribute<std::uint32_t>(driver, cuda::kPointerIsLegacyIpcCapable, data));
  if (is_capable != 0) return Status::ok();
  return {Code::kUnsupported,
          "memory of a pool or of expandable segments has no handle that other processes could open: run without "
          "expandable_segments:True and backend:cudaMallocAsync in PYTORCH_CUDA_ALLOC_CONF (or PYTORCH_ALLOC_CONF), so "
          "that torch takes its memory by cudaMalloc"};
}

Result<CudaExporter::Allocation> CudaExporter::allocation_of(const cuda::Driver& driver, const std::byte* data) {
  Allocation allocation;
  std::size_t length = 0;
  BEELINE_RETURN_IF_ERROR(
      driver.call(driver.functions().address_range, &allocation.base, &length, cuda::address_of(data)));
  allocation.length = length;
  BEELINE_ASSIGN(allocation.buffer_id, pointer_attribute<unsigned long long>(driver, cuda::kPointerBufferId, data));
  return allocation;
}

Result<cuda::IpcHandle> CudaExporter::handle_of(const cuda::Driver& driver, const Allocation& allocation) {
  const std::lock_guard guard(mutex_);
  const auto known = exported_.find(allocation.base);
  if (known != exported_.end() && known->second.buffer_id == allocation.buffer_id) return known->second.handle;
  Exported exported{allocation.buffer_id, {}};
  BEELINE_RETURN_IF_ERROR(driver.call(driver.functions().ipc_memory, &exported.handle, allocation.base));
  exported_[allocation.base] = exported;
  return exported.handle;
}

Result<Bytes> CudaExporter::key_of(const Announcer& announcer, const std::byte* data) {
  const cuda::Driver& driver = announcer.gpu()->driver();
  BEELINE_ASSIGN(const Allocation allocation, allocation_of(driver, data));
  BEELINE_ASSIGN(const cuda::IpcHandle memory, handle_of(driver, allocation));
  return pack(MemoryKey{announcer.gpu()->ordinal(), cuda::address_of(data) - allocation.base, allocation.length,
                        bytes_of_plain(memory), bytes_of_plain(announcer.handle()), allocation.base,
                        reinterpret_cast<std::uintptr_t>(announcer.event())});
}

Result<Bytes> CudaExporter::key(memory::PublicationId id, const RegionSource::Held& held, Access access) {
  BEELINE_RETURN_IF_ERROR(check(held.data, held.length, held.device));
  BEELINE_ASSIGN(Announcer* const announcer, announcers_.at(held.device.id));
  const cuda::Driver& driver = announcer->gpu()->driver();
  const cuda::Current current(driver, announcer->gpu()->context());
  BEELINE_RETURN_IF_ERROR(current.status());
  // Tensors that touch may lie in two allocations: each has a handle of its own.
  std::vector<memory::Range> extents;
  for (const memory::Range& extent : held.extents) {
    const std::uint64_t end = extent.offset + extent.length;
    for (std::uint64_t at = extent.offset; at < end; at = extents.back().offset + extents.back().length) {
      BEELINE_ASSIGN(const Allocation allocation, allocation_of(driver, held.data + at));
      const std::uint64_t left = allocation.base + allocation.length - cuda::address_of(held.data + at);
      extents.push_back({at, std::min(left, end - at)});
    }
  }
  RegionSource::Held by_allocation = held;
  by_allocation.extents = extents;
  const auto expose = [&](std::byte* data, std::uint64_t /*length*/) -> Result<Exposures::Exposed> {
    BEELINE_ASSIGN(auto key, key_of(*announcer, data));
    return Exposures::Exposed{nullptr, std::move(key)};
  };
  return exposures_.key(id, by_allocation, access, expose);
}

}  // namespace beeline::transport::cuda_ipc
