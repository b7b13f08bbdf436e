// How much of the machine this process may use.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace beeline::os {

// The least that the cgroup of a process and those above it allow: containers, systemd slices and batch systems set
// these. Nothing where none of them sets a limit.
struct CgroupLimits {
  std::optional<std::uint64_t> memory_bytes;
  std::optional<double> cpus;  // a quota's share of its period
};

// Of version 2 and version 1 alike. `root` is for tests: what stands for "/".
CgroupLimits cgroup_limits(const std::filesystem::path& root = "/");

// Bytes: the machine's, or less where a cgroup allows less.
std::uint64_t usable_memory();
// Those that the process is bound to, or fewer, but one at least, where a cgroup's quota allows less.
unsigned usable_cpus();

}  // namespace beeline::os
