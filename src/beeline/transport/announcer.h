// What an owner's streams are to do with memory of its GPUs, as one event for each GPU: whoever reads for a peer waits
// for it, in this process or in the peer's.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "beeline/transport/gpu.h"
#include "beeline/transport/transport.h"

namespace beeline::transport {

// What was announced on one GPU, as an event that only ever comes later: each announcement comes after the one before.
// A reader may so wait for work that it does not need; it never misses any. Thread-safe.
class Announcer {
 public:
  enum class Seen : std::uint8_t { kByUs, kByOthers };
  static Result<std::unique_ptr<Announcer>> make(std::shared_ptr<Gpu> gpu, Seen seen);
  ~Announcer();
  Announcer(const Announcer&) = delete;

  Status announce(cuda::Stream stream);
  [[nodiscard]] const cuda::IpcHandle& handle() const { return handle_; }  // where other processes see it
  [[nodiscard]] cuda::Event event() const { return announced_; }
  [[nodiscard]] const std::shared_ptr<Gpu>& gpu() const { return gpu_; }

 private:
  explicit Announcer(std::shared_ptr<Gpu> gpu) : gpu_(std::move(gpu)) {}

  const std::shared_ptr<Gpu> gpu_;
  std::mutex mutex_;
  cuda::Stream chain_ = nullptr;     // holds waits alone
  cuda::Event mark_ = nullptr;       // in the owner's stream
  cuda::Event announced_ = nullptr;  // in the chain. Never destroyed: a reader may be about to wait for it
  cuda::IpcHandle handle_{};
};

// Those of an agent, made when something is first announced, or read. Thread-safe.
class Announcers {
 public:
  Announcers(std::shared_ptr<Gpus> gpus, Announcer::Seen seen) : gpus_(std::move(gpus)), seen_(seen) {}

  Result<Announcer*> at(cuda::Ordinal ordinal);
  // As Exporter::announce() has it.
  Status announce(const Device& device, std::uintptr_t stream);

 private:
  const std::shared_ptr<Gpus> gpus_;
  const Announcer::Seen seen_;
  std::mutex mutex_;
  std::map<cuda::Ordinal, std::unique_ptr<Announcer>> made_;  // needs mutex_; they stay
};

}  // namespace beeline::transport
