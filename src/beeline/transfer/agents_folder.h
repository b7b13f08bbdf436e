// The folder in which agents on this host are found: their sockets, and the counters of all who move tensors.
#pragma once

#include <string>
#include <string_view>

namespace beeline::transfer {

inline constexpr std::string_view kAgentSocketSuffix = ".agent";

// Of this user's agents that were told of no other: <BEELINE_TMPDIR or /tmp>/beeline-<uid>/agents.
std::string agents_folder();

// Removes sockets, counters and spans of processes that were killed.
void remove_left_behind(const std::string& folder);

}  // namespace beeline::transfer
