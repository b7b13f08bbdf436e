// Transfers that Python starts: what they do is a callable, run on threads of the core.
#pragma once

#include "bindings.h"

namespace beeline::python {

void bind_runner(nb::module_& m);

}  // namespace beeline::python
