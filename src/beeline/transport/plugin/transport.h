// A path that comes as a shared library with the ABI of beeline/transport_plugin.h.
#pragma once

#include <memory>
#include <string>

#include "beeline/transport/transport.h"

namespace beeline::transport::plugin {

// Opens the library; it stays loaded as long as the process. kNotFound when there is none, kUnsupported when it has
// another ABI, kInvalidArgument when its table is incomplete.
Result<std::unique_ptr<Transport>> load(const std::string& library, const std::string& agent_name);

}  // namespace beeline::transport::plugin
