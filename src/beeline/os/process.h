// Starting, watching, finding and ending processes.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "beeline/base/status.h"
#include "beeline/os/fd.h"

namespace beeline::os {

struct SpawnOptions {
  std::vector<std::string> command;              // command[0] is looked up in PATH when it has no slash
  std::vector<std::string> environment;          // complete, as NAME=value
  std::vector<std::pair<int, int>> descriptors;  // (ours, the child's); all else that is close-on-exec is closed
  bool new_session = false;                      // signals of our terminal do not reach it
};

// Starts a program without fork() of the caller: cheap for large processes, no atfork handlers run. The child
// starts with default signal actions and an empty signal mask.
Result<pid_t> spawn_process(const SpawnOptions& options);

// The environment of this process as NAME=value, with `changes` (name, value) applied over it.
std::vector<std::string> environment_with(const std::vector<std::pair<std::string, std::string>>& changes);

// Readable once the process has ended.
Result<Fd> open_pidfd(pid_t pid);
bool has_ended(const Fd& pidfd);  // false of one that is not open
// Whether the process has ended or its first thread is about to: then its memory is gone, long before its other threads
// are and has_ended() says so. For those who already failed to reach it: reads /proc.
bool is_ending(pid_t pid);

// "exit code 1", "killed by signal 9 (SIGKILL)"; `status` as waitpid gives it.
std::string describe_exit(int status);

// Orphaned descendants become children of this process instead of init's.
Status become_subreaper();

struct ProcessEntry {
  pid_t pid = 0;
  pid_t parent = 0;
  char state = '?';  // as in /proc/<pid>/stat: 'Z' has ended and waits for its parent
};
std::vector<ProcessEntry> list_processes();
// When the process was started, in the kernel's ticks since boot: with its pid it names one process for ever. Nothing
// of one that has ended, reaped or not.
std::optional<std::uint64_t> start_ticks(pid_t pid);
// Children, their children and so on of `root`, without itself and without those that have ended.
std::vector<pid_t> descendants_of(pid_t root);

// The value of `name` in the environment the process was started with; nothing when unset or not readable.
std::optional<std::string> environment_of(pid_t pid, std::string_view name);

// Proportional set size; 0 when it cannot be read.
std::uint64_t pss_bytes(pid_t pid);

// The last `limit` bytes of a file, from the start of a line; empty when it cannot be read.
std::string file_tail(const std::string& path, std::size_t limit);

}  // namespace beeline::os
