// Memory of devices in transfers: what this process's own streams still do with it comes first.
#pragma once

#include <vector>

#include "beeline/transfer/agent.h"
#include "beeline/transfer/fetch.h"
#include "session.h"

namespace beeline::python {

// Those whose memory is filled, or pushed; each once.
std::vector<transport::Device> devices_of(const std::vector<transfer::Copy>& copies);

// Until what this process has put into its current streams is done, without the GIL. Raises as a transfer does.
void settle(const transfer::Agent& agent, const std::vector<transport::Device>& devices, const os::Wait& wait);

}  // namespace beeline::python
