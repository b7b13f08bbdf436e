// One zygote as the daemon sees it: a Python process that waits, with its imports done, to be forked into workers.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "beeline/os/unix_socket.h"
#include "beeline/runtime/launch.h"

namespace beeline::runtime::node {

enum class ZygoteRole : std::uint8_t { kBase = 0, kTorch = 1 };

struct Zygote {
  pid_t pid = 0;  // 0 until the base zygote has told it, for a zygote that was forked
  os::FrameSocket socket;
  bool ready = false;
};

// Starts the base zygote: `options.zygote_command` with the session's environment, its socket as descriptor 3.
Result<Zygote> spawn_zygote(const LaunchOptions& options);

// Starts one worker in an interpreter of its own, for an environment that libraries read when they are loaded:
// `options.zygote_command` with `--worker <token>`; or the program that the environment names, which is no Python.
Result<pid_t> spawn_fresh_worker(const LaunchOptions& options, std::uint64_t token,
                                 const std::map<std::string, std::string>& env, int out, int err);

// True when one of the variables has its effect at the start of a process or when a library is loaded: setting it
// in a forked worker would be too late.
bool needs_fresh_interpreter(const std::map<std::string, std::string>& env);

// What zygotes have written last, for error messages.
std::string zygote_log_tail(const LaunchOptions& options);

}  // namespace beeline::runtime::node
