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

// The command `options.zygote_command` with another interpreter in the place of its own; an empty one changes nothing.
std::vector<std::string> zygote_command(const LaunchOptions& options, const std::vector<std::string>& interpreter);

// Starts a base zygote by this command with the session's environment, its socket as descriptor 3.
Result<Zygote> spawn_zygote(const LaunchOptions& options, const std::vector<std::string>& command);

// Starts one worker in an interpreter of its own, for an environment that libraries read when they are loaded:
// the zygote's command with `--worker <token>`; or the program that the environment names, which is no Python.
Result<pid_t> spawn_fresh_worker(const LaunchOptions& options, std::vector<std::string> command, std::uint64_t token,
                                 const Variables& env, int out, int err);

// Starts what makes a virtual environment, `options.venv_command`, in a process group of its own; it answers by
// `socket`, its descriptor 3.
Result<pid_t> spawn_venv_maker(const LaunchOptions& options, const Variables& env, int out, int err, int socket);

// True when one of the variables has its effect at the start of a process or when a library is loaded: setting it
// in a forked worker would be too late.
bool needs_fresh_interpreter(const Variables& env);

// The name of the virtual environment that a worker with these variables runs in, "" for none.
std::string venv_of(const Variables& env);

// What zygotes have written last, for error messages.
std::string zygote_log_tail(const LaunchOptions& options);

}  // namespace beeline::runtime::node
