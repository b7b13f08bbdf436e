// Writes in place to registered tensors, which their readers are told of.
#pragma once

#include <memory>

#include "beeline/transfer/agent.h"
#include "beeline/transfer/descriptor.h"
#include "beeline/transfer/regions.h"

namespace beeline::transfer {

// From here on until the result ends, which does not wait, who reads them gets kTorn. `own` is null for tensors of
// another agent, which is asked: kInvalidArgument unless it has granted them, kStale, kPeerLost or what bounds the
// wait.
Result<std::shared_ptr<void>> begin_write(Agent& agent, const Descriptor& descriptor, std::shared_ptr<Registration> own,
                                          const os::Wait& wait);

}  // namespace beeline::transfer
