#include "beeline/transport/cuda_ipc/exporter.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "beeline/transport/cuda_ipc/keys.h"

namespace beeline::transport::cuda_ipc {
namespace {

cuda::Address address_of(const std::byte* data) {
  return reinterpret_cast<std::uintptr_t>(data);
}

// An attribute of memory that may be none of CUDA's.
template <typename Value>
Result<Value> attribute(const cuda::Driver& driver, std::int32_t which, const std::byte* data) {
  Value value{};
  BEELINE_RETURN_IF_ERROR(driver.call(driver.functions().pointer_attribute, &value, which, address_of(data)));
  return value;
}

}  // namespace

Result<std::unique_ptr<CudaExporter::Announcer>> CudaExporter::Announcer::make(std::shared_ptr<Gpu> gpu) {
  std::unique_ptr<Announcer> made(new Announcer(std::move(gpu)));
  const cuda::Driver& driver = made->gpu_->driver();
  const auto& functions = driver.functions();
  const cuda::Current current(driver, made->gpu_->context());
  BEELINE_RETURN_IF_ERROR(current.status());
  BEELINE_RETURN_IF_ERROR(driver.call(functions.create_stream, &made->chain_, cuda::kStreamNonBlocking));
  BEELINE_RETURN_IF_ERROR(driver.call(functions.create_event, &made->mark_, cuda::kEventDisableTiming));
  BEELINE_RETURN_IF_ERROR(
      driver.call(functions.create_event, &made->announced_, cuda::kEventDisableTiming | cuda::kEventInterprocess));
  BEELINE_RETURN_IF_ERROR(driver.call(functions.ipc_event, &made->handle_, made->announced_));
  // From the first moment on it has happened, or is to happen.
  BEELINE_RETURN_IF_ERROR(driver.call(functions.record, made->announced_, made->chain_));
  return made;
}

CudaExporter::Announcer::~Announcer() {
  if (gpu_->is_forked()) return;
  const cuda::Driver& driver = gpu_->driver();
  const cuda::Current current(driver, gpu_->context());
  if (mark_ != nullptr) driver.end(driver.functions().destroy_event, mark_);
  if (chain_ != nullptr) driver.end(driver.functions().destroy_stream, chain_);
}

Status CudaExporter::Announcer::announce(cuda::Stream stream) {
  const cuda::Driver& driver = gpu_->driver();
  const auto& functions = driver.functions();
  const cuda::Current current(driver, gpu_->context());
  BEELINE_RETURN_IF_ERROR(current.status());
  std::int32_t capturing = 0;
  BEELINE_RETURN_IF_ERROR(driver.call(functions.is_capturing, stream, &capturing));
  if (capturing != 0) {
    return {Code::kUnsupported,
            "the stream captures a graph, whose work is done when it is launched: register tensors before or after"};
  }
  const std::lock_guard guard(mutex_);
  BEELINE_RETURN_IF_ERROR(driver.call(functions.record, mark_, stream));
  BEELINE_RETURN_IF_ERROR(driver.call(functions.wait_event, chain_, mark_, 0u));
  return driver.call(functions.record, announced_, chain_);
}

Result<CudaExporter::Announcer*> CudaExporter::announcer(cuda::Ordinal ordinal) {
  BEELINE_ASSIGN(auto gpu, gpus_->at(ordinal));
  const std::lock_guard guard(mutex_);
  auto& announcer = announcers_[ordinal];
  if (announcer == nullptr) {
    auto made = Announcer::make(std::move(gpu));
    if (!made) return made.status().with_context("while making an event that other processes see");
    announcer = std::move(*made);
  }
  return announcer.get();
}

Result<Bytes> CudaExporter::contact() {
  BEELINE_ASSIGN(const cuda::Driver* const driver, cuda::Driver::open());
  Contact contact;
  for (cuda::Ordinal ordinal = 0; ordinal < driver->devices(); ++ordinal) {
    BEELINE_ASSIGN(const cuda::Uuid uuid, uuid_of(*driver, ordinal));
    contact.uuids.push_back(bytes_of_plain(uuid));
  }
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
  const auto type = attribute<std::uint32_t>(driver, cuda::kPointerMemoryType, data);
  if (!type || *type != cuda::kMemoryDevice) return {Code::kUnsupported, "the memory is no memory of a GPU"};
  BEELINE_ASSIGN(const auto is_managed, attribute<std::uint32_t>(driver, cuda::kPointerIsManaged, data));
  if (is_managed != 0) {
    return {Code::kUnsupported, "managed memory has no handle that other processes could open: copy it to a tensor"};
  }
  BEELINE_ASSIGN(const auto ordinal, attribute<std::int32_t>(driver, cuda::kPointerDeviceOrdinal, data));
  if (ordinal != device.id) {
    return {Code::kInvalidArgument,
            "the memory lies on GPU " + std::to_string(ordinal) + ", not on GPU " + std::to_string(device.id)};
  }
  BEELINE_ASSIGN(const auto is_capable, attribute<std::uint32_t>(driver, cuda::kPointerIsLegacyIpcCapable, data));
  if (is_capable != 0) return Status::ok();
  return {Code::kUnsupported,
          "memory of a pool or of expandable segments has no handle that other processes could open: run without "
          "expandable_segments:True and backend:cudaMallocAsync in PYTORCH_CUDA_ALLOC_CONF (or PYTORCH_ALLOC_CONF), so "
          "that torch takes its memory by cudaMalloc"};
}

Status CudaExporter::announce(const Device& device, std::uintptr_t stream) {
  // Where there is no driver, no stream holds anything.
  if (device.type != Device::kCuda || !cuda::Driver::open()) return Status::ok();
  BEELINE_ASSIGN(Announcer* const announcer, this->announcer(device.id));
  return announcer->announce(stream_of(stream)).with_context("while announcing the work of a stream");
}

Result<CudaExporter::Allocation> CudaExporter::allocation_of(const cuda::Driver& driver, const std::byte* data) {
  Allocation allocation;
  std::size_t length = 0;
  BEELINE_RETURN_IF_ERROR(driver.call(driver.functions().address_range, &allocation.base, &length, address_of(data)));
  allocation.length = length;
  BEELINE_ASSIGN(allocation.buffer_id, attribute<unsigned long long>(driver, cuda::kPointerBufferId, data));
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
  return pack(MemoryKey{announcer.gpu()->ordinal(), address_of(data) - allocation.base, allocation.length,
                        bytes_of_plain(memory), bytes_of_plain(announcer.handle()), allocation.base,
                        reinterpret_cast<std::uintptr_t>(announcer.event())});
}

Result<Bytes> CudaExporter::key(memory::PublicationId id, const RegionSource::Held& held, Access access) {
  BEELINE_RETURN_IF_ERROR(check(held.data, held.length, held.device));
  BEELINE_ASSIGN(Announcer* const announcer, this->announcer(held.device.id));
  const cuda::Driver& driver = announcer->gpu()->driver();
  const cuda::Current current(driver, announcer->gpu()->context());
  BEELINE_RETURN_IF_ERROR(current.status());
  // Tensors that touch may lie in two allocations: each has a handle of its own.
  std::vector<memory::Range> extents;
  for (const memory::Range& extent : held.extents) {
    const std::uint64_t end = extent.offset + extent.length;
    for (std::uint64_t at = extent.offset; at < end; at = extents.back().offset + extents.back().length) {
      BEELINE_ASSIGN(const Allocation allocation, allocation_of(driver, held.data + at));
      const std::uint64_t left = allocation.base + allocation.length - address_of(held.data + at);
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
