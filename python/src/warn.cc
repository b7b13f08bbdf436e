#include "warn.h"

#include <nanobind/nanobind.h>

#include <cstdio>

#include "interpreter_end.h"

namespace nb = nanobind;

namespace beeline::python {

void warn(const std::string& message) {
  if (is_finalizing()) {
    std::fprintf(stderr, "beeline: %s\n", message.c_str());
    return;
  }
  const nb::gil_scoped_acquire acquired;
  try {
    nb::module_::import_("logging").attr("getLogger")("beeline.transfer").attr("warning")("%s", message.c_str());
  } catch (nb::python_error& error) {
    error.discard_as_unraisable("a warning of beeline.transfer");
  }
}

}  // namespace beeline::python
