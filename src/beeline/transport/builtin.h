// The back ends of this build.
#pragma once

#include "beeline/transport/server.h"
#include "beeline/transport/transport.h"

namespace beeline::transport {

// In the order in which they are preferred while nothing was measured.
Transports make_builtin();

// Serves registered memory by TCP. `regions` outlives the server.
Result<std::unique_ptr<Server>> serve_tcp(const Server::Options& options, RegionSource& regions,
                                          Server::OnControl on_control);
// Connects to an agent's server, for the agent's own use. kInvalidArgument when the token is refused.
Result<os::Fd> connect_control(const os::TcpAddress& address, std::string_view agent_id, std::string_view token,
                               const os::Wait& wait);

}  // namespace beeline::transport
