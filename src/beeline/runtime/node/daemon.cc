#include "beeline/runtime/node/daemon.h"

#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "beeline/os/process.h"
#include "beeline/transfer/agents_folder.h"

namespace beeline::runtime::node {
namespace {

using control::Type;

// Log lines that wait for a driver which does not read them; the files have them all the same.
constexpr std::size_t kMaxHeldLogBytes = 8u << 20;
constexpr auto kExitGrace = std::chrono::milliseconds(100);
// Frames of one process per turn, so that none keeps the others waiting.
constexpr int kFramesPerTurn = 256;
// A driver's init() returns when a first worker is there; a machine on which that takes longer has a problem which the
// first actor or task will report.
constexpr auto kWarmWait = std::chrono::seconds(10);

}  // namespace

Daemon::Daemon(LaunchOptions options, os::EventLoop loop, Scheduler scheduler, os::Fd lock)
    : options_(std::move(options)),
      loop_(std::move(loop)),
      lock_(std::move(lock)),
      session_name_(std::filesystem::path(options_.session_dir).filename().string()),
      scheduler_(std::move(scheduler)),
      logs_(loop_, options_.session_dir + "/logs", options_.max_log_bytes,
            [this](const LogPump::Source& source, bool is_stderr, const std::string& lines) {
              send_logs(source, is_stderr, lines);
            }),
      pool_(loop_, options_, logs_, *this) {}

Daemon::~Daemon() = default;

Result<std::unique_ptr<Daemon>> Daemon::make(LaunchOptions options, os::FrameSocket driver, os::Fd lock) {
  BEELINE_ASSIGN(auto loop, os::EventLoop::make());
  BEELINE_ASSIGN(auto scheduler, Scheduler::make(options.resources, options.labels, options.virtual_nodes));
  std::unique_ptr<Daemon> daemon(
      new Daemon(std::move(options), std::move(loop), std::move(scheduler), std::move(lock)));
  BEELINE_RETURN_IF_ERROR(daemon->start(std::move(driver)));
  return daemon;
}

Status Daemon::listen() {
  BEELINE_RETURN_IF_ERROR(os::become_subreaper());
  BEELINE_RETURN_IF_ERROR(watch_signals());
  BEELINE_ASSIGN(listener_, os::listen_unix(options_.session_dir + "/daemon.sock"));
  return loop_.watch(listener_.get(), EPOLLIN, [this](std::uint32_t) { accept_all(); });
}

Status Daemon::start(os::FrameSocket driver) {
  BEELINE_RETURN_IF_ERROR(listen());
  if (options_.daemon_wait_ms > 0) begin_journal();
  BEELINE_ASSIGN(const auto peer, os::peer_credentials(driver.fd()));
  auto& connection = adopt(std::move(driver), peer.pid);
  if (!options_.lasting) connection.kind = control::ProcessKind::kDriver;
  read_frames(connection);  // its registration may have been read together with the options
  BEELINE_RETURN_IF_ERROR(pool_.start());
  turn();  // nothing may happen that would make the loop do it
  return Status::ok();
}

Status Daemon::watch_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGCHLD);
  ::sigaddset(&signals, SIGTERM);
  if (::sigprocmask(SIG_BLOCK, &signals, nullptr) != 0) return Status::from_errno("block signals", errno);
  signals_ = os::Fd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_.is_open()) return Status::from_errno("signalfd", errno);
  return loop_.watch(signals_.get(), EPOLLIN, [this](std::uint32_t) {
    signalfd_siginfo info{};
    while (::read(signals_.get(), &info, sizeof info) == sizeof info) {
      if (info.ssi_signo == SIGTERM) end();
    }
    reap_children();
  });
}

void Daemon::reap_children() {
  for (;;) {
    int status = 0;
    const pid_t pid = ::waitpid(-1, &status, WNOHANG);
    if (pid < 0 && errno == EINTR) continue;
    // Nobody is left below us: zygotes, workers and what they started have all ended.
    if (pid < 0 && errno == ECHILD && ending_ && !is_left_by_others()) ended_ = true;
    if (pid <= 0) return;
    pool_.child_ended(pid, status);
  }
}

Status Daemon::run() {
  while (!ended_) {
    BEELINE_RETURN_IF_ERROR(loop_.run_once(Deadline::never()));
    turn();
  }
  for (const auto& [index, connection] : processes_) {
    if (connection->kind == control::ProcessKind::kDriver && !connection->closing) {
      (void)connection->socket.flush_all(Deadline::after(std::chrono::milliseconds(100)));
    }
  }
  remove_session_dir();
  return Status::ok();
}

