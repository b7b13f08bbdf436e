// Where calls and actors may run, as Python gives it.
#pragma once

#include "session.h"

namespace beeline::python {

// None: anywhere.
runtime::Scheduling to_scheduling(nb::handle scheduling);

}  // namespace beeline::python
