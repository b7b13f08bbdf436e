// Copies by way of memory that both sides have mapped: the owner copies what is asked for in, the reader out, as an
// object store does. For hosts on which the kernel lets no process read another one's memory.
#pragma once

#include <memory>

#include "beeline/transport/transport.h"

namespace beeline::transport::object_store {

std::unique_ptr<Transport> make();

}  // namespace beeline::transport::object_store
