#include "agent_options.h"

#include <algorithm>
#include <chrono>

namespace beeline::python {

transport::Fault fault_of(const FaultRow& row) {
  const auto& [path, kind, at, after_bytes, delay_s, times] = row;
  transport::Fault fault;
  fault.path = path;
  fault.kind = static_cast<transport::Fault::Kind>(kind);
  fault.at = static_cast<transport::Fault::At>(at);
  fault.after_bytes = after_bytes;
  fault.delay = std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(std::min(delay_s, 1e9)));
  fault.times = times;
  return fault;
}

os::TlsOptions tls_of(const TlsRow& row) {
  return {std::get<0>(row), std::get<1>(row), std::get<2>(row)};
}

}  // namespace beeline::python
