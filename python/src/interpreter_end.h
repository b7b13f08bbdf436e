#pragma once

namespace beeline::python {

bool is_finalizing();
// Daemon threads that wait in the core while the interpreter ends do not take the process with them.
void outlive_interpreter();

}  // namespace beeline::python
