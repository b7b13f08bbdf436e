// One function per file; module.cc calls them.
#pragma once

#include "session.h"
#include "trees.h"
#include "values.h"

namespace beeline::python {

void bind_objects(nb::module_& m);
void bind_calls(nb::module_& m);
void bind_streams(nb::module_& m);
void bind_worker(nb::module_& m);
void bind_groups(nb::module_& m);
void bind_transfer(nb::module_& m);
void bind_transfer_counters(nb::module_& m);
void bind_metrics(nb::module_& m);
void bind_state(nb::module_& m);
void bind_devices(nb::module_& m);
void bind_installed_engines(nb::module_& m);
void bind_python_transports(nb::module_& m);

}  // namespace beeline::python
