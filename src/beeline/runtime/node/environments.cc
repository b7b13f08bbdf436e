#include "beeline/runtime/node/environments.h"

#include <signal.h>

#include <cstdlib>
#include <utility>

#include "beeline/os/process.h"
#include "beeline/runtime/node/zygote.h"

namespace beeline::runtime::node {
namespace {

using control::Type;

// What makes an environment keeps its own deadline, and says what took so long; beyond that it is stopped or starved.
constexpr auto kGrace = std::chrono::seconds(30);
constexpr const char* kLogLabel = "runtime_env";

// How long the making may take, as kVenvVariable says; never: without bound.
Deadline deadline_of(const Variables& env) {
  const auto& text = env.at(kVenvVariable);
  const auto space = text.find(' ');
  const long seconds = space == std::string::npos ? 0 : std::strtol(text.c_str() + space, nullptr, 10);
  return seconds < 0 ? Deadline::never() : Deadline::after(std::chrono::seconds(seconds) + kGrace);
}

}  // namespace

Environments::Environments(os::EventLoop& loop, const LaunchOptions& options, LogPump& logs, Failed failed)
    : loop_(loop), options_(options), logs_(logs), failed_(std::move(failed)) {}

const std::vector<std::string>* Environments::interpreter(const Variables& env, JobId job) {
  const auto name = venv_of(env);
  if (const auto found = environments_.find(name); found != environments_.end()) {
    return found->second.is_made ? &found->second.interpreter : nullptr;
  }
  if (const auto status = start(name, env, job); !status.is_ok()) {
    loop_.after(Nanos::zero(), [this, name, why = status.message()] {
      if (environments_.contains(name)) end(name, why);
    });
  }
  return nullptr;
}

Status Environments::start(const std::string& name, const Variables& env, JobId job) {
  auto& environment = environments_[name];
  if (options_.venv_command.empty()) return {Code::kUnsupported, "this session makes no virtual environments"};
  BEELINE_ASSIGN(auto ends, os::make_socket_pair());
  const auto log = next_log_++;
  BEELINE_ASSIGN(const auto output, logs_.open(log, job));
  const auto pid = spawn_venv_maker(options_, env, output.out.get(), output.err.get(), ends.second.get());
  if (!pid.is_ok()) {
    logs_.ended(log);
    return pid.status();
  }
  logs_.name(log, pid.value());
  logs_.label(log, kLogLabel);
  environment.pid = pid.value();
  environment.socket = os::FrameSocket(std::move(ends.first));
  makers_[environment.pid] = {name, log};
  if (const auto deadline = deadline_of(env); !deadline.is_never()) {
    environment.deadline = loop_.after(deadline.left(), [this, name] {
      environments_.at(name).deadline = 0;
      end(name, "it was not made in time (setup_timeout_seconds in the config of the runtime_env)");
    });
  }
  return loop_.watch(environment.socket.fd(), EPOLLIN, [this, name](std::uint32_t) { read(name); });
}

void Environments::read(const std::string& name) {
  auto& environment = environments_.at(name);
  os::Frame frame;
  auto received = environment.socket.receive(frame);
  if (received.is_ok() && *received == os::FrameSocket::Receive::kNothing) return;
  if (!received.is_ok() || *received == os::FrameSocket::Receive::kClosed) {
    // Its end, which says more, is about to be reported.
    loop_.forget(environment.socket.fd());
    environment.socket.close();
    return;
  }
  auto made = control::decode<control::EnvironmentMade>(frame.bytes);
  const auto type = control::type_of(frame.bytes);
  if (!type.is_ok() || type.value() != Type::kEnvironmentMade || !made.is_ok()) {
    return end(name, "what makes it sent a frame that does not decode");
  }
  if (made.value().error.empty() && made.value().interpreter.empty()) made.value().error = "it has no interpreter";
  environment.interpreter = std::move(made.value().interpreter);
  end(name, made.value().error);
}

void Environments::end(const std::string& name, const std::string& why) {
  auto& environment = environments_.at(name);
  loop_.cancel(std::exchange(environment.deadline, 0));
  if (environment.socket.is_open()) {
    loop_.forget(environment.socket.fd());
    environment.socket.close();
  }
  // With all that it has started: nothing may write there when it is made again.
  if (const pid_t maker = std::exchange(environment.pid, 0); maker > 0) ::kill(-maker, SIGKILL);
  if (why.empty()) {
    environment.is_made = true;
    ++made_;
    return;
  }
  ++failures_;
  environments_.erase(name);
  failed_(name, why);
}

bool Environments::child_ended(pid_t pid, int status) {
  const auto node = makers_.extract(pid);
  if (!node) return false;
  const auto& [name, log] = node.mapped();
  logs_.drain(log);
  const auto is_awaited = [&, pid_of_maker = pid, of = name] {
    const auto found = environments_.find(of);
    return found != environments_.end() && found->second.pid == pid_of_maker;
  };
  if (is_awaited() && environments_.at(name).socket.is_open()) read(name);  // its answer may lie there
  if (is_awaited()) {
    const auto tail = logs_.stderr_tail(log);
    end(name, "what makes it ended too early (" + os::describe_exit(status) + ")" +
                  (tail.empty() ? "" : ". Its stderr:\n" + tail));
  }
  logs_.ended(log);
  return true;
}

void Environments::stop() {
  for (const auto& [pid, maker] : makers_) ::kill(-pid, SIGKILL);
}

}  // namespace beeline::runtime::node
