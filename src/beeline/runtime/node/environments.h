// The virtual environments that workers run in. Each is made by a process of its own (`options.venv_command`) when it
// is first asked for, once for all who wait; it lies in the session's folder and stays as long as the session.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "beeline/os/epoll.h"
#include "beeline/os/unix_socket.h"
#include "beeline/runtime/launch.h"
#include "beeline/runtime/node/log_pump.h"

namespace beeline::runtime::node {

// On the daemon's thread.
class Environments {
 public:
  // It could not be made: whoever waits for it is to be told `why`. The next one who asks has it made again.
  using Failed = std::function<void(const std::string& name, const std::string& why)>;

  Environments(os::EventLoop& loop, const LaunchOptions& options, LogPump& logs, Failed failed);

  // The command that starts its interpreter; null while it is being made, and when that cannot even begin. `env` names
  // it (kVenvVariable), and is the environment of what makes it, whose output goes to the driver of `job`.
  const std::vector<std::string>* interpreter(const Variables& env, JobId job);
  // Its interpreter does not run: it is made again at the next call.
  void forget(const std::string& name) { environments_.erase(name); }

  // A child of the daemon's has ended; false if it made no environment.
  bool child_ended(pid_t pid, int status);
  // Ends what is being made.
  void stop();

  [[nodiscard]] std::uint64_t made() const { return made_; }
  [[nodiscard]] std::uint64_t failures() const { return failures_; }

 private:
  struct Environment {
    bool is_made = false;
    pid_t pid = 0;  // of what makes it
    os::FrameSocket socket;
    os::EventLoop::TimerId deadline = 0;
    std::vector<std::string> interpreter;
  };

  Status start(const std::string& name, const Variables& env, JobId job);
  void read(const std::string& name);
  // How making it ended: without a `why` it is there.
  void end(const std::string& name, const std::string& why);

  os::EventLoop& loop_;
  const LaunchOptions& options_;
  LogPump& logs_;
  Failed failed_;
  std::map<std::string, Environment> environments_;
  struct Maker {
    std::string environment;
    std::uint64_t log = 0;
  };
  std::map<pid_t, Maker> makers_;                    // that have not been reaped
  std::uint64_t next_log_ = std::uint64_t{1} << 63;  // beside the tokens of workers
  std::uint64_t made_ = 0;
  std::uint64_t failures_ = 0;
};

}  // namespace beeline::runtime::node
