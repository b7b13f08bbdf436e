// The processes that run user code, and the zygotes they are forked from: starts them when they are wanted, keeps some
// idle, sees them end. What a worker is used for is the daemon's business.
#pragma once

#include <sys/types.h>

#include <compare>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "beeline/os/epoll.h"
#include "beeline/os/unix_socket.h"
#include "beeline/runtime/launch.h"
#include "beeline/runtime/node/environments.h"
#include "beeline/runtime/node/log_pump.h"
#include "beeline/runtime/node/zygote.h"

namespace beeline::runtime::node {

// What a worker must be like before anybody can use it.
struct Flavour {
  bool torch = false;
  Variables env;
  JobId job = 0;  // whose modules and folder it has
  auto operator<=>(const Flavour&) const = default;
};

// Given by the pool when a fork is asked for; proves at registration that the process is the one forked.
using WorkerToken = std::uint64_t;
using WantId = std::uint64_t;  // the caller's; unique among the waiting

struct Worker {
  enum class State : std::uint8_t {
    kForking,   // asked for; no pid yet
    kStarting,  // not registered yet
    kIdle,
    kBusy,      // handed out
    kRetiring,  // idle for long, asked whether it can go; back to idle if it stays
  };
  WorkerToken token = 0;
  Flavour flavour;
  State state = State::kForking;
  pid_t pid = 0;
  pid_t launcher = 0;       // what we started, where that has started the worker in turn; it ends with it
  ProcessIndex index = 0;   // once registered
  bool fresh = false;       // an interpreter of its own: our child, not a zygote's
  Clock::time_point since;  // in this state
  std::optional<int> exit_status;
  std::string killed_because;  // for people; empty if it says nothing new
  bool killed = false;         // by kill(): it is on its way out, and nobody's
  bool leaving = false;        // it was told to exit, and is nobody's
  bool ended = false;
  os::Fd pidfd;
  os::EventLoop::TimerId timer = 0;  // registration time-out, then the wait for the exit status
};

// Why there is no worker for a want.
enum class NoWorker : std::uint8_t { kNotStarted, kNoEnvironment };

// What the pool tells its owner: from within run() only, where the owner may call back into the pool.
class PoolEvents {
 public:
  virtual ~PoolEvents() = default;
  virtual void worker_ready(WantId want, Worker& worker) = 0;
  // No worker can be had for it; the want is gone.
  virtual void worker_failed(WantId want, NoWorker kind, const std::string& why) = 0;
  // A registered worker has ended, which the pool forgets after this; `how` as in "exit code 1".
  virtual void worker_ended(const Worker& worker, const std::string& how) = 0;
  // Ask it to exit unless it holds what others still need.
  virtual void retire(Worker& worker) = 0;
};

class WorkerPool {
 public:
  struct Counters {
    std::uint64_t workers_started = 0;
    std::uint64_t worker_start_failures = 0;
    std::uint64_t zygote_restarts = 0;
    std::uint64_t environments_made = 0;
    std::uint64_t environment_failures = 0;
  };

  WorkerPool(os::EventLoop& loop, const LaunchOptions& options, LogPump& logs, PoolEvents& events);
  ~WorkerPool();

  // Starts the base zygote of the session's interpreter.
  Status start();
  // Goes on for a daemon that was killed. Its zygotes, of which the session's own interpreter's are named (0: there was
  // none), come back by themselves, or are started anew; tokens that were given out before are none of ours.
  Status resume(pid_t base, pid_t torch, std::uint64_t generation);
  // A registered worker of that daemon: `worker` is what is known of it, and whether it lives.
  void adopt(Worker worker, bool lives);
  // Such a worker is in use.
  void take(WorkerToken token);
  // Takes the socket of a zygote of that daemon; false if it is not one that is waited for.
  bool adopt_zygote(pid_t pid, os::FrameSocket& socket);

  void want(WantId want, Flavour flavour);
  void cancel(WantId want);
  // Has a worker of this flavour ready before anybody asks.
  void prestart(Flavour flavour);
  // Its driver has ended: workers of it that nobody uses do not stay.
  void end_job(JobId job) { over_jobs_.insert(job); }
  [[nodiscard]] bool serves_job(JobId job) const;
  void forget_job(JobId job) { over_jobs_.erase(job); }
  // The worker is idle again.
  void give_back(WorkerToken token);
  // SIGKILL, to the worker and the processes of its group. `why` is told with its end.
  void kill(WorkerToken token, const std::string& why = {});

  // A process says that it is the worker of this token; null when it is not one that we are waiting for.
  Worker* register_worker(WorkerToken token, pid_t pid, ProcessIndex index);
  Worker* find(WorkerToken token);
  // A child of the daemon's own has ended (waitpid has been called).
  void child_ended(pid_t pid, int status);

  // Matches wants with workers and starts what is missing. To be called once per turn of the loop.
  void run();

