// Where the program asks for an object, for those who look for what holds memory.
#pragma once

#include <string>

namespace beeline::python {

// `what` and the innermost frames of the program, interned; null unless the environment has
// RAY_record_ref_creation_sites=1. Needs the GIL, and a session.
const std::string* call_site(const char* what);

}  // namespace beeline::python
