#include "beeline/runtime/node/worker_pool.h"

#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <sstream>
#include <utility>

#include "beeline/os/process.h"

namespace beeline::runtime::node {
namespace {

using control::Type;

constexpr auto kRegisterTimeout = std::chrono::seconds(60);
// How long a worker's end waits for its exit status, which comes another way.
constexpr auto kStatusWait = std::chrono::milliseconds(100);
constexpr auto kAdoptedStatusWait = std::chrono::milliseconds(300);
constexpr auto kRetireWait = std::chrono::seconds(2);
constexpr auto kTrimPeriod = std::chrono::seconds(1);
// Workers between fork and registration: more at once only wait for the same cores.
constexpr std::size_t kMaxStarting = 16;

bool is_starting(const Worker& worker) {
  return worker.state == Worker::State::kForking || worker.state == Worker::State::kStarting;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

}  // namespace

WorkerPool::WorkerPool(os::EventLoop& loop, const LaunchOptions& options, LogPump& logs, PoolEvents& events)
    : loop_(loop),
      options_(options),
      logs_(logs),
      events_(events),
      environments_(loop, options, logs, [this](const std::string& name, const std::string& why) {
        fail_wants([&](const Flavour& flavour) { return venv_of(flavour.env) == name; }, NoWorker::kNoEnvironment, why);
      }) {
  const auto cpus = options.resources.find("CPU");
  idle_cap_ = options.idle_workers != 0         ? options.idle_workers
              : cpus != options.resources.end() ? static_cast<std::size_t>(std::clamp(cpus->second, 1.0, 1024.0))
                                                : 1;
  idle_cap_ = std::max<std::size_t>(idle_cap_, options.prestart);
  warm_ = options.prestart == 0;
  prestarts_.assign(options.prestart, Flavour{false, options.prestart_env, 1});
}

WorkerPool::~WorkerPool() = default;

Status WorkerPool::start() {
  auto& own = interpreters_[""];
  own.command = options_.zygote_command;
  return spawn_base(own);
}

void WorkerPool::adopt(Worker adopted, bool lives) {
  const WorkerToken token = adopted.token;
  auto& worker = workers_[token] = std::move(adopted);
  set_state(worker, worker.state);
  by_pid_[worker.launcher != 0 ? worker.launcher : worker.pid] = token;
  auto pidfd = os::open_pidfd(worker.pid);
  if (!lives || !pidfd.is_ok()) {
    worker.ended = true;
    // Its zygote may come back with the exit status.
    worker.timer = loop_.after(kAdoptedStatusWait, [this, token] {
      find(token)->timer = 0;
      finish(token);
    });
    return;
  }
  worker.pidfd = std::move(pidfd).value();
  (void)loop_.watch(worker.pidfd.get(), EPOLLIN, [this, token](std::uint32_t) { gone(token); });
}

void WorkerPool::take(WorkerToken token) {
  if (auto* worker = find(token)) set_state(*worker, Worker::State::kBusy);
}

void WorkerPool::want(WantId want, Flavour flavour) {
  const auto interpreter = interpreters_.find(venv_of(flavour.env));
  wants_.push_back({want, std::move(flavour)});
  if (interpreter != interpreters_.end() && !interpreter->second.base && interpreter->second.respawn == 0) {
    respawn_base(interpreter->second);
  }
}

void WorkerPool::prestart(Flavour flavour) {
  prestarts_.push_back(std::move(flavour));
}

bool WorkerPool::serves_job(JobId job) const {
  return std::any_of(workers_.begin(), workers_.end(),
                     [job](const auto& entry) { return entry.second.flavour.job == job; });
}

void WorkerPool::cancel(WantId want) {
  std::erase_if(wants_, [want](const Want& waiting) { return waiting.id == want; });
  std::erase_if(failed_, [want](const FailedWant& failed) { return failed.id == want; });
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
  if (worker->launcher != 0) ::kill(worker->launcher, SIGKILL);
}

Worker* WorkerPool::find(WorkerToken token) {
  const auto found = workers_.find(token);
  return found == workers_.end() ? nullptr : &found->second;
}

void WorkerPool::set_state(Worker& worker, Worker::State state) {
  worker.state = state;
  worker.since = Clock::now();
}

// ----- starting

Status WorkerPool::fork_from(Zygote& zygote, Worker& worker) {
  BEELINE_ASSIGN(const auto ends, logs_.open(worker.token, worker.flavour.job));
  BEELINE_RETURN_IF_ERROR(zygote.socket.send(
      control::encode(Type::kFork, control::Fork{worker.token, worker.flavour.env}), {ends.out.get(), ends.err.get()}));
  return loop_.change(zygote.socket.fd(), EPOLLIN | (zygote.socket.wants_write() ? EPOLLOUT : 0u));
}

Status WorkerPool::spawn_fresh(const Interpreter& interpreter, Worker& worker) {
  const auto& env = worker.flavour.env;
  const auto own = env.find(kPyExecutableVariable);
  BEELINE_ASSIGN(const auto ends, logs_.open(worker.token, worker.flavour.job));
  BEELINE_ASSIGN(const pid_t pid,
                 spawn_fresh_worker(
                     options_, own == env.end() ? interpreter.command : zygote_command(options_, lines_of(own->second)),
                     worker.token, env, ends.out.get(), ends.err.get()));
  worker.fresh = true;
  has_pid(worker, pid);
  return Status::ok();
}

bool WorkerPool::start_worker(const Flavour& flavour) {
  const bool fresh = needs_fresh_interpreter(flavour.env);
  Interpreter* interpreter = interpreter_for(flavour);
  if (interpreter == nullptr) return false;
  auto& zygote = interpreter->zygote(interpreter->role_for(flavour));
  if (!fresh && (!zygote || !zygote->ready)) return false;
  const WorkerToken token = next_token_++;
  auto& worker = workers_[token];
  worker.token = token;
  worker.flavour = flavour;
  worker.since = Clock::now();
  const auto status = fresh ? spawn_fresh(*interpreter, worker) : fork_from(*zygote, worker);
  if (status.is_ok()) {
    ++counters_.workers_started;
    return true;
  }
  logs_.ended(token);
  workers_.erase(token);
  start_failed(flavour, status.message());
  return true;
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
  if (worker->pid != pid) {
    // The command of an environment may run the interpreter in a process of its own; the token is proof enough.
    if (!worker->fresh) return nullptr;
    worker->launcher = std::exchange(worker->pid, pid);
  }
  loop_.cancel(std::exchange(worker->timer, 0));
  worker->index = index;
  failures_.erase(worker->flavour);
  set_state(*worker, Worker::State::kIdle);
  warm_ = true;
  return worker;
}

ProcessIndex WorkerPool::idle_worker(JobId job) const {
  const auto is_free = [job](const auto& entry) {
    const Worker& worker = entry.second;
    return worker.state == Worker::State::kIdle && worker.flavour.job == job && !worker.killed && !worker.ended;
  };
  const auto found = std::find_if(workers_.begin(), workers_.end(), is_free);
  return found == workers_.end() ? 0 : found->second.index;
}

void WorkerPool::start_failed(const Flavour& flavour, const std::string& why) {
  ++counters_.worker_start_failures;
  std::fprintf(stderr, "beelined: a worker did not start: %s\n", why.c_str());
  if (++failures_[flavour] < kMaxStartFailures) return;
  failures_.erase(flavour);
  const Flavour failed = flavour;  // it may be one of those that go
  const bool asks = failed.env.contains(kPyExecutableVariable) || failed.env.contains(kVenvVariable);
  fail_wants([&](const Flavour& other) { return other == failed; },
             asks ? NoWorker::kNoEnvironment : NoWorker::kNotStarted,
             "its worker did not start, " + std::to_string(kMaxStartFailures) + " times. The last time: " + why);
}

void WorkerPool::fail_wants(const std::function<bool(const Flavour&)>& match, NoWorker kind, const std::string& why) {
  warm_ = true;
  std::erase_if(prestarts_, match);
  std::erase_if(wants_, [&](const Want& want) {
    if (!match(want.flavour)) return false;
    failed_.push_back({want.id, kind, why});
    return true;
  });
}

// ----- ending

void WorkerPool::child_ended(pid_t pid, int status) {
  if (!zygote_child_ended(pid) && !environments_.child_ended(pid, status)) note_status(pid, status);
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
  by_pid_.erase(worker.launcher != 0 ? worker.launcher : worker.pid);
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
  for (const auto& [want, kind, why] : failed) events_.worker_failed(want, kind, why);
  return !finished.empty() || !failed.empty();
}

Worker* WorkerPool::idle_worker(const Flavour& flavour) {
  Worker* found = nullptr;
  for (auto& [token, worker] : workers_) {
    if (worker.state != Worker::State::kIdle || worker.killed || worker.ended) continue;
    if (worker.flavour.job != flavour.job || worker.flavour.env != flavour.env) continue;
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
  for (auto& [name, interpreter] : interpreters_) ask_for_torch_zygote(interpreter);
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
    if (start_worker(want.flavour)) ++all;
  }
  // What fails meanwhile takes others of its kind away.
  const auto prestarts = std::exchange(prestarts_, {});
  for (const auto& flavour : prestarts) {
    if (!start_worker(flavour)) prestarts_.push_back(flavour);
  }
}

void WorkerPool::trim_idle() {
  trim_ = 0;
  trim_interpreters();
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
    if (!too_many && !too_long && !over_jobs_.contains(worker->flavour.job)) continue;
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
  if (trim_ == 0 && may_trim()) trim_ = loop_.after(kTrimPeriod, [this] { trim_idle(); });
}

bool WorkerPool::may_trim() const {
  std::size_t idle = 0;
  for (const auto& [token, worker] : workers_) {
    if (worker.state == Worker::State::kIdle) ++idle;
    if (worker.state == Worker::State::kRetiring) return true;
    if (worker.state == Worker::State::kIdle && over_jobs_.contains(worker.flavour.job)) return true;
  }
  return idle > options_.prestart || std::any_of(interpreters_.begin(), interpreters_.end(), [this](const auto& entry) {
           return !entry.first.empty() && !is_used(entry.second);
         });
}

WorkerPool::Counters WorkerPool::counters() const {
  auto counters = counters_;
  counters.environments_made = environments_.made();
  counters.environment_failures = environments_.failures();
  return counters;
}

}  // namespace beeline::runtime::node
