// Memory of an agent's arena on this host, read through a mapping of it: one copy, by the reader.
#pragma once

#include "beeline/transport/transport.h"

namespace beeline::transport::shm {

std::unique_ptr<Transport> make();

}  // namespace beeline::transport::shm
