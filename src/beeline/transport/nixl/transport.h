// NIXL, as the installed package has it (libnixl_capi.so, opened at run time), over UCX. By default within one host.
#pragma once

#include <memory>

#include "beeline/transport/nixl_options.h"
#include "beeline/transport/transport.h"

namespace beeline::transport::nixl {

// Opens nothing until it is used. Where there is no NIXL, it says so of every region.
std::unique_ptr<Transport> make(const NixlOptions& options);

// Opens an engine, and closes it again: what was found, or why it cannot be used.
Result<std::string> check(const NixlOptions& options);

}  // namespace beeline::transport::nixl
