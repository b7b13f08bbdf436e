// A path that does wrong on purpose, around one that does not.
#pragma once

#include <memory>
#include <vector>

#include "beeline/transport/fault.h"
#include "beeline/transport/transport.h"

namespace beeline::transport::faulty {

// Named as the inner one.
std::unique_ptr<Transport> make(std::unique_ptr<const Transport> inner, std::vector<Fault> faults);

}  // namespace beeline::transport::faulty