// What follows from the events of this turn, until nothing more follows.
void Daemon::turn() {
  do {
    do {
      if (gathering_) end_gathering_if_complete();
      sweep();
      pool_.run();
      if (pool_.is_warm()) greet_drivers();
      // Workers that ended have released what they held, and what is placed wants workers.
    } while (place_demands() || !closing_.empty());
    if (std::exchange(look_at_jobs_, false)) forget_over_jobs();
    recall_leases();
    end_if_unused();
    write_journal();
    send_queued();  // may find that somebody is gone
  } while (!closing_.empty());
}

// ----- connections

Daemon::Connection* Daemon::find(ProcessIndex process) {
  const auto found = processes_.find(process);
  return found == processes_.end() || found->second->closing ? nullptr : found->second;
}

Daemon::Connection& Daemon::adopt(os::FrameSocket socket, pid_t pid) {
  const std::uint64_t id = next_connection_++;
  auto& connection = *(connections_[id] = std::make_unique<Connection>());
  connection.id = id;
  connection.socket = std::move(socket);
  connection.pid = pid;
  const auto status = loop_.watch(connection.socket.fd(), EPOLLIN, [this, &connection](std::uint32_t events) {
    if ((events & EPOLLOUT) != 0) queued_.insert(connection.id);  // after what is in the journal by then
    if ((events & ~EPOLLOUT) != 0) read_frames(connection);
  });
  if (!status.is_ok()) close_later(connection);
  return connection;
}

Status Daemon::watch_end(Connection& driver) {
  auto pidfd = os::open_pidfd(driver.pid);
  if (!pidfd.is_ok()) return Status::ok();  // its socket tells
  driver.pidfd = std::move(pidfd).value();
  return loop_.watch(driver.pidfd.get(), EPOLLIN, [this, &driver](std::uint32_t) { close_later(driver); });
}

void Daemon::accept_all() {
  for (;;) {
    auto accepted = os::accept_unix(listener_.get());
    if (!accepted.is_ok()) {
      std::fprintf(stderr, "beelined: %s\n", accepted.status().message().c_str());
      return;  // level-triggered: those that are left are offered again
    }
    if (!accepted.value().is_open()) return;
    const auto peer = os::peer_credentials(accepted.value().get());
    if (peer.is_ok()) adopt(os::FrameSocket(std::move(accepted).value()), peer.value().pid);
  }
}

bool Daemon::read_frames(Connection& connection) {
  os::Frame frame;
  for (int i = 0; i < kFramesPerTurn && !connection.closing; ++i) {
    if (!connection.socket.is_open()) return false;
    auto received = next_frame(connection, frame);
    if (received.is_ok() && *received == os::FrameSocket::Receive::kNothing) return false;
    if (!received.is_ok() || *received == os::FrameSocket::Receive::kClosed) {
      if (gathering_ && !connection.gathered.empty()) {
        connection.reconciled = true;  // its last words come first
        loop_.forget(connection.socket.fd());
      } else {
        close_later(connection);
      }
      return false;
    }
    if (gathering_ && connection.is_restored) {
      gather(connection, std::move(frame));
      continue;
    }
    const auto type = control::type_of(frame.bytes);
    const auto status = type.is_ok() ? handle(connection, type.value(), frame) : type.status();
    if (status.is_ok()) continue;
    ++counters_["bad_frames"];
    std::fprintf(stderr, "beelined: process %u (pid %d) is disconnected: %s\n", connection.index, connection.pid,
                 status.message().c_str());
    close_later(connection);
    return false;
  }
  // The rest may be in the socket's buffer here, which epoll does not see.
  const std::uint64_t id = connection.id;
  if (!connection.closing) {
    loop_.after(Nanos::zero(), [this, id] {
      if (const auto found = connections_.find(id); found != connections_.end()) read_frames(*found->second);
    });
  }
  return !connection.closing;
}

void Daemon::send(Connection& connection, const Bytes& frame, const std::vector<int>& fds) {
  if (connection.closing || !connection.socket.is_open()) return;
  if (!connection.socket.queue(frame, fds).is_ok()) return close_later(connection);
  queued_.insert(connection.id);
}

void Daemon::send_queued() {
  for (const std::uint64_t id : std::exchange(queued_, {})) {
    if (const auto found = connections_.find(id); found != connections_.end()) write_more(*found->second);
  }
}

