// The owner's side: handles of the allocations that registered memory lies in, and one event for each GPU that tells
// what of the owner's work is done.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "beeline/transport/announcer.h"
#include "beeline/transport/exposures.h"
#include "beeline/transport/gpu.h"

namespace beeline::transport::cuda_ipc {

// Thread-safe.
class CudaExporter final : public Exporter {
 public:
  explicit CudaExporter(std::shared_ptr<Gpus> gpus)
      : gpus_(std::move(gpus)), announcers_(gpus_, Announcer::Seen::kByOthers) {}

  Result<Bytes> contact() override;
  Result<Bytes> key(memory::PublicationId id, const RegionSource::Held& held, Access access) override;
  // A handle cannot be taken back from who has it: leases keep the memory as long as it is read.
  void withdraw(memory::PublicationId id) override { exposures_.withdraw(id); }
  Status check(const std::byte* data, std::uint64_t length, const Device& device) override;
  Status announce(const Device& device, std::uintptr_t stream) override { return announcers_.announce(device, stream); }

 private:
  struct Allocation {
    cuda::Address base = 0;
    std::uint64_t length = 0;
    unsigned long long buffer_id = 0;  // no two allocations of a process have the same
  };
  struct Exported {
    unsigned long long buffer_id = 0;
    cuda::IpcHandle handle{};
  };

  static Result<Allocation> allocation_of(const cuda::Driver& driver, const std::byte* data);
  Result<cuda::IpcHandle> handle_of(const cuda::Driver& driver, const Allocation& allocation);
  Result<Bytes> key_of(const Announcer& announcer, const std::byte* data);

  const std::shared_ptr<Gpus> gpus_;
  Announcers announcers_;
  std::mutex mutex_;
  std::map<cuda::Address, Exported> exported_;  // needs mutex_; by base, of the id: an address is given out anew
  Exposures exposures_;
};

}  // namespace beeline::transport::cuda_ipc
