// Memory of NVIDIA GPUs by NCCL, whose sends and receives the two sides make together: for GPUs without access to each
// other, and on other hosts. To who reads and writes it is one-sided, as every path is: the owner's side answers
// requests.
#pragma once

#include <memory>
#include <string>

#include "beeline/transport/nccl_options.h"
#include "beeline/transport/transport.h"

namespace beeline::transport::nccl {

std::unique_ptr<Transport> make(const NcclOptions& options);

// The library that there is; kUnsupported, with what would help, where there is none that will do.
Result<std::string> describe(const std::string& library);

}  // namespace beeline::transport::nccl
