// Our own protocol over TCP: for peers on other hosts, and for whoever wants no memory shared. A large transfer goes
// over several connections at once; one that breaks is taken up again where it was.
#pragma once

#include "beeline/transport/transport.h"

namespace beeline::transport::tcp {

std::unique_ptr<Transport> make();

}  // namespace beeline::transport::tcp
