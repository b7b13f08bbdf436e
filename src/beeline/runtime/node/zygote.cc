#include "beeline/runtime/node/zygote.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

#include "beeline/os/process.h"

namespace beeline::runtime::node {
namespace {

constexpr int kZygoteFd = 3;

std::string zygote_log(const LaunchOptions& options) {
  return options.session_dir + "/logs/zygote.log";
}

std::vector<std::string> environment_of_session(const LaunchOptions& options, const Variables& more) {
  std::vector<std::pair<std::string, std::string>> changes(options.zygote_env.begin(), options.zygote_env.end());
  changes.insert(changes.end(), more.begin(), more.end());
  changes.emplace_back(kSessionVariable, options.session_dir);
  return os::environment_with(changes);
}

}  // namespace

std::vector<std::string> zygote_command(const LaunchOptions& options, const std::vector<std::string>& interpreter) {
  if (interpreter.empty()) return options.zygote_command;
  auto command = interpreter;
  command.insert(command.end(), options.zygote_command.begin() + 1, options.zygote_command.end());
  return command;
}

Result<Zygote> spawn_zygote(const LaunchOptions& options, const std::vector<std::string>& command) {
  BEELINE_ASSIGN(auto ends, os::make_socket_pair());
  const os::Fd log(::open(zygote_log(options).c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!log.is_open()) return Status::from_errno("open " + zygote_log(options), errno);
  os::SpawnOptions spawn;
  spawn.command = command;
  spawn.environment = environment_of_session(options, {});
  spawn.descriptors = {{log.get(), 1}, {log.get(), 2}, {ends.second.get(), kZygoteFd}};
  Zygote zygote;
  BEELINE_ASSIGN(zygote.pid, os::spawn_process(spawn));
  zygote.socket = os::FrameSocket(std::move(ends.first));
  return zygote;
}

Result<pid_t> spawn_fresh_worker(const LaunchOptions& options, std::vector<std::string> command, std::uint64_t token,
                                 const Variables& env, int out, int err) {
  os::SpawnOptions spawn;
  auto environment = env;
  if (const auto program = env.find(kProgramVariable); program != env.end()) {
    spawn.command = {program->second};
    environment[kWorkerTokenVariable] = std::to_string(token);
  } else {
    spawn.command = std::move(command);
    spawn.command.insert(spawn.command.end(), {"--worker", std::to_string(token)});
  }
  spawn.environment = environment_of_session(options, environment);
  spawn.descriptors = {{out, 1}, {err, 2}};
  return os::spawn_process(spawn);
}

Result<pid_t> spawn_venv_maker(const LaunchOptions& options, const Variables& env, int out, int err, int socket) {
  os::SpawnOptions spawn;
  spawn.command = options.venv_command;
  spawn.environment = environment_of_session(options, env);
  spawn.descriptors = {{out, 1}, {err, 2}, {socket, kZygoteFd}};
  spawn.new_session = true;
  return os::spawn_process(spawn);
}

std::string venv_of(const Variables& env) {
  const auto found = env.find(kVenvVariable);
  return found == env.end() ? std::string() : found->second.substr(0, found->second.find(' '));
}

bool needs_fresh_interpreter(const Variables& env) {
  if (env.contains(kPyExecutableVariable)) return true;
  // Thread counts (OMP_NUM_THREADS ...) are not among them: a forked worker sets those through the libraries.
  static constexpr std::array<std::string_view, 11> kPrefixes = {"LD_",    "PYTHON", "MALLOC_",       "GLIBC_",
                                                                 "KMP_",   "GOMP_",  "OMP_PROC_BIND", "OMP_PLACES",
                                                                 "TORCH_", "ATEN_",  "MKL_DEBUG"};
  return std::any_of(env.begin(), env.end(), [](const auto& variable) {
    if (variable.first == kProgramVariable) return true;
    return std::any_of(kPrefixes.begin(), kPrefixes.end(),
                       [&](std::string_view prefix) { return variable.first.starts_with(prefix); });
  });
}

std::string zygote_log_tail(const LaunchOptions& options) {
  return os::file_tail(zygote_log(options), 4096);
}

}  // namespace beeline::runtime::node
