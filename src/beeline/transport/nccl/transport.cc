#include "beeline/transport/nccl/transport.h"

#include <utility>

#include "beeline/transport/nccl/endpoint.h"
#include "beeline/transport/nccl/exporter.h"

namespace beeline::transport::nccl {
namespace {

// What this process's own streams hold is settled by cuda_ipc, whichever path is taken: see Agent::settle().
class NcclTransport final : public Transport {
 public:
  explicit NcclTransport(NcclOptions options) : library_(options.library), exporter_(gpus_, std::move(options)) {}

  [[nodiscard]] std::string_view name() const override { return kName; }
  [[nodiscard]] const Capabilities& capabilities() const override {
    static constexpr Capabilities kCapabilities{.same_host_only = false,
                                                .arena_only = false,
                                                .maps = false,
                                                .writes = true,
                                                .of_devices = true,
                                                .device_types = 1u << Device::kCuda,
                                                .expected_gbps = 20,
                                                .slice_bytes = kMaxRequestBytes};
    return kCapabilities;
  }
  [[nodiscard]] Exporter* exporter() const override { return &exporter_; }

  [[nodiscard]] Status reaches(const PeerFacts& peer, const Region& region) const override {
    if (region.device.is_host()) {
      return {Code::kUnsupported, "the memory is the host's: it moves memory of GPUs to memory of GPUs"};
    }
    if (!capabilities().serves(region.device)) {
      return {Code::kUnsupported, "it does not reach memory of device type " + std::to_string(region.device.type)};
    }
    if (!peer.same_host()) BEELINE_RETURN_IF_ERROR(check_elsewhere(peer));
    BEELINE_RETURN_IF_ERROR(cuda::Driver::open().status());
    return os::nccl::Library::open(library_).status();
  }

  Result<std::unique_ptr<Endpoint>> connect(const PeerFacts& peer, const os::Wait& wait) const override {
    if (peer.owner == nullptr) return Status(Code::kUnsupported, "the peer is no agent that could be asked");
    BEELINE_ASSIGN(const os::nccl::Library* const library, os::nccl::Library::open(library_));
    BEELINE_ASSIGN(auto endpoint, NcclEndpoint::open(peer, gpus_, *library, wait));
    return std::unique_ptr<Endpoint>(std::move(endpoint));
  }

 private:
  static Status check_elsewhere(const PeerFacts& peer) {
    if (!peer.certificate.empty() || peer.tls != nullptr) {
      return {Code::kUnsupported, "NCCL's bytes travel in clear, and these agents were opened to speak TLS (tls=)"};
    }
    if (!peer.tcp.empty()) return Status::ok();
    return {Code::kUnsupported, "the peer listens on no TCP address: open its agent with tcp="};
  }

  const std::shared_ptr<Gpus> gpus_ = std::make_shared<Gpus>();
  const std::string library_;
  mutable NcclExporter exporter_;
};

}  // namespace

std::unique_ptr<Transport> make(const NcclOptions& options) {
  return std::make_unique<NcclTransport>(options);
}

Result<std::string> describe(const std::string& library) {
  BEELINE_ASSIGN(const os::nccl::Library* const found, os::nccl::Library::open(library));
  return found->description();
}

}  // namespace beeline::transport::nccl
