// UCX, NCCL and NIXL, as far as they are installed.
#pragma once

#include <string>
#include <utility>

#include "beeline/transport/builtin.h"

namespace beeline::python {

// (where the library is, how far it may reach: its position in transport::NixlOptions)
transport::NixlOptions nixl_of(const std::pair<std::string, int>& row);

}  // namespace beeline::python
