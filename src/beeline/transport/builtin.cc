#include "beeline/transport/builtin.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "beeline/transport/cma/transport.h"
#include "beeline/transport/cuda_ipc/transport.h"
#include "beeline/transport/faulty/transport.h"
#include "beeline/transport/nccl/transport.h"
#include "beeline/transport/nixl/transport.h"
#include "beeline/transport/object_store/transport.h"
#include "beeline/transport/plugin/library.h"
#include "beeline/transport/plugin/transport.h"
#include "beeline/transport/shm/transport.h"
#include "beeline/transport/tcp/opening.h"
#include "beeline/transport/tcp/server.h"
#include "beeline/transport/tcp/transport.h"
#include "beeline/transport/ucx/transport.h"

namespace beeline::transport {

Transports make_builtin(const std::string& ucx_library, const NixlOptions& nixl, const NcclOptions& nccl) {
  Transports transports;
  transports.push_back(shm::make());
  transports.push_back(cma::make());
  transports.push_back(cuda_ipc::make());
  transports.push_back(nccl::make(nccl));
  transports.push_back(ucx::make(ucx_library));
  transports.push_back(nixl::make(nixl));
  transports.push_back(object_store::make());
  transports.push_back(tcp::make());
  return transports;
}

Transports make_mapping() {
  Transports transports;
  transports.push_back(shm::make());
  return transports;
}

Result<std::string> describe_ucx(const std::string& library) {
  return ucx::describe(library);
}

Result<std::string> describe_nccl(const std::string& library) {
  return nccl::describe(library);
}

Result<std::string> check_nixl(const NixlOptions& options) {
  return nixl::check(options);
}

Result<std::shared_ptr<Plugin>> load_plugin(const std::string& library) {
  return plugin::load(library);
}

std::unique_ptr<Transport> make_plugin(std::shared_ptr<Plugin> plugin, const std::string& agent_name) {
  return plugin::make(std::move(plugin), agent_name);
}

Result<Transports> with_faults(Transports transports, const std::vector<Fault>& faults) {
  for (const Fault& fault : faults) {
    const bool is_known = std::ranges::any_of(transports, [&](const auto& each) { return each->name() == fault.path; });
    if (fault.path.empty() || is_known) continue;
    return Status(Code::kInvalidArgument, "a fault of path \"" + fault.path + "\", which there is not");
  }
  for (auto& transport : transports) {
    std::vector<Fault> own;
    std::ranges::copy_if(faults, std::back_inserter(own),
                         [&](const Fault& fault) { return fault.path.empty() || fault.path == transport->name(); });
    if (!own.empty()) transport = faulty::make(std::move(transport), std::move(own));
  }
  return transports;
}

Result<std::unique_ptr<Server>> serve_tcp(const Server::Options& options, RegionSource& regions,
                                          Server::OnControl on_control) {
  return tcp::TcpServer::start(options, regions, std::move(on_control));
}

Result<std::unique_ptr<os::ByteStream>> connect_control(const os::TcpAddress& address, const PeerFacts& peer,
                                                        const os::Wait& wait) {
  return tcp::connect(address, tcp::Purpose::kControl, peer, wait);
}

}  // namespace beeline::transport
