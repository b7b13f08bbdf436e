// The path that a plug-in is.
#pragma once

#include <memory>
#include <string>

#include "beeline/transport/plugin.h"
#include "beeline/transport/transport.h"

namespace beeline::transport::plugin {

// For the agent of that name. The plug-in is opened when something first needs it.
std::unique_ptr<Transport> make(std::shared_ptr<Plugin> plugin, const std::string& agent_name);

}  // namespace beeline::transport::plugin
