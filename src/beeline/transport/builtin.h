// The back ends of this build.
#pragma once

#include "beeline/transport/fault.h"
#include "beeline/transport/nccl_options.h"
#include "beeline/transport/nixl_options.h"
#include "beeline/transport/plugin.h"
#include "beeline/transport/server.h"
#include "beeline/transport/transport.h"

namespace beeline::transport {

// In the order in which they are preferred while nothing was measured. `ucx_library`: the path of libucp where
// BEELINE_UCX_LIBRARY names none; empty: the loader looks for it.
Transports make_builtin(const std::string& ucx_library, const NixlOptions& nixl, const NcclOptions& nccl);
// Of these, those that give access without a copy.
Transports make_mapping();

// Which UCX there is, and by which of its transports it moves; kUnsupported, with what would help, where it cannot be
// used.
Result<std::string> describe_ucx(const std::string& library);

// Which NCCL there is; kUnsupported, with what would help, where there is none that will do. `library` as in
// NcclOptions.
Result<std::string> describe_nccl(const std::string& library);

// Whether the path "nixl" can be used: opens NIXL's engine and closes it again. The version and where it is; else why
// not, and what would help.
Result<std::string> check_nixl(const NixlOptions& nixl);

// What a shared library with the ABI of beeline/transport_plugin.h offers.
Result<std::shared_ptr<Plugin>> load_plugin(const std::string& library);
// The path that a plug-in is, for the agent of that name.
std::unique_ptr<Transport> make_plugin(std::shared_ptr<Plugin> plugin, const std::string& agent_name);

// The same paths; those that a fault names, or all where one names none, do wrong as it says. kInvalidArgument where
// there is no path of the name.
Result<Transports> with_faults(Transports transports, const std::vector<Fault>& faults);

// Serves registered memory by TCP. `regions` outlives the server.
Result<std::unique_ptr<Server>> serve_tcp(const Server::Options& options, RegionSource& regions,
                                          Server::OnControl on_control);
// Connects to an agent's server at one of its addresses, for the agent's own use. kInvalidArgument when the token is
// refused, kNotFound when the server is another agent's.
Result<std::unique_ptr<os::ByteStream>> connect_control(const os::TcpAddress& address, const PeerFacts& peer,
                                                        const os::Wait& wait);

}  // namespace beeline::transport
