// Plug-ins that come as shared libraries with the ABI of beeline/transport_plugin.h.
#pragma once

#include <memory>
#include <string>

#include "beeline/transport/plugin.h"

namespace beeline::transport::plugin {

// Opens the library; it stays loaded as long as the process. kUnsupported when there is none or it has another ABI,
// kInvalidArgument when its table is incomplete.
Result<std::shared_ptr<Plugin>> load(const std::string& library);

}  // namespace beeline::transport::plugin
