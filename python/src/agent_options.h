// Options of an agent as Python gives them.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>

#include "beeline/os/tls.h"
#include "beeline/transport/fault.h"

namespace beeline::python {

// (path, kind, at, bytes before it, seconds of delay, how often); kind and place by their positions in
// transport::Fault.
using FaultRow = std::tuple<std::string, int, int, std::uint64_t, double, std::uint64_t>;
// Paths of certificate, key and CA; see beeline/transfer/tls.py.
using TlsRow = std::tuple<std::string, std::string, std::string>;

transport::Fault fault_of(const FaultRow& row);
os::TlsOptions tls_of(const TlsRow& row);

}  // namespace beeline::python
