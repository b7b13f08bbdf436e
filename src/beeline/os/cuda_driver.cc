#include "beeline/os/cuda_driver.h"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>

#include "beeline/base/clock.h"
#include "beeline/os/fork_count.h"

namespace beeline::os::cuda {
namespace {

constexpr Return kOutOfMemory = 2;

// Most waits are short; long ones cost few looks.
constexpr auto kSpin = std::chrono::microseconds(20);
constexpr auto kFirstNap = std::chrono::microseconds(10);
constexpr auto kLongestNap = std::chrono::microseconds(250);

Status unusable(const std::string& why) {
  return {Code::kUnsupported, "CUDA cannot be used: " + why};
}

template <typename... Parameters>
void find(void* library, Function<Parameters...>& function, std::string& missing) {
  function.address = reinterpret_cast<Return (*)(Parameters...)>(::dlsym(library, function.name));
  if (function.address == nullptr) missing += (missing.empty() ? "" : ", ") + std::string(function.name);
}

// Names of those that the library lacks.
std::string find_all(void* library, Functions& all) {
  std::string missing;
  const auto find_each = [&](auto&... each) { (find(library, each, missing), ...); };
  find_each(all.init, all.driver_version, all.error_name, all.error_text, all.device_count, all.device, all.device_uuid,
            all.device_name, all.device_attribute, all.can_access_peer, all.primary_retain, all.primary_release,
            all.push_context, all.pop_context, all.enable_peer_access, all.exchange_capture_mode, all.pointer_attribute,
            all.address_range, all.ipc_memory, all.open_ipc_memory, all.close_ipc_memory, all.ipc_event,
            all.open_ipc_event, all.create_event, all.destroy_event, all.record, all.query, all.create_stream,
            all.destroy_stream, all.wait_event, all.is_capturing, all.copy, all.copy_peer, all.copy_2d);
  return missing;
}

}  // namespace

Result<const Driver*> Driver::open() {
  static std::mutex mutex;
  static const Driver* opened = nullptr;    // needs mutex; never freed: threads of the driver may outlive us
  static std::uint64_t opened_in_fork = 0;  // likewise
  const std::lock_guard guard(mutex);
  if (opened == nullptr) {
    // A failure is tried again: a library may be named, or a device appear, later.
    BEELINE_ASSIGN(opened, load());
    opened_in_fork = fork_count();
  }
  if (opened_in_fork != fork_count()) {
    return unusable("this process was forked from one that has used it: start workers with spawn, not with fork");
  }
  return opened;
}

Result<const Driver*> Driver::load() {
  const char* const named = std::getenv("BEELINE_CUDA_LIBRARY");
  std::unique_ptr<Driver> driver(new Driver());
  driver->library_ = named != nullptr && *named != 0 ? named : "libcuda.so.1";
  void* const library = ::dlopen(driver->library_.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return unusable(::dlerror());
  Functions& functions = driver->functions_;
  if (const std::string missing = find_all(library, functions); !missing.empty()) {
    return unusable(driver->library_ + " lacks " + missing + ": a driver of CUDA 11.4 or later is needed");
  }
  Status status = driver->call(functions.init, 0u);
  if (status) status = driver->call(functions.driver_version, &driver->version_);
  if (status) status = driver->call(functions.device_count, &driver->devices_);
  if (!status) return unusable(driver->library_ + ": " + status.message());
  if (driver->devices_ == 0) return unusable("no GPU is visible (CUDA_VISIBLE_DEVICES)");
  return driver.release();
}

Status Driver::failed(const char* function, Return code) const {
  const char* name = nullptr;
  const char* text = nullptr;
  if (functions_.error_name.address(code, &name) != kSuccess) name = nullptr;
  if (functions_.error_text.address(code, &text) != kSuccess) text = nullptr;
  return {code == kOutOfMemory ? Code::kResourceExhausted : Code::kSystem,
          std::string(function) + ": " + (name != nullptr ? name : "an error") + " (" + std::to_string(code) + ")" +
              (text != nullptr ? std::string(", ") + text : "")};
}

Status Driver::finish(Event event, FunctionRef<Status()> go_on) const {
  const auto begin = Clock::now();
  Nanos nap = kFirstNap;
  for (;;) {
    const Return code = functions_.query.address(event);
    if (code == kSuccess) return Status::ok();
    if (code != kNotReady) return failed(functions_.query.name, code);
    if (Clock::now() - begin < kSpin) {
      std::this_thread::yield();
      continue;
    }
    BEELINE_RETURN_IF_ERROR(go_on());
    std::this_thread::sleep_for(nap);
    nap = std::min<Nanos>(nap * 2, kLongestNap);
  }
}

Current::Current(const Driver& driver, Context context) : driver_(driver) {
  status_ = driver.call(driver.functions().exchange_capture_mode, &mode_);
  if (!status_) return;
  is_exchanged_ = true;
  status_ = driver.call(driver.functions().push_context, context);
  is_pushed_ = status_.is_ok();
}

Current::~Current() {
  Context popped = nullptr;
  if (is_pushed_) driver_.end(driver_.functions().pop_context, &popped);
  if (is_exchanged_) driver_.end(driver_.functions().exchange_capture_mode, &mode_);
}

}  // namespace beeline::os::cuda
