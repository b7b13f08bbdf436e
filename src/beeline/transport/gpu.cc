#include "beeline/transport/gpu.h"

#include <algorithm>
#include <utility>

#include "beeline/os/process.h"

namespace beeline::transport {
namespace {

// Whether a signal came cannot be seen here, and asking what its handler did may wait for the GIL: now and then.
constexpr auto kAskEvery = std::chrono::milliseconds(100);

}  // namespace

Status Patience::operator()() {
  BEELINE_RETURN_IF_ERROR(wait_.check());
  if (const auto now = Clock::now(); now - asked_at_ >= kAskEvery) {
    asked_at_ = now;
    if (wait_.is_interrupted()) return {Code::kInterrupted, "a signal ended the wait for a GPU"};
  }
  if (os::has_ended(peer_)) return {Code::kPeerLost, peer_name_ + " has ended"};
  return Status::ok();
}

Result<std::shared_ptr<Gpu>> Gpu::open(const cuda::Driver& driver, cuda::Ordinal ordinal) {
  if (ordinal < 0 || ordinal >= driver.devices()) {
    return Status(Code::kInvalidArgument, "there is no GPU " + std::to_string(ordinal) + " here: " +
                                              std::to_string(driver.devices()) + " are visible to this process");
  }
  const auto& functions = driver.functions();
  std::shared_ptr<Gpu> gpu(new Gpu(driver, ordinal));
  cuda::Ordinal device = 0;
  int pitch = 0;
  BEELINE_RETURN_IF_ERROR(driver.call(functions.device, &device, ordinal));
  BEELINE_RETURN_IF_ERROR(driver.call(functions.device_attribute, &pitch, cuda::kDeviceMaxPitch, device));
  BEELINE_RETURN_IF_ERROR(driver.call(functions.primary_retain, &gpu->context_, device));
  gpu->max_pitch_ = static_cast<std::uint64_t>(std::max(pitch, 0));
  return gpu;
}

Gpu::~Gpu() {
  if (context_ == nullptr || is_forked()) return;
  const auto& functions = driver_.functions();
  {
    const cuda::Current current(driver_, context_);
    for (const auto& each : idle_) {
      driver_.end(functions.destroy_event, each.done);
      driver_.end(functions.destroy_stream, each.stream);
    }
  }
  driver_.end(functions.primary_release, ordinal_);
}

Lane::Lane(std::shared_ptr<Gpu> gpu)
    : gpu_(std::move(gpu)), current_(gpu_->driver(), gpu_->context()), status_(current_.status()) {
  if (!status_) return;
  {
    const std::lock_guard guard(gpu_->mutex_);
    if (!gpu_->idle_.empty()) {
      own_ = gpu_->idle_.back();
      gpu_->idle_.pop_back();
      return;
    }
  }
  const auto& functions = driver().functions();
  status_ = driver().call(functions.create_stream, &own_.stream, cuda::kStreamNonBlocking);
  if (status_) status_ = driver().call(functions.create_event, &own_.done, cuda::kEventDisableTiming);
}

Lane::~Lane() {
  if (own_.stream == nullptr) return;
  if (is_idle_ && own_.done != nullptr) {
    const std::lock_guard guard(gpu_->mutex_);
    gpu_->idle_.push_back(own_);
    return;
  }
  // The driver lets go of them once what they hold has ended.
  if (own_.done != nullptr) driver().end(driver().functions().destroy_event, own_.done);
  driver().end(driver().functions().destroy_stream, own_.stream);
}

Status Lane::wait_for(cuda::Event event, FunctionRef<Status()> go_on) {
  is_idle_ = false;
  BEELINE_RETURN_IF_ERROR(driver().call(driver().functions().wait_event, own_.stream, event, 0u));
  return finish(go_on);
}

Status Lane::wait_for_stream(cuda::Stream stream, FunctionRef<Status()> go_on) {
  is_idle_ = false;
  BEELINE_RETURN_IF_ERROR(driver().call(driver().functions().record, own_.done, stream));
  BEELINE_RETURN_IF_ERROR(driver().finish(own_.done, go_on));
  is_idle_ = true;
  return Status::ok();
}

Status Lane::finish() {
  const auto always = [] { return Status::ok(); };
  return finish(always);
}

Status Lane::finish(FunctionRef<Status()> go_on) {
  is_idle_ = false;
  BEELINE_RETURN_IF_ERROR(driver().call(driver().functions().record, own_.done, own_.stream));
  BEELINE_RETURN_IF_ERROR(driver().finish(own_.done, go_on));
  is_idle_ = true;
  return Status::ok();
}

Result<std::shared_ptr<Gpu>> Gpus::at(cuda::Ordinal ordinal) {
  BEELINE_ASSIGN(const cuda::Driver* const driver, cuda::Driver::open());
  const std::lock_guard guard(mutex_);
  auto& gpu = gpus_[ordinal];
  if (gpu == nullptr) {
    BEELINE_ASSIGN(gpu, Gpu::open(*driver, ordinal));
  }
  return gpu;
}

Result<bool> Gpus::is_direct(const std::shared_ptr<Gpu>& one, const std::shared_ptr<Gpu>& other) {
  if (one == other) return true;
  const std::pair<cuda::Ordinal, cuda::Ordinal> pair = std::minmax(one->ordinal(), other->ordinal());
  const std::lock_guard guard(mutex_);
  if (const auto known = direct_.find(pair); known != direct_.end()) return known->second;
  const auto& driver = one->driver();
  const auto& functions = driver.functions();
  bool is_direct = true;
  for (const auto& [from, to] : {std::pair(one, other), std::pair(other, one)}) {
    int can = 0;
    BEELINE_RETURN_IF_ERROR(driver.call(functions.can_access_peer, &can, from->ordinal(), to->ordinal()));
    is_direct = is_direct && can != 0;
    if (can == 0) continue;
    const cuda::Current current(driver, from->context());
    BEELINE_RETURN_IF_ERROR(current.status());
    const cuda::Return code = functions.enable_peer_access.address(to->context(), 0);
    if (code != cuda::kSuccess && code != cuda::kPeerAccessAlreadyEnabled) {
      return driver.failed(functions.enable_peer_access.name, code);
    }
  }
  direct_[pair] = is_direct;
  return is_direct;
}

Status check_memory(const Gpu& gpu, const std::byte* data) {
  const cuda::Driver& driver = gpu.driver();
  const auto type = pointer_attribute<std::uint32_t>(driver, cuda::kPointerMemoryType, data);
  if (!type || *type != cuda::kMemoryDevice) return {Code::kUnsupported, "the memory is no memory of a GPU"};
  BEELINE_ASSIGN(const auto is_managed, pointer_attribute<std::uint32_t>(driver, cuda::kPointerIsManaged, data));
  if (is_managed != 0) {
    return {Code::kUnsupported, "managed memory is handed to no other process: copy it to a tensor"};
  }
  BEELINE_ASSIGN(const auto ordinal, pointer_attribute<std::int32_t>(driver, cuda::kPointerDeviceOrdinal, data));
  if (ordinal == gpu.ordinal()) return Status::ok();
  return {Code::kInvalidArgument,
          "the memory lies on GPU " + std::to_string(ordinal) + ", not on GPU " + std::to_string(gpu.ordinal())};
}

Result<Bytes> uuid_of(const cuda::Driver& driver, cuda::Ordinal ordinal) {
  cuda::Ordinal device = 0;
  cuda::Uuid uuid{};
  BEELINE_RETURN_IF_ERROR(driver.call(driver.functions().device, &device, ordinal));
  BEELINE_RETURN_IF_ERROR(driver.call(driver.functions().device_uuid, &uuid, device));
  const BytesView bytes = view_of(uuid);
  return Bytes(bytes.begin(), bytes.end());
}

Result<std::vector<Bytes>> visible_uuids(const cuda::Driver& driver) {
  std::vector<Bytes> uuids;
  for (cuda::Ordinal ordinal = 0; ordinal < driver.devices(); ++ordinal) {
    BEELINE_ASSIGN(Bytes uuid, uuid_of(driver, ordinal));
    uuids.push_back(std::move(uuid));
  }
  return uuids;
}

}  // namespace beeline::transport