void Daemon::write_more(Connection& connection) {
  if (connection.closing) return;
  if (!connection.socket.flush().is_ok()) return close_later(connection);
  while (!connection.socket.wants_write() && !connection.held_logs.empty()) {
    connection.held_log_bytes -= connection.held_logs.front().size();
    const Bytes frame = std::move(connection.held_logs.front());
    connection.held_logs.pop_front();
    if (!connection.socket.send(frame).is_ok()) return close_later(connection);
  }
  if (std::exchange(connection.watches_room, connection.socket.wants_write()) != connection.socket.wants_write()) {
    (void)loop_.change(connection.socket.fd(), EPOLLIN | (connection.watches_room ? EPOLLOUT : 0u));
  }
}

void Daemon::close_later(Connection& connection) {
  if (connection.closing) return;
  connection.closing = true;
  closing_.push_back(connection.id);
}

void Daemon::sweep() {
  while (!closing_.empty()) {
    const auto closing = std::exchange(closing_, {});
    for (const std::uint64_t id : closing) {
      const auto node = connections_.extract(id);
      auto& connection = *node.mapped();
      loop_.forget(connection.socket.fd());
      if (connection.pidfd.is_open()) loop_.forget(connection.pidfd.get());
      connection.socket.close();
      if (connection.index == 0) continue;
      processes_.erase(connection.index);
      changed(Journal::Kind::kProcess, connection.index);
      ::unlink(control::link_socket(options_.session_dir, connection.index).c_str());
      loop_.after(kExitGrace, [this] { transfer::remove_left_behind(control::agents_folder(options_.session_dir)); });
      // A worker without a connection is of no use, but it may be about to exit with a status that says more.
      if (const WorkerToken worker = connection.worker; worker != 0) {
        loop_.after(kExitGrace, [this, worker] { pool_.kill(worker); });
      }
      process_gone(connection.index);
      end_groups_of(connection.index, connection.kind == control::ProcessKind::kDriver);
      if (connection.kind == control::ProcessKind::kDriver) end_job(connection.job);
    }
  }
}

void Daemon::process_gone(ProcessIndex process) {
  expect_no_usage(process);
  for (const auto& [actor, watchers] : actors_.take_unborn_of(process)) {
    control::ActorUpdate update;
    update.actor = actor;
    update.state = static_cast<std::uint8_t>(control::ActorState::kDead);
    update.cause = static_cast<std::uint8_t>(control::DeathCause::kOwnerDied);
    update.message = "its creator ended before it had created it";
    for (const ProcessIndex watcher : watchers) send(watcher, Type::kActorUpdate, update);
  }
  for (const ActorId actor : actors_.forget_process(process)) {
    end_actor(actor, control::DeathCause::kOwnerDied, "the process that created it has ended");
  }
  std::vector<DemandId> leases;
  for (auto lease = demand_of_lease_.lower_bound({process, 0});
       lease != demand_of_lease_.end() && lease->first.first == process; ++lease) {
    leases.push_back(lease->second);
  }
  for (const DemandId lease : leases) {
    // A worker may be in the middle of the lessee's task, which nobody waits for any more.
    if (const WorkerToken worker = demands_.at(lease).worker; worker != 0) {
      pool_.kill(worker);
    } else {
      withdraw(lease);
    }
  }
}

void Daemon::link_lost(ProcessIndex from, const control::LinkLost& message) {
  if (message.corrupt) return end_one_of(from, message);
  // Most have lost it because it ends, which is about to be seen here too.
  loop_.after(kExitGrace, [this, from, message] { end_one_of(from, message); });
}

// Of two processes without a link, a worker: the one that the other complains of, if it is one.
void Daemon::end_one_of(ProcessIndex from, const control::LinkLost& message) {
  const Connection* lost = find(message.process);
  const Connection* witness = find(from);
  // One that has not come back to a new daemon is seen to anyway.
  if (lost == nullptr || witness == nullptr || !lost->socket.is_open()) return;
  const WorkerToken victim = lost->worker != 0 ? lost->worker : witness->worker;
  if (victim == 0) return;
  ++counters_["links_lost"];
  const std::string why = "process " + std::to_string(from) + " (pid " + std::to_string(witness->pid) +
                          ") lost its link to process " + std::to_string(message.process) + " (pid " +
                          std::to_string(lost->pid) + "): " + message.reason;
  std::fprintf(stderr, "beelined: %s; process %u is killed\n", why.c_str(),
               victim == lost->worker ? message.process : from);
  pool_.kill(victim, why);
}

// ----- messages

