// Warnings of the core, as Python gives them on.
#pragma once

#include <string>

namespace beeline::python {

// Through the logger "beeline.transfer"; to stderr where the interpreter is ending. On any thread.
void warn(const std::string& message);

}  // namespace beeline::python
