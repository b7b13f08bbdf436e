// How many fork() calls lie between this process and the one that loaded the library: objects whose shared
// state belongs to the process that made them compare it, at the price of one load.
#pragma once

#include <cstdint>

namespace beeline::os {

std::uint64_t fork_count();

}  // namespace beeline::os