Status Daemon::register_process(Connection& from, const control::Register& message) {
  if (from.index != 0) return {Code::kCorrupt, "it registers twice"};
  if (message.kind > static_cast<std::uint8_t>(control::ProcessKind::kTool)) {
    return {Code::kCorrupt, "it registers as an unknown kind of process"};
  }
  const auto kind = static_cast<control::ProcessKind>(message.kind);
  const ProcessIndex index = next_index_++;
  if (kind == control::ProcessKind::kWorker) {
    const Worker* worker = pool_.register_worker(message.fork_token, from.pid, index);
    if (worker == nullptr) return {Code::kInvalidArgument, "it registers as a worker that was not asked for"};
    from.worker = worker->token;
    from.job = worker->flavour.job;
    changed(Journal::Kind::kWorker, from.worker);
  } else if (kind == control::ProcessKind::kDriver) {
    from.job = next_job_++;
    from.wants_logs = message.wants_logs;
    jobs_[from.job].config = message.config.empty() ? options_.config : message.config;
    changed(Journal::Kind::kJob, from.job);
    BEELINE_RETURN_IF_ERROR(watch_end(from));
  }
  from.kind = kind;
  from.index = index;
  from.start_ticks = os::start_ticks(from.pid).value_or(0);
  processes_[index] = &from;
  changed(Journal::Kind::kProcess, index);
  std::vector<int> listener;
  os::Fd socket;
  if (kind != control::ProcessKind::kTool) {
    // Made here and handed over, so that whoever is told of the process can connect to it at once.
    const auto path = control::link_socket(options_.session_dir, index);
    ::unlink(path.c_str());  // of an earlier daemon that was killed before anybody knew of it
    BEELINE_ASSIGN(socket, os::listen_unix(path));
    listener.push_back(socket.get());
  }
  const auto job = jobs_.find(from.job);
  const auto& config = job == jobs_.end() ? options_.config : job->second.config;
  control::Registered greeting{index,    session_name_,        options_.session_dir,   config,
                               from.job, options_.daemon_path, options_.daemon_wait_ms};
  if (kind == control::ProcessKind::kDriver && !pool_.is_warm()) {
    from.greeting = std::move(greeting);
    from.greeting_fd = std::move(socket);
    loop_.after(kWarmWait, [this, id = from.id] {
      const auto found = connections_.find(id);
      if (found == connections_.end() || !found->second->greeting) return;
      ++counters_["inits_without_worker"];
      std::fprintf(stderr, "beelined: no worker has started within %lld s: the driver (pid %d) goes on without\n",
                   static_cast<long long>(kWarmWait.count()), found->second->pid);
      greet_drivers();
    });
  } else {
    if (kind == control::ProcessKind::kDriver) greeting.idle_worker = pool_.idle_worker(from.job);
    send(from, control::encode(Type::kRegistered, greeting), listener);
  }
  return Status::ok();
}

void Daemon::greet_drivers() {
  for (const auto& [index, connection] : processes_) {
    if (auto greeting = std::exchange(connection->greeting, std::nullopt)) {
      greeting->idle_worker = pool_.idle_worker(connection->job);
      send(*connection, control::encode(Type::kRegistered, *greeting), {connection->greeting_fd.get()});
      connection->greeting_fd.reset();
    }
  }
}

