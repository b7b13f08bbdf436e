// How bindings of the transfer engine wait: without the GIL, within bounds, and with an exception where it failed; and
// what threads without the GIL hold.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "beeline/os/wait.h"
#include "bindings.h"

namespace beeline::python {

template <typename Work>
auto without_gil(Work&& work) {
  const nb::gil_scoped_release released;
  return work();
}

// Keeps a Python object; drops it on whatever thread lets go of it last.
std::shared_ptr<void> keep(nb::object object);

// Waits of an agent: bounded, and ended by what a signal's handler raises.
os::Wait wait_for(std::optional<double> timeout_s, const os::Cancellation* cancellation = nullptr);
void require(const Status& status, const std::string& what);

}  // namespace beeline::python
