// How a TCP connection between agents begins: who calls, what for, and by which token.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "beeline/os/wait.h"

namespace beeline::transport::tcp {

enum class Purpose : std::uint32_t {
  kControl = 1,  // frames of the agents (transfer/messages.h)
  kStream = 2,   // requests for memory (stream.h)
};

// The caller's side: kInvalidArgument, with the other's words, when it is refused.
Status open_connection(int fd, Purpose purpose, std::string_view agent_id, std::string_view token,
                       const os::Wait& wait);

struct Caller {
  Purpose purpose = Purpose::kControl;
  std::string agent_id;
};
// The listener's side: reads who calls, and answers. Whoever has no token, or another one, is refused.
Result<Caller> admit_connection(int fd, std::string_view token, const os::Wait& wait);

}  // namespace beeline::transport::tcp
