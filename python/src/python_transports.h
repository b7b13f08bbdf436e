// Transports that are written in Python (beeline/transfer/transport.py), as plug-ins of an agent.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "beeline/transport/plugin.h"

namespace beeline::python {

namespace nb = nanobind;

// (the object, its name, same_host_only, can_write, named_only, device types as a mask, expected GB/s)
using TransportRow = std::tuple<nb::object, std::string, bool, bool, bool, std::uint64_t, double>;

// With the GIL. They are called on any thread, which takes the GIL for the time of the call: who calls them holds no
// lock that a thread with the GIL may wait for. What they raise comes out as a Status.
std::vector<std::shared_ptr<transport::Plugin>> plugins_of(const std::vector<TransportRow>& transports);

}  // namespace beeline::python
