#include "beeline/transport/builtin.h"

#include "beeline/transport/cma/transport.h"
#include "beeline/transport/shm/transport.h"
#include "beeline/transport/tcp/opening.h"
#include "beeline/transport/tcp/server.h"
#include "beeline/transport/tcp/transport.h"

namespace beeline::transport {

Transports make_builtin() {
  Transports transports;
  transports.push_back(shm::make());
  transports.push_back(cma::make());
  transports.push_back(tcp::make());
  return transports;
}

Result<std::unique_ptr<Server>> serve_tcp(const Server::Options& options, RegionSource& regions,
                                          Server::OnControl on_control) {
  return tcp::TcpServer::start(options, regions, std::move(on_control));
}

Result<os::Fd> connect_control(const os::TcpAddress& address, std::string_view agent_id, std::string_view token,
                               const os::Wait& wait) {
  BEELINE_ASSIGN(auto connection, os::connect_tcp(address, wait));
  BEELINE_RETURN_IF_ERROR(tcp::open_connection(connection.get(), tcp::Purpose::kControl, agent_id, token, wait));
  return connection;
}

}  // namespace beeline::transport