Status Daemon::handle(Connection& from, Type type, os::Frame& frame) {
// Decodes the message or returns what is wrong with it.
#define BEELINE_MESSAGE(Message) BEELINE_ASSIGN(auto message, control::decode<control::Message>(frame.bytes))
  if (from.index == 0 && type == Type::kZygoteReady) return resume_zygote(from);
  if (from.index == 0 && type == Type::kResume) {
    BEELINE_MESSAGE(Resume);
    return resume_process(from, message, std::move(frame.fds));
  }
  if (from.index == 0 && type != Type::kRegister) return {Code::kCorrupt, "it does not register first"};
  if (from.index != 0) count_handled(from, frame.bytes.size());
  switch (type) {
    case Type::kRegister: {
      BEELINE_MESSAGE(Register);
      return register_process(from, message);
    }
    case Type::kCreateActor: {
      BEELINE_MESSAGE(CreateActor);
      create_actor(from, std::move(message));
      return Status::ok();
    }
    case Type::kWatchActor: {
      BEELINE_MESSAGE(WatchActor);
      watch_actor(from.index, message.actor);
      return Status::ok();
    }
    case Type::kLookupActor: {
      BEELINE_MESSAGE(LookupActor);
      control::ActorInfo info{message.request, 0, {}};
      if (const auto* record = actors_.find(message.name_space, message.name)) {
        info.actor = record->create.actor;
        info.handle_meta = record->create.handle_meta;
      }
      send(from.index, Type::kActorInfo, info);
      return Status::ok();
    }
    case Type::kListActors: {
      BEELINE_MESSAGE(ListActors);
      send(from.index, Type::kNamedActors,
           control::NamedActors{message.request, actors_.names(message.name_space, message.all_namespaces)});
      return Status::ok();
    }
    case Type::kKillActor: {
      BEELINE_MESSAGE(KillActor);
      kill_actor(message);
      return Status::ok();
    }
    case Type::kActorReady: {
      BEELINE_MESSAGE(ActorReady);
      actor_ready(from, message);
      return Status::ok();
    }
    case Type::kActorExited: {
      BEELINE_MESSAGE(ActorExited);
      actor_exited(from, message);
      return Status::ok();
    }
    case Type::kRequestLease: {
      BEELINE_MESSAGE(RequestLease);
      request_lease(from, std::move(message));
      return Status::ok();
    }
    case Type::kReturnLease: {
      BEELINE_MESSAGE(ReturnLease);
      return_lease(from, message);
      return Status::ok();
    }
    case Type::kCreateGroup: {
      BEELINE_MESSAGE(CreateGroup);
      create_group(from, std::move(message));
      return Status::ok();
    }
    case Type::kRemoveGroup: {
      BEELINE_MESSAGE(RemoveGroup);
      remove_group(message.group);
      return Status::ok();
    }
    case Type::kWatchGroup: {
      BEELINE_MESSAGE(WatchGroup);
      watch_group(from.index, message.group);
      return Status::ok();
    }
    case Type::kGetGroups: {
      BEELINE_MESSAGE(GetGroups);
      get_groups(from, message);
      return Status::ok();
    }
    case Type::kAddNode: {
      BEELINE_MESSAGE(AddNode);
      add_node(from, message);
      return Status::ok();
    }
    case Type::kRemoveNode: {
      BEELINE_MESSAGE(RemoveNode);
      remove_node(from, message);
      return Status::ok();
    }
    case Type::kPrestart: {
      BEELINE_MESSAGE(Prestart);
      pool_.prestart({false, std::move(message.env), from.job});
      return Status::ok();
    }
    case Type::kLinkLost: {
      BEELINE_MESSAGE(LinkLost);
      link_lost(from.index, message);
      return Status::ok();
    }
    case Type::kReconcile: {
      BEELINE_MESSAGE(Reconcile);
      reconcile(from, message);
      return Status::ok();
    }
    case Type::kBlocked:
    case Type::kUnblocked:
      set_blocked(from, type == Type::kBlocked);
      return Status::ok();
    case Type::kGetState: {
      BEELINE_MESSAGE(GetState);
      get_state(from, message);
      return Status::ok();
    }
    case Type::kUsage: {
      BEELINE_MESSAGE(Usage);
      add_usage(from.index, std::move(message));
      return Status::ok();
    }
    case Type::kShutdown:
      // A driver leaves; the session ends with the last one. A tool (`beeline stop`) ends it for all.
      if (from.kind == control::ProcessKind::kTool) {
        end();
      } else if (from.kind == control::ProcessKind::kDriver) {
        leave(from);
      }
      return Status::ok();
    default:
      return {Code::kCorrupt,
              "a frame of type " + std::to_string(static_cast<unsigned>(type)) + " that processes do not send"};
  }
#undef BEELINE_MESSAGE
}

void Daemon::end_job(JobId job) {
  const auto found = jobs_.find(job);
  if (found == jobs_.end()) return;
  found->second.is_over = true;
  changed(Journal::Kind::kJob, job);
  pool_.end_job(job);
  look_at_jobs_ = true;
}

void Daemon::forget_over_jobs() {
  std::erase_if(jobs_, [this](const auto& entry) {
    const auto& [id, job] = entry;
    if (!job.is_over || pool_.serves_job(id) || actors_.any_of_job(id)) return false;
    pool_.forget_job(id);
    changed(Journal::Kind::kJob, id);
    return true;
  });
}

void Daemon::send_logs(const LogPump::Source& source, bool is_stderr, const std::string& lines) {
  Bytes frame;
  for (const auto& [index, connection] : processes_) {
    if (!connection->wants_logs || connection->closing) continue;
    if (source.job != 0 && connection->job != source.job) continue;
    if (frame.empty()) {
      frame = control::encode(Type::kLogLines, control::LogLines{source.pid, source.who, is_stderr, lines});
    }
    const bool is_there = !connection->greeting && connection->socket.is_open();
    // What is queued in this turn does not show that it does not keep up.
    if (is_there && !connection->watches_room && connection->held_logs.empty()) {
      send(*connection, frame);
    } else if (connection->held_log_bytes + frame.size() > kMaxHeldLogBytes) {
      ++counters_["log_frames_dropped"];
    } else {
      connection->held_log_bytes += frame.size();
      connection->held_logs.push_back(frame);
    }
  }
}

}  // namespace beeline::runtime::node
