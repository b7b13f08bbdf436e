// Where NCCL is, and where peers on other hosts reach an agent's side of it.
#pragma once

#include <string>

namespace beeline::transport {

struct NcclOptions {
  // libnccl.so.2 of an installed package, where BEELINE_NCCL_LIBRARY names none and the process has loaded none.
  std::string library;
  // On which the agent listens by TCP; empty: it does not, and serves peers on this host only.
  std::string host;
};

}  // namespace beeline::transport