  // Whether what is prestarted has registered once, or cannot be started.
  [[nodiscard]] bool is_warm() const { return warm_; }
  // An idle worker that tasks and actors of the job may be given to; 0 if there is none.
  [[nodiscard]] ProcessIndex idle_worker(JobId job) const;
  [[nodiscard]] const std::map<WorkerToken, Worker>& workers() const { return workers_; }
  [[nodiscard]] Counters counters() const;
  // Of the session's own interpreter: base and torch, 0 where there is none.
  [[nodiscard]] std::pair<pid_t, pid_t> own_zygotes() const;
  // (pid, name) of the zygotes.
  [[nodiscard]] std::vector<std::pair<pid_t, std::string>> zygotes() const;
  // Ends the zygotes and starts nothing any more.
  void stop();

 private:
  struct Want {
    WantId id;
    Flavour flavour;
  };
  // Failures in a row, by flavour.
  static constexpr int kMaxStartFailures = 3;
  // What forks workers of one interpreter: the session's own, or that of a virtual environment.
  struct Interpreter {
    std::string name;  // of the environment, empty for the session's own
    std::vector<std::string> command;
    std::optional<Zygote> base;
    std::optional<Zygote> torch;
    int base_failures = 0;  // in a row, before it was ready
    int torch_failures = 0;
    os::EventLoop::TimerId respawn = 0;
    // Of another daemon, that are to come back; `respawn` runs meanwhile, and so does the other timer.
    pid_t base_awaited = 0;
    pid_t torch_awaited = 0;
    os::EventLoop::TimerId torch_deadline = 0;
    std::optional<Clock::time_point> unused_since;

    std::optional<Zygote>& zygote(ZygoteRole role) { return role == ZygoteRole::kBase ? base : torch; }
    [[nodiscard]] ZygoteRole role_for(const Flavour& flavour) const;
  };

  // worker_pool_zygotes.cc
  // Null while the flavour's environment is being made.
  Interpreter* interpreter_for(const Flavour& flavour);
  Status spawn_base(Interpreter& interpreter);
  void respawn_base(Interpreter& interpreter);
  void expect_no_torch_zygote(Interpreter& own);
  void ask_for_torch_zygote(Interpreter& interpreter);
  Status watch_zygote(Interpreter& interpreter, ZygoteRole role);
  void zygote_readable(Interpreter& interpreter, ZygoteRole role);
  void zygote_frame(Interpreter& interpreter, ZygoteRole role, BytesView frame);
  void zygote_ended(Interpreter& interpreter, ZygoteRole role);
  bool zygote_child_ended(pid_t pid);
  void forget_unborn(const Interpreter& interpreter, ZygoteRole role);
  // Ends the zygotes of environments that nobody has used for long.
  void trim_interpreters();
  [[nodiscard]] bool is_used(const Interpreter& interpreter) const;
  bool is_over(Interpreter& interpreter) const;

  Status fork_from(Zygote& zygote, Worker& worker);
  Status spawn_fresh(const Interpreter& interpreter, Worker& worker);
  // False while what it is forked from is not there.
  bool start_worker(const Flavour& flavour);
  void has_pid(Worker& worker, pid_t pid);
  void note_status(pid_t pid, int status);
  // Its process is gone: reports it once the exit status is known or has not come for a while.
  void gone(WorkerToken token);
  void finish(WorkerToken token);
  void start_failed(const Flavour& flavour, const std::string& why);
  // Those that `match`.
  void fail_wants(const std::function<bool(const Flavour&)>& match, NoWorker kind, const std::string& why);
  void fail_all(const Interpreter& interpreter, const std::string& why);
  bool report_ended();
  void serve_wants();
  Worker* idle_worker(const Flavour& flavour);
  void start_missing();
  void trim_idle();
  [[nodiscard]] bool may_trim() const;
  void set_state(Worker& worker, Worker::State state);

  os::EventLoop& loop_;
  const LaunchOptions& options_;
  LogPump& logs_;
  PoolEvents& events_;
  Counters counters_;
  bool stopped_ = false;

  Environments environments_;
  std::map<std::string, Interpreter> interpreters_;  // by environment

  WorkerToken next_token_ = 1;
  std::map<WorkerToken, Worker> workers_;
  std::map<pid_t, WorkerToken> by_pid_;
  std::deque<Want> wants_;
  std::map<Flavour, int> failures_;
  std::vector<WorkerToken> finished_;  // ended, to be reported by run()
  struct FailedWant {
    WantId id;
    NoWorker kind;
    std::string why;
  };
  std::vector<FailedWant> failed_;  // to be reported by run()
  std::vector<Flavour> prestarts_;  // that have not been started
  std::set<JobId> over_jobs_;
  os::EventLoop::TimerId trim_ = 0;
  std::size_t idle_cap_ = 1;
  bool warm_ = false;
};

}  // namespace beeline::runtime::node
