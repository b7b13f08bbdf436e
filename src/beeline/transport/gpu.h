// GPUs as this process uses them, for back ends that reach their memory: a primary context, which is the one that torch
// and the runtime API use, and streams that are lent for one transfer each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "beeline/base/bytes.h"
#include "beeline/base/clock.h"
#include "beeline/base/status.h"
#include "beeline/os/cuda_driver.h"
#include "beeline/os/fd.h"
#include "beeline/os/fork_count.h"
#include "beeline/os/wait.h"

namespace beeline::transport {

namespace cuda = os::cuda;

// The stream that is used where none is named: the legacy default stream, which is torch's default, too. It comes after
// all streams of its context but those that were made non-blocking.
inline cuda::Stream stream_of(std::uintptr_t handle) {
  return reinterpret_cast<cuda::Stream>(handle != 0 ? handle : 1);  // NOLINT: CU_STREAM_LEGACY is 1
}

// How waits for a GPU go on: within the caller's bounds, and as long as the peer lives.
class Patience {
 public:
  // `peer`: its pidfd; of one that is not open nothing is known.
  Patience(const os::Wait& wait, const os::Fd& peer, const std::string& peer_name)
      : wait_(wait), peer_(peer), peer_name_(peer_name) {}
  Status operator()();

 private:
  const os::Wait& wait_;
  const os::Fd& peer_;
  const std::string& peer_name_;
  Clock::time_point asked_at_ = Clock::now();
};

// What a lane is made of.
struct StreamAndEvent {
  cuda::Stream stream = nullptr;
  cuda::Event done = nullptr;
};

// Keeps the primary context as long as it lives. Thread-safe.
class Gpu {
 public:
  static Result<std::shared_ptr<Gpu>> open(const cuda::Driver& driver, cuda::Ordinal ordinal);
  ~Gpu();
  Gpu(const Gpu&) = delete;

  [[nodiscard]] const cuda::Driver& driver() const { return driver_; }
  [[nodiscard]] cuda::Ordinal ordinal() const { return ordinal_; }
  [[nodiscard]] cuda::Context context() const { return context_; }
  [[nodiscard]] std::uint64_t max_pitch() const { return max_pitch_; }
  // In a child of fork() nothing of it may be touched, nor undone.
  [[nodiscard]] bool is_forked() const { return fork_count_ != os::fork_count(); }

 private:
  friend class Lane;
  Gpu(const cuda::Driver& driver, cuda::Ordinal ordinal) : driver_(driver), ordinal_(ordinal) {}

  const cuda::Driver& driver_;
  const cuda::Ordinal ordinal_;
  const std::uint64_t fork_count_ = os::fork_count();
  cuda::Context context_ = nullptr;
  std::uint64_t max_pitch_ = 0;
  std::mutex mutex_;
  std::vector<StreamAndEvent> idle_;  // needs mutex_; nothing is left to do in them
};

// A stream with its GPU's context current on the calling thread. One thread.
class Lane {
 public:
  explicit Lane(std::shared_ptr<Gpu> gpu);
  ~Lane();
  Lane(const Lane&) = delete;
  [[nodiscard]] const Status& status() const { return status_; }
  [[nodiscard]] cuda::Stream stream() const { return own_.stream; }
  [[nodiscard]] const cuda::Driver& driver() const { return gpu_->driver(); }

  // Until the event has happened, as it was recorded last before this call. When `go_on` ends it, the wait stays in the
  // stream and nothing else does.
  Status wait_for(cuda::Event event, FunctionRef<Status()> go_on);
  // Until what another stream of the context holds by now is done.
  Status wait_for_stream(cuda::Stream stream, FunctionRef<Status()> go_on);
  // Until all that was put into the stream is done: not given up, or as long as `go_on` has it.
  Status finish();
  Status finish(FunctionRef<Status()> go_on);

 private:
  std::shared_ptr<Gpu> gpu_;
  cuda::Current current_;
  Status status_;
  StreamAndEvent own_;
  bool is_idle_ = true;  // else the stream is not lent again
};

// The GPUs that one agent has used so far. Thread-safe.
class Gpus {
 public:
  // kUnsupported where there is no driver, kInvalidArgument where there is no such GPU.
  Result<std::shared_ptr<Gpu>> at(cuda::Ordinal ordinal);
  // Whether two GPUs copy to each other directly; lets them the first time.
  Result<bool> is_direct(const std::shared_ptr<Gpu>& one, const std::shared_ptr<Gpu>& other);

 private:
  std::mutex mutex_;
  std::map<cuda::Ordinal, std::shared_ptr<Gpu>> gpus_;              // needs mutex_
  std::map<std::pair<cuda::Ordinal, cuda::Ordinal>, bool> direct_;  // needs mutex_
};

// An attribute of memory that may be none of CUDA's; with a context current.
template <typename Value>
Result<Value> pointer_attribute(const cuda::Driver& driver, std::int32_t which, const std::byte* data) {
  Value value{};
  const auto address = static_cast<cuda::Address>(reinterpret_cast<std::uintptr_t>(data));
  BEELINE_RETURN_IF_ERROR(driver.call(driver.functions().pointer_attribute, &value, which, address));
  return value;
}
// Whether it is memory of that GPU, and not managed; with a context current.
Status check_memory(const Gpu& gpu, const std::byte* data);

// By which processes tell each other of a GPU, whatever CUDA_VISIBLE_DEVICES makes of its number: 16 bytes.
Result<Bytes> uuid_of(const cuda::Driver& driver, cuda::Ordinal ordinal);
// Of all GPUs that this process sees, by their ordinals.
Result<std::vector<Bytes>> visible_uuids(const cuda::Driver& driver);

}  // namespace beeline::transport
