// An owner with nothing registered.
#pragma once

#include "beeline/transport/transport.h"

namespace beeline::transport {

class NoRegion final : public RegionSource {
 public:
  Result<Held> hold(memory::PublicationId /*id*/, Access /*access*/, std::string_view /*agent_id*/) override {
    return Status(Code::kStale, "nothing is registered");
  }
};

}  // namespace beeline::transport
