// "ucx": UCX, found at run time, as far as it is one-sided: by the kernel or xpmem on one host, by RDMA between hosts.
#pragma once

#include "beeline/transport/transport.h"

namespace beeline::transport::ucx {

// `library`: the path of libucp where BEELINE_UCX_LIBRARY names none; empty: the loader looks for it.
std::unique_ptr<Transport> make(const std::string& library);

// Which UCX there is and by what it would move; kUnsupported, with what would help, if it cannot be used.
Result<std::string> describe(const std::string& library);

}  // namespace beeline::transport::ucx
