// Memory of NVIDIA GPUs of a process on this host, by CUDA's inter-process handles: mapped on the same GPU, copied by
// the driver otherwise. What the owner's streams are to do with it comes first, by an event that both sides share. And
// what lies in a peer's arena, straight into memory of a GPU.
#pragma once

#include "beeline/transport/transport.h"

namespace beeline::transport::cuda_ipc {

std::unique_ptr<Transport> make();

}  // namespace beeline::transport::cuda_ipc
