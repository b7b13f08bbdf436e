#include "beeline/runtime/node/worker_pool.h"

#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "beeline/os/process.h"

namespace beeline::runtime::node {
namespace {

using control::Type;

constexpr auto kRegisterTimeout = std::chrono::seconds(60);
// How long a worker's end waits for its exit status, which comes another way.
constexpr auto kStatusWait = std::chrono::milliseconds(100);
constexpr auto kRetireWait = std::chrono::seconds(2);
constexpr auto kTrimPeriod = std::chrono::seconds(1);
// Workers between fork and registration: more at once only wait for the same cores.
constexpr std::size_t kMaxStarting = 16;
constexpr int kMaxZygoteFailures = 3;

bool is_starting(const Worker& worker) {
  return worker.state == Worker::State::kForking || worker.state == Worker::State::kStarting;
}

}  // namespace

WorkerPool::WorkerPool(os::EventLoop& loop, const LaunchOptions& options, LogPump& logs, PoolEvents& events)
    : loop_(loop), options_(options), logs_(logs), events_(events) {
  const auto cpus = options.resources.find("CPU");
  idle_cap_ = options.idle_workers != 0         ? options.idle_workers
              : cpus != options.resources.end() ? static_cast<std::size_t>(std::clamp(cpus->second, 1.0, 1024.0))
                                                : 1;
  idle_cap_ = std::max<std::size_t>(idle_cap_, options.prestart);
  warm_ = options.prestart == 0;
}

WorkerPool::~WorkerPool() = default;

Status WorkerPool::start() {
  BEELINE_ASSIGN(auto zygote, spawn_zygote(options_));
  base_ = std::move(zygote);
  return watch_zygote(ZygoteRole::kBase);
}

void WorkerPool::want(WantId want, Flavour flavour) {
  if (flavour.torch && !needs_fresh_interpreter(flavour.env)) torch_wanted_ = true;
  wants_.push_back({want, std::move(flavour)});
  if (!base_ && respawn_ == 0) spawn_base();
}

void WorkerPool::cancel(WantId want) {
  std::erase_if(wants_, [want](const Want& waiting) { return waiting.id == want; });
  std::erase_if(failed_, [want](const auto& failed) { return failed.first == want; });
}

void WorkerPool::give_back(WorkerToken token) {
  if (auto* worker = find(token); worker != nullptr && !worker->killed && !worker->ended)
    set_state(*worker, Worker::State::kIdle);
}

void WorkerPool::kill(WorkerToken token, const std::string& why) {
  auto* worker = find(token);
  if (worker == nullptr || worker->pid <= 0 || worker->ended) return;
  if (worker->killed_because.empty()) worker->killed_because = why;
  worker->killed = true;
  ::kill(-worker->pid, SIGKILL);
  ::kill(worker->pid, SIGKILL);
}

Worker* WorkerPool::find(WorkerToken token) {
  const auto found = workers_.find(token);
  return found == workers_.end() ? nullptr : &found->second;
}

void WorkerPool::set_state(Worker& worker, Worker::State state) {
  worker.state = state;
  worker.since = Clock::now();
}

// ----- zygotes

Zygote* WorkerPool::zygote_for(const Flavour& flavour) {
  const bool torch = flavour.torch && torch_failures_ < kMaxZygoteFailures;
  auto& chosen = zygote(torch ? ZygoteRole::kTorch : ZygoteRole::kBase);
  return chosen && chosen->ready ? &*chosen : nullptr;
}

void WorkerPool::spawn_base() {
  respawn_ = 0;
  if (stopped_ || base_) return;
  if (const auto status = start(); !status.is_ok()) {
    std::fprintf(stderr, "beelined: the zygote does not start: %s\n", status.message().c_str());
    fail_wants(nullptr, "no worker can be started: " + status.message());
  }
}

void WorkerPool::ask_for_torch_zygote() {
  if (!torch_wanted_ || torch_ || !base_ || !base_->ready || torch_failures_ >= kMaxZygoteFailures) return;
  auto ends = os::make_socket_pair();
  if (!ends.is_ok()) return;
  const auto status = base_->socket.send(control::encode(Type::kForkZygote, control::ForkZygote{{"torch"}}),
                                         {ends.value().second.get()});
  if (!status.is_ok()) return;  // its end is seen on its socket
  torch_.emplace();
  torch_->socket = os::FrameSocket(std::move(ends.value().first));
  if (!watch_zygote(ZygoteRole::kTorch).is_ok()) torch_.reset();
}

Status WorkerPool::watch_zygote(ZygoteRole role) {
  const int fd = zygote(role)->socket.fd();
  return loop_.watch(fd, EPOLLIN, [this, role](std::uint32_t events) {
    auto& target = zygote(role);
    if ((events & EPOLLOUT) != 0) (void)target->socket.flush();
    os::Frame frame;
    while (target) {
      auto received = target->socket.receive(frame);
      if (!received.is_ok() || *received == os::FrameSocket::Receive::kClosed) return zygote_ended(role);
      if (*received == os::FrameSocket::Receive::kNothing) break;
      zygote_frame(role, frame.bytes);
    }
    if (target) (void)loop_.change(target->socket.fd(), EPOLLIN | (target->socket.wants_write() ? EPOLLOUT : 0u));
  });
}

void WorkerPool::zygote_frame(ZygoteRole role, BytesView frame) {
  const auto type = control::type_of(frame);
  if (!type.is_ok()) return zygote_ended(role);
  switch (type.value()) {
    case Type::kZygoteReady: {
      zygote(role)->ready = true;
      (role == ZygoteRole::kBase ? base_failures_ : torch_failures_) = 0;
      return;
    }
    case Type::kForked: {
      const auto forked = control::decode<control::Forked>(frame);
      if (!forked.is_ok()) return zygote_ended(role);
      if (forked.value().token == 0) {
        if (torch_) torch_->pid = forked.value().pid;
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
      if (!exited.is_ok()) return zygote_ended(role);
      note_status(exited.value().pid, exited.value().status);
      return;
    }
    default:
      std::fprintf(stderr, "beelined: a zygote sent a frame of unknown type %u\n", static_cast<unsigned>(type.value()));
  }
}

void WorkerPool::zygote_ended(ZygoteRole role) {
  auto& target = zygote(role);
  if (!target) return;
  loop_.forget(target->socket.fd());
  if (target->pid > 0) ::kill(target->pid, SIGKILL);
  const bool was_ready = target->ready;
  target.reset();
  if (stopped_) return;
  ++counters_.zygote_restarts;
  const char* name = role == ZygoteRole::kBase ? "base" : "torch";
  std::fprintf(stderr, "beelined: the %s zygote has ended and is started again\n", name);
  // What it was asked to fork and did not: asked for again, under new tokens.
  for (auto worker = workers_.begin(); worker != workers_.end();) {
    const bool lost =
        worker->second.state == Worker::State::kForking && !worker->second.fresh &&
        (worker->second.flavour.torch && torch_failures_ < kMaxZygoteFailures) == (role == ZygoteRole::kTorch);
    if (lost) logs_.ended(worker->first);
    worker = lost ? workers_.erase(worker) : std::next(worker);
  }
  if (role == ZygoteRole::kTorch) {
    torch_failures_ = was_ready ? 0 : torch_failures_ + 1;
    torch_wanted_ = std::any_of(wants_.begin(), wants_.end(), [](const Want& want) { return want.flavour.torch; });
    return;
  }
  base_failures_ = was_ready ? 0 : base_failures_ + 1;
  if (base_failures_ >= kMaxZygoteFailures) {
    base_failures_ = 0;
    fail_wants(nullptr, "no worker can be started: `" + options_.zygote_command.front() +
                            " -m beeline._zygote` ends at once. It says:\n" + zygote_log_tail(options_));
    return;  // tried again at the next want
  }
  respawn_ = loop_.after(std::chrono::milliseconds(100 * base_failures_), [this] { spawn_base(); });
}

std::vector<std::pair<pid_t, std::string>> WorkerPool::zygotes() const {
  std::vector<std::pair<pid_t, std::string>> found;
  if (base_) found.emplace_back(base_->pid, "zygote");
  if (torch_ && torch_->pid > 0) found.emplace_back(torch_->pid, "torch zygote");
  return found;
}

void WorkerPool::stop() {
  stopped_ = true;
  wants_.clear();
  for (auto* target : {&base_, &torch_}) {
    // They hold nothing; their children, our workers, become ours.
    if (*target && (*target)->pid > 0) ::kill((*target)->pid, SIGKILL);
  }
}

// ----- starting

Status WorkerPool::fork_from(Zygote& zygote, Worker& worker) {
  BEELINE_ASSIGN(const auto ends, logs_.open(worker.token));
  BEELINE_RETURN_IF_ERROR(zygote.socket.send(
      control::encode(Type::kFork, control::Fork{worker.token, worker.flavour.env}), {ends.out.get(), ends.err.get()}));
  return loop_.change(zygote.socket.fd(), EPOLLIN | (zygote.socket.wants_write() ? EPOLLOUT : 0u));
}

Status WorkerPool::spawn_fresh(Worker& worker) {
  BEELINE_ASSIGN(const auto ends, logs_.open(worker.token));
  BEELINE_ASSIGN(const pid_t pid,
                 spawn_fresh_worker(options_, worker.token, worker.flavour.env, ends.out.get(), ends.err.get()));
  worker.fresh = true;
  has_pid(worker, pid);
  return Status::ok();
}

void WorkerPool::start_worker(const Flavour& flavour) {
  const bool fresh = needs_fresh_interpreter(flavour.env);
  Zygote* zygote = fresh ? nullptr : zygote_for(flavour);
  if (!fresh && zygote == nullptr) return;
  const WorkerToken token = next_token_++;
  auto& worker = workers_[token];
  worker.token = token;
  worker.flavour = flavour;
  worker.since = Clock::now();
  const auto status = fresh ? spawn_fresh(worker) : fork_from(*zygote, worker);
  if (status.is_ok()) {
    ++counters_.workers_started;
    return;
  }
  logs_.ended(token);
  workers_.erase(token);
  start_failed(flavour, status.message());
}

void WorkerPool::has_pid(Worker& worker, pid_t pid) {
  worker.pid = pid;
  set_state(worker, Worker::State::kStarting);
  by_pid_[pid] = worker.token;
  logs_.name(worker.token, pid);
  const WorkerToken token = worker.token;
  worker.timer = loop_.after(kRegisterTimeout, [this, token] {
    find(token)->timer = 0;
    std::fprintf(stderr, "beelined: worker %d has not registered in time and is killed\n", find(token)->pid);
    kill(token);
  });
  auto pidfd = os::open_pidfd(pid);
  if (!pidfd.is_ok()) return;  // ended already; its status follows
  worker.pidfd = std::move(pidfd).value();
  (void)loop_.watch(worker.pidfd.get(), EPOLLIN, [this, token](std::uint32_t) { gone(token); });
}

Worker* WorkerPool::register_worker(WorkerToken token, pid_t pid, ProcessIndex index) {
  auto* worker = find(token);
  if (worker == nullptr || !is_starting(*worker) || worker->ended) return nullptr;
  if (worker->state == Worker::State::kForking) has_pid(*worker, pid);  // quicker than the zygote's answer
  if (worker->pid != pid) return nullptr;
  loop_.cancel(std::exchange(worker->timer, 0));
  worker->index = index;
  failures_.erase(worker->flavour);
  set_state(*worker, Worker::State::kIdle);
  warm_ = true;
  return worker;
}

void WorkerPool::start_failed(const Flavour& flavour, const std::string& why) {
  ++counters_.worker_start_failures;
  std::fprintf(stderr, "beelined: a worker did not start: %s\n", why.c_str());
  if (++failures_[flavour] < kMaxStartFailures) return;
  failures_.erase(flavour);
  fail_wants(&flavour,
             "its worker did not start, " + std::to_string(kMaxStartFailures) + " times. The last time: " + why);
}

void WorkerPool::fail_wants(const Flavour* flavour, const std::string& why) {
  warm_ = true;
  std::erase_if(wants_, [&](const Want& want) {
    if (flavour != nullptr && want.flavour != *flavour) return false;
    failed_.emplace_back(want.id, why);
    return true;
  });
}

// ----- ending

void WorkerPool::child_ended(pid_t pid, int status) {
  if (base_ && base_->pid == pid) return zygote_ended(ZygoteRole::kBase);
  if (torch_ && torch_->pid == pid) return zygote_ended(ZygoteRole::kTorch);
  note_status(pid, status);
}

void WorkerPool::note_status(pid_t pid, int status) {
  const auto found = by_pid_.find(pid);
  if (found == by_pid_.end()) return;
  auto& worker = workers_.at(found->second);
  worker.exit_status = status;
  if (worker.ended || !worker.pidfd.is_open()) finish(worker.token);
}

void WorkerPool::gone(WorkerToken token) {
  auto& worker = workers_.at(token);
  // What it started ends with it.
  ::kill(-worker.pid, SIGKILL);
  worker.ended = true;
  loop_.forget(worker.pidfd.get());
  worker.pidfd.reset();
  loop_.cancel(std::exchange(worker.timer, 0));
  if (worker.exit_status) return finish(token);
  worker.timer = loop_.after(kStatusWait, [this, token] {
    find(token)->timer = 0;
    finish(token);
  });
}

void WorkerPool::finish(WorkerToken token) {
  auto& worker = workers_.at(token);
  worker.ended = true;
  loop_.cancel(std::exchange(worker.timer, 0));
  by_pid_.erase(worker.pid);
  logs_.drain(token);
  finished_.push_back(token);
}

// ----- matching

bool WorkerPool::report_ended() {
  const auto finished = std::exchange(finished_, {});
  for (const WorkerToken token : finished) {
    const auto node = workers_.extract(token);
    const Worker& worker = node.mapped();
    const std::string status =
        worker.exit_status ? os::describe_exit(*worker.exit_status) : "ended, exit status unknown";
    const std::string how = worker.killed_because.empty() ? status : status + ": " + worker.killed_because;
    if (worker.index != 0) {
      events_.worker_ended(worker, how);
    } else if (!stopped_) {
      const auto tail = logs_.stderr_tail(token);
      start_failed(worker.flavour, how + " before it had registered" + (tail.empty() ? "" : ". Its stderr:\n" + tail));
    }
    logs_.ended(token);
  }
  const auto failed = std::exchange(failed_, {});
  for (const auto& [want, why] : failed) events_.worker_failed(want, why);
  return !finished.empty() || !failed.empty();
}

Worker* WorkerPool::idle_worker(const Flavour& flavour) {
  Worker* found = nullptr;
  for (auto& [token, worker] : workers_) {
    if (worker.state != Worker::State::kIdle || worker.killed || worker.ended) continue;
    if (worker.flavour.env != flavour.env) continue;
    if (worker.flavour.torch == flavour.torch) return &worker;
    if (worker.flavour.torch) found = &worker;  // can do more than is asked
  }
  return found;
}

void WorkerPool::serve_wants() {
  for (std::size_t i = 0; i < wants_.size();) {
    Worker* worker = idle_worker(wants_[i].flavour);
    if (worker == nullptr) {
      ++i;
      continue;
    }
    const WantId want = wants_[i].id;
    wants_.erase(wants_.begin() + static_cast<std::ptrdiff_t>(i));
    set_state(*worker, Worker::State::kBusy);
    events_.worker_ready(want, *worker);
  }
}

void WorkerPool::start_missing() {
  ask_for_torch_zygote();
  std::map<Flavour, std::size_t> starting;
  std::size_t all = 0;
  for (const auto& [token, worker] : workers_) {
    if (!is_starting(worker) || worker.ended) continue;
    ++starting[worker.flavour];
    ++all;
  }
  // A copy: a failure to start takes wants away.
  const auto wants = wants_;
  for (const auto& want : wants) {
    if (all >= kMaxStarting) return;
    auto& under_way = starting[want.flavour];
    if (under_way > 0) {
      --under_way;
      continue;
    }
    start_worker(want.flavour);
    ++all;
  }
  if (!prestarted_ && base_ && base_->ready) {
    prestarted_ = true;
    for (std::uint32_t i = 0; i < options_.prestart; ++i) start_worker({});
  }
}

void WorkerPool::trim_idle() {
  trim_ = 0;
  std::vector<Worker*> idle;
  for (auto& [token, worker] : workers_) {
    if (worker.state == Worker::State::kRetiring && Clock::now() - worker.since > kRetireWait) {
      set_state(worker, Worker::State::kIdle);
    }
    if (worker.state == Worker::State::kIdle && !worker.ended) idle.push_back(&worker);
  }
  std::sort(idle.begin(), idle.end(), [](const Worker* a, const Worker* b) { return a->since < b->since; });
  std::size_t left = idle.size();
  for (Worker* worker : idle) {
    const auto idle_for = Clock::now() - worker->since;
    const bool too_many = left > idle_cap_ && idle_for > kTrimPeriod;
    const bool too_long = left > options_.prestart && idle_for > std::chrono::milliseconds(options_.idle_timeout_ms);
    if (!too_many && !too_long) break;
    set_state(*worker, Worker::State::kRetiring);
    events_.retire(*worker);
    --left;
  }
}

void WorkerPool::run() {
  if (stopped_) {
    report_ended();
    return;
  }
  do {
    serve_wants();
    start_missing();
  } while (report_ended());
  // The timer runs only while there is a worker that it could end: an idle session does not wake up.
  std::size_t idle = 0;
  bool retiring = false;
  for (const auto& [token, worker] : workers_) {
    if (worker.state == Worker::State::kIdle) ++idle;
    if (worker.state == Worker::State::kRetiring) retiring = true;
  }
  const bool may_trim = retiring || idle > options_.prestart;
  if (trim_ == 0 && may_trim) trim_ = loop_.after(kTrimPeriod, [this] { trim_idle(); });
}

}  // namespace beeline::runtime::node
