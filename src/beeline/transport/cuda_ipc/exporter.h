// The owner's side: handles of the allocations that registered memory lies in, and one event for each GPU that tells
// what of the owner's work is done.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "beeline/transport/cuda_ipc/gpu.h"
#include "beeline/transport/exposures.h"

namespace beeline::transport::cuda_ipc {

// Thread-safe.
class CudaExporter final : public Exporter {
 public:
  explicit CudaExporter(std::shared_ptr<Gpus> gpus) : gpus_(std::move(gpus)) {}

  Result<Bytes> contact() override;
  Result<Bytes> key(memory::PublicationId id, const RegionSource::Held& held, Access access) override;
  // A handle cannot be taken back from who has it: leases keep the memory as long as it is read.
  void withdraw(memory::PublicationId id) override { exposures_.withdraw(id); }
  Status check(const std::byte* data, std::uint64_t length, const Device& device) override;
  Status announce(const Device& device, std::uintptr_t stream) override;

 private:
  // What was announced on one GPU, as an event that only ever comes later: each announcement comes after the one
  // before. A reader may so wait for work that it does not need; it never misses any.
  class Announcer {
   public:
    static Result<std::unique_ptr<Announcer>> make(std::shared_ptr<Gpu> gpu);
    ~Announcer();
    Status announce(cuda::Stream stream);
    [[nodiscard]] const cuda::IpcHandle& handle() const { return handle_; }
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
  struct Allocation {
    cuda::Address base = 0;
    std::uint64_t length = 0;
    unsigned long long buffer_id = 0;  // no two allocations of a process have the same
  };
  struct Exported {
    unsigned long long buffer_id = 0;
    cuda::IpcHandle handle{};
  };

  Result<Announcer*> announcer(cuda::Ordinal ordinal);
  static Result<Allocation> allocation_of(const cuda::Driver& driver, const std::byte* data);
  Result<cuda::IpcHandle> handle_of(const cuda::Driver& driver, const Allocation& allocation);
  Result<Bytes> key_of(const Announcer& announcer, const std::byte* data);

  const std::shared_ptr<Gpus> gpus_;
  std::mutex mutex_;
  std::map<cuda::Ordinal, std::unique_ptr<Announcer>> announcers_;  // needs mutex_; they stay
  std::map<cuda::Address, Exported> exported_;  // needs mutex_; by base, of the id: an address is given out anew
  Exposures exposures_;
};

}  // namespace beeline::transport::cuda_ipc
