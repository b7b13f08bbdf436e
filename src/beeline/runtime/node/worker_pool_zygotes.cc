// The pool's part that keeps zygotes: of the session's own interpreter, and of each virtual environment in use.
#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "beeline/runtime/node/worker_pool.h"

namespace beeline::runtime::node {
namespace {

using control::Type;

constexpr int kMaxZygoteFailures = 3;
// For those of another daemon, which look every few milliseconds whether there is a new one.
constexpr auto kZygoteBackWithin = std::chrono::seconds(1);
// Tokens of different daemons of a session are told apart by their upper bits.
constexpr int kGenerationShift = 40;

}  // namespace

ZygoteRole WorkerPool::Interpreter::role_for(const Flavour& flavour) const {
  return flavour.torch && torch_failures < kMaxZygoteFailures ? ZygoteRole::kTorch : ZygoteRole::kBase;
}

WorkerPool::Interpreter* WorkerPool::interpreter_for(const Flavour& flavour) {
  const auto name = venv_of(flavour.env);
  if (const auto found = interpreters_.find(name); found != interpreters_.end()) return &found->second;
  const auto* python = environments_.interpreter(flavour.env, flavour.job);
  if (python == nullptr) return nullptr;
  auto& interpreter = interpreters_[name];
  interpreter.name = name;
  interpreter.command = zygote_command(options_, *python);
  if (!needs_fresh_interpreter(flavour.env)) respawn_base(interpreter);
  return &interpreter;
}

Status WorkerPool::spawn_base(Interpreter& interpreter) {
  BEELINE_ASSIGN(auto zygote, spawn_zygote(options_, interpreter.command));
  interpreter.base = std::move(zygote);
  return watch_zygote(interpreter, ZygoteRole::kBase);
}

Status WorkerPool::resume(pid_t base, pid_t torch, std::uint64_t generation) {
  next_token_ = (generation << kGenerationShift) + 1;
  prestarts_.clear();
  warm_ = true;
  auto& own = interpreters_[""];
  own.command = options_.zygote_command;
  if (base == 0) return spawn_base(own);
  own.base_awaited = base;
  own.torch_awaited = torch;
  own.respawn = loop_.after(kZygoteBackWithin, [this, &own] { respawn_base(own); });
  if (torch != 0) own.torch_deadline = loop_.after(kZygoteBackWithin, [this, &own] { expect_no_torch_zygote(own); });
  return Status::ok();
}

bool WorkerPool::adopt_zygote(pid_t pid, os::FrameSocket& socket) {
  const auto found = interpreters_.find("");
  if (stopped_ || found == interpreters_.end()) return false;
  auto& own = found->second;
  if (pid != own.base_awaited && pid != own.torch_awaited) return false;
  const auto role = pid == own.base_awaited ? ZygoteRole::kBase : ZygoteRole::kTorch;
  auto& zygote = own.zygote(role).emplace();
  zygote.pid = pid;
  zygote.socket = std::move(socket);
  zygote.ready = true;
  if (role == ZygoteRole::kBase) {
    own.base_awaited = 0;
    loop_.cancel(std::exchange(own.respawn, 0));
  } else {
    own.torch_awaited = 0;
    loop_.cancel(std::exchange(own.torch_deadline, 0));
  }
  if (!watch_zygote(own, role).is_ok()) {
    zygote_ended(own, role);
    return true;
  }
  // What it had to tell meanwhile may have been read together with its first frame.
  loop_.after(Nanos::zero(), [this, &own, role] {
    if (own.zygote(role)) zygote_readable(own, role);
  });
  return true;
}

void WorkerPool::expect_no_torch_zygote(Interpreter& own) {
  own.torch_deadline = 0;
  if (const pid_t pid = std::exchange(own.torch_awaited, 0); pid != 0) ::kill(pid, SIGKILL);
}

void WorkerPool::respawn_base(Interpreter& interpreter) {
  interpreter.respawn = 0;
  if (const pid_t pid = std::exchange(interpreter.base_awaited, 0); pid != 0) ::kill(pid, SIGKILL);
  if (stopped_ || interpreter.base) return;
  if (const auto status = spawn_base(interpreter); !status.is_ok()) {
    std::fprintf(stderr, "beelined: the zygote does not start: %s\n", status.message().c_str());
    fail_all(interpreter, "no worker can be started: " + status.message());
  }
}

void WorkerPool::fail_all(const Interpreter& interpreter, const std::string& why) {
  fail_wants([&](const Flavour& flavour) { return venv_of(flavour.env) == interpreter.name; },
             interpreter.name.empty() ? NoWorker::kNotStarted : NoWorker::kNoEnvironment, why);
}

void WorkerPool::ask_for_torch_zygote(Interpreter& interpreter) {
  if (interpreter.torch || interpreter.torch_awaited != 0) return;
  if (!interpreter.base || !interpreter.base->ready) return;
  const bool is_wanted = std::any_of(wants_.begin(), wants_.end(), [&](const Want& want) {
    return want.flavour.torch && venv_of(want.flavour.env) == interpreter.name &&
           interpreter.role_for(want.flavour) == ZygoteRole::kTorch && !needs_fresh_interpreter(want.flavour.env);
  });
  if (!is_wanted) return;
  auto ends = os::make_socket_pair();
  if (!ends.is_ok()) return;
  const auto status = interpreter.base->socket.send(control::encode(Type::kForkZygote, control::ForkZygote{{"torch"}}),
                                                    {ends.value().second.get()});
  if (!status.is_ok()) return;  // its end is seen on its socket
  interpreter.torch.emplace();
  interpreter.torch->socket = os::FrameSocket(std::move(ends.value().first));
  if (!watch_zygote(interpreter, ZygoteRole::kTorch).is_ok()) interpreter.torch.reset();
}

Status WorkerPool::watch_zygote(Interpreter& interpreter, ZygoteRole role) {
  const int fd = interpreter.zygote(role)->socket.fd();
  return loop_.watch(fd, EPOLLIN, [this, name = interpreter.name, role](std::uint32_t events) {
    auto& own = interpreters_.at(name);
    if ((events & EPOLLOUT) != 0) (void)own.zygote(role)->socket.flush();
    zygote_readable(own, role);
  });
}

void WorkerPool::zygote_readable(Interpreter& interpreter, ZygoteRole role) {
  auto& target = interpreter.zygote(role);
  os::Frame frame;
  while (target) {
    auto received = target->socket.receive(frame);
    if (!received.is_ok() || *received == os::FrameSocket::Receive::kClosed) return zygote_ended(interpreter, role);
    if (*received == os::FrameSocket::Receive::kNothing) break;
    zygote_frame(interpreter, role, frame.bytes);
  }
  if (target) (void)loop_.change(target->socket.fd(), EPOLLIN | (target->socket.wants_write() ? EPOLLOUT : 0u));
}

void WorkerPool::zygote_frame(Interpreter& interpreter, ZygoteRole role, BytesView frame) {
  const auto type = control::type_of(frame);
  if (!type.is_ok()) return zygote_ended(interpreter, role);
  switch (type.value()) {
    case Type::kZygoteReady: {
      interpreter.zygote(role)->ready = true;
      (role == ZygoteRole::kBase ? interpreter.base_failures : interpreter.torch_failures) = 0;
      return;
    }
    case Type::kForked: {
      const auto forked = control::decode<control::Forked>(frame);
      if (!forked.is_ok()) return zygote_ended(interpreter, role);
      if (forked.value().token == 0) {
        if (interpreter.torch) interpreter.torch->pid = forked.value().pid;
        return;
      }
      auto* worker = find(forked.value().token);
      if (worker == nullptr) return;
      if (forked.value().pid <= 0) {
        start_failed(worker->flavour, "the zygote cannot fork: " + zygote_log_tail(options_));
        logs_.ended(worker->token);
        workers_.erase(forked.value().token);
      } else if (worker->state == Worker::State::kForking) {
        has_pid(*worker, forked.value().pid);
      }
      return;
    }
    case Type::kChildExited: {
      const auto exited = control::decode<control::ChildExited>(frame);
      if (!exited.is_ok()) return zygote_ended(interpreter, role);
      note_status(exited.value().pid, exited.value().status);
      return;
    }
    default:
      std::fprintf(stderr, "beelined: a zygote sent a frame of unknown type %u\n", static_cast<unsigned>(type.value()));
  }
}

// What it was asked to fork and did not is asked for again, under new tokens.
void WorkerPool::forget_unborn(const Interpreter& interpreter, ZygoteRole role) {
  for (auto worker = workers_.begin(); worker != workers_.end();) {
    const bool lost = worker->second.state == Worker::State::kForking && !worker->second.fresh &&
                      venv_of(worker->second.flavour.env) == interpreter.name &&
                      interpreter.role_for(worker->second.flavour) == role;
    if (lost) logs_.ended(worker->first);
    worker = lost ? workers_.erase(worker) : std::next(worker);
  }
}

void WorkerPool::zygote_ended(Interpreter& interpreter, ZygoteRole role) {
  auto& target = interpreter.zygote(role);
  if (!target) return;
  loop_.forget(target->socket.fd());
  if (target->pid > 0) ::kill(target->pid, SIGKILL);
  const bool was_ready = target->ready;
  target.reset();
  if (stopped_) return;
  ++counters_.zygote_restarts;
  const char* name = role == ZygoteRole::kBase ? "base" : "torch";
  std::fprintf(stderr, "beelined: the %s zygote has ended and is started again\n", name);
  forget_unborn(interpreter, role);
  if (role == ZygoteRole::kTorch) {
    interpreter.torch_failures = was_ready ? 0 : interpreter.torch_failures + 1;
    return;
  }
  interpreter.base_failures = was_ready ? 0 : interpreter.base_failures + 1;
  if (interpreter.base_failures < kMaxZygoteFailures) {
    const auto delay = std::chrono::milliseconds(100 * interpreter.base_failures);
    interpreter.respawn = loop_.after(delay, [this, of = interpreter.name] { respawn_base(interpreters_.at(of)); });
    return;
  }
  interpreter.base_failures = 0;
  fail_all(interpreter, "no worker can be started: `" + interpreter.command.front() +
                            " -m beeline._zygote` ends at once. It says:\n" + zygote_log_tail(options_));
  // Tried again at the next want, an environment's after it has been made anew.
  if (interpreter.name.empty()) return;
  interpreter.respawn = loop_.after(Nanos::zero(), [this, of = interpreter.name] {
    auto& broken = interpreters_.at(of);
    broken.respawn = 0;
    if (broken.base || broken.torch) return;
    environments_.forget(of);
    interpreters_.erase(of);
  });
}

bool WorkerPool::zygote_child_ended(pid_t pid) {
  for (auto& [name, interpreter] : interpreters_) {
    for (const auto role : {ZygoteRole::kBase, ZygoteRole::kTorch}) {
      if (const auto& zygote = interpreter.zygote(role); zygote && zygote->pid == pid) {
        zygote_ended(interpreter, role);
        return true;
      }
    }
  }
  return false;
}

bool WorkerPool::is_used(const Interpreter& interpreter) const {
  const auto has_it = [&](const Flavour& flavour) { return venv_of(flavour.env) == interpreter.name; };
  return std::any_of(workers_.begin(), workers_.end(),
                     [&](const auto& entry) { return has_it(entry.second.flavour); }) ||
         std::any_of(wants_.begin(), wants_.end(), [&](const Want& want) { return has_it(want.flavour); }) ||
         std::any_of(prestarts_.begin(), prestarts_.end(), has_it);
}

// Whether it has not been used for so long that its zygotes may go.
bool WorkerPool::is_over(Interpreter& interpreter) const {
  if (interpreter.name.empty() || is_used(interpreter)) {
    interpreter.unused_since.reset();
    return false;
  }
  if (!interpreter.unused_since) interpreter.unused_since = Clock::now();
  if (interpreter.torch && interpreter.torch->pid == 0) return false;  // it is being forked
  return Clock::now() - *interpreter.unused_since >= std::chrono::milliseconds(options_.idle_timeout_ms);
}

void WorkerPool::trim_interpreters() {
  for (auto entry = interpreters_.begin(); entry != interpreters_.end();) {
    auto& interpreter = entry->second;
    if (!is_over(interpreter)) {
      ++entry;
      continue;
    }
    loop_.cancel(interpreter.respawn);
    for (const auto role : {ZygoteRole::kBase, ZygoteRole::kTorch}) {
      auto& zygote = interpreter.zygote(role);
      if (!zygote) continue;
      ::kill(zygote->pid, SIGKILL);
      loop_.forget(zygote->socket.fd());
    }
    entry = interpreters_.erase(entry);
  }
}

std::pair<pid_t, pid_t> WorkerPool::own_zygotes() const {
  const auto own = interpreters_.find("");
  if (own == interpreters_.end()) return {0, 0};
  const auto& base = own->second.base;
  const auto& torch = own->second.torch;
  return {base ? base->pid : own->second.base_awaited, torch ? torch->pid : own->second.torch_awaited};
}

std::vector<std::pair<pid_t, std::string>> WorkerPool::zygotes() const {
  std::vector<std::pair<pid_t, std::string>> found;
  for (const auto& [name, interpreter] : interpreters_) {
    const std::string of = name.empty() ? "" : " of " + name;
    if (interpreter.base) found.emplace_back(interpreter.base->pid, "zygote" + of);
    if (interpreter.torch && interpreter.torch->pid > 0)
      found.emplace_back(interpreter.torch->pid, "torch zygote" + of);
  }
  return found;
}

void WorkerPool::stop() {
  stopped_ = true;
  wants_.clear();
  prestarts_.clear();
  environments_.stop();
  for (auto& [name, interpreter] : interpreters_) {
    for (const auto role : {ZygoteRole::kBase, ZygoteRole::kTorch}) {
      // They hold nothing; their children, our workers, become ours.
      if (const auto& zygote = interpreter.zygote(role); zygote && zygote->pid > 0) ::kill(zygote->pid, SIGKILL);
    }
  }
}

}  // namespace beeline::runtime::node
