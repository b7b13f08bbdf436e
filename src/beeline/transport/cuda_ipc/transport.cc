#include "beeline/transport/cuda_ipc/transport.h"

#include <string>

#include "beeline/transport/cuda_ipc/endpoint.h"
#include "beeline/transport/cuda_ipc/exporter.h"

namespace beeline::transport::cuda_ipc {
namespace {

class CudaIpcTransport final : public Transport {
 public:
  [[nodiscard]] std::string_view name() const override { return kName; }
  [[nodiscard]] const Capabilities& capabilities() const override {
    static constexpr Capabilities kCapabilities{.same_host_only = true,
                                                .arena_only = false,
                                                .maps = false,  // what the processor could read
                                                .writes = true,
                                                .of_devices = true,
                                                .device_types = Capabilities::kHostMemory | 1u << Device::kCuda,
                                                .expected_gbps = 100,
                                                .slice_bytes = std::uint64_t{16} << 20};
    return kCapabilities;
  }
  [[nodiscard]] Exporter* exporter() const override { return &exporter_; }

  [[nodiscard]] Status reaches(const PeerFacts& peer, const Region& region) const override {
    if (!peer.same_host()) return {Code::kUnsupported, "the peer is not on this host"};
    if (region.device.is_host()) BEELINE_RETURN_IF_ERROR(check_in_arena(peer, region));
    if (!capabilities().serves(region.device)) {
      return {Code::kUnsupported, "it does not reach memory of device type " + std::to_string(region.device.type)};
    }
    return cuda::Driver::open().status();
  }

  Result<std::unique_ptr<Endpoint>> connect(const PeerFacts& peer, const os::Wait& wait) const override {
    BEELINE_RETURN_IF_ERROR(wait.check());
    if (peer.owner == nullptr) return Status(Code::kUnsupported, "the peer is no agent that could be asked");
    BEELINE_ASSIGN(auto endpoint, CudaIpcEndpoint::open(peer, gpus_, through_host_));
    return std::unique_ptr<Endpoint>(std::move(endpoint));
  }

  [[nodiscard]] Status settle(const Device& device, std::uintptr_t stream, const os::Wait& wait) const override {
    // Where there is no driver, no stream holds anything.
    if (device.type != Device::kCuda || !cuda::Driver::open()) return Status::ok();
    BEELINE_ASSIGN(auto gpu, gpus_->at(device.id));
    Lane lane(std::move(gpu));
    BEELINE_RETURN_IF_ERROR(lane.status());
    const os::Fd nobody;
    const std::string no_name;
    Patience patience(wait, nobody, no_name);
    return lane.wait_for_stream(stream_of(stream), patience)
        .with_context("while waiting for what this process has put into a stream of GPU " + std::to_string(device.id));
  }

  [[nodiscard]] std::uint64_t copies_through_host() const override {
    return through_host_->load(std::memory_order_relaxed);  // a statistic on its own
  }

 private:
  const std::shared_ptr<Gpus> gpus_ = std::make_shared<Gpus>();
  const std::shared_ptr<std::atomic<std::uint64_t>> through_host_ = std::make_shared<std::atomic<std::uint64_t>>(0);
  mutable CudaExporter exporter_{gpus_};
};

}  // namespace

std::unique_ptr<Transport> make() {
  return std::make_unique<CudaIpcTransport>();
}

}  // namespace beeline::transport::cuda_ipc
