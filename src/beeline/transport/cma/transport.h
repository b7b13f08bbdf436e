// Any memory of a process on this host, read and written by the kernel on the caller's behalf (process_vm_readv,
// "cross memory attach"): one copy, no mapping.
#pragma once

#include "beeline/transport/transport.h"

namespace beeline::transport::cma {

std::unique_ptr<Transport> make();

}  // namespace beeline::transport::cma
