#include "beeline/transport/announcer.h"

#include <utility>

namespace beeline::transport {

Result<std::unique_ptr<Announcer>> Announcer::make(std::shared_ptr<Gpu> gpu, Seen seen) {
  std::unique_ptr<Announcer> made(new Announcer(std::move(gpu)));
  const cuda::Driver& driver = made->gpu_->driver();
  const auto& functions = driver.functions();
  const cuda::Current current(driver, made->gpu_->context());
  BEELINE_RETURN_IF_ERROR(current.status());
  BEELINE_RETURN_IF_ERROR(driver.call(functions.create_stream, &made->chain_, cuda::kStreamNonBlocking));
  BEELINE_RETURN_IF_ERROR(driver.call(functions.create_event, &made->mark_, cuda::kEventDisableTiming));
  const unsigned shared = seen == Seen::kByOthers ? cuda::kEventInterprocess : 0;
  BEELINE_RETURN_IF_ERROR(driver.call(functions.create_event, &made->announced_, cuda::kEventDisableTiming | shared));
  if (shared != 0) BEELINE_RETURN_IF_ERROR(driver.call(functions.ipc_event, &made->handle_, made->announced_));
  // From the first moment on it has happened, or is to happen.
  BEELINE_RETURN_IF_ERROR(driver.call(functions.record, made->announced_, made->chain_));
  return made;
}

Announcer::~Announcer() {
  if (gpu_->is_forked()) return;
  const cuda::Driver& driver = gpu_->driver();
  const cuda::Current current(driver, gpu_->context());
  if (mark_ != nullptr) driver.end(driver.functions().destroy_event, mark_);
  if (chain_ != nullptr) driver.end(driver.functions().destroy_stream, chain_);
}

Status Announcer::announce(cuda::Stream stream) {
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

Result<Announcer*> Announcers::at(cuda::Ordinal ordinal) {
  BEELINE_ASSIGN(auto gpu, gpus_->at(ordinal));
  const std::lock_guard guard(mutex_);
  auto& announcer = made_[ordinal];
  if (announcer == nullptr) {
    auto made = Announcer::make(std::move(gpu), seen_);
    if (!made) return made.status().with_context("while making an event that says what a GPU has done");
    announcer = std::move(*made);
  }
  return announcer.get();
}

Status Announcers::announce(const Device& device, std::uintptr_t stream) {
  // Where there is no driver, no stream holds anything.
  if (device.type != Device::kCuda || !cuda::Driver::open()) return Status::ok();
  BEELINE_ASSIGN(Announcer* const announcer, at(device.id));
  return announcer->announce(stream_of(stream)).with_context("while announcing the work of a stream");
}

}  // namespace beeline::transport
