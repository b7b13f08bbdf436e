// What the node daemon says to this process, and the end of either.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "beeline/runtime/process.h"

namespace beeline::runtime {
namespace {

constexpr auto kHandshakeWithin = std::chrono::seconds(10);
constexpr auto kReplyWithin = std::chrono::seconds(30);
constexpr auto kSignalSlice = std::chrono::milliseconds(200);
// After the daemon's end: how often to look for another one, and how long workers leave the start of it to drivers.
constexpr auto kLookPeriod = std::chrono::milliseconds(10);
constexpr auto kDriversFirst = std::chrono::milliseconds(200);
constexpr auto kRejoinWithin = std::chrono::milliseconds(100);
constexpr int kMaxStarts = 3;  // by one process, each time

// The other end of a pipe that this process writes to: while it is held, writing is no failure though nobody reads, and
// whoever is to read can be given it. Nothing inside where the descriptor is no pipe.
os::Fd read_end_of(int descriptor) {
  struct stat about{};
  if (::fstat(descriptor, &about) != 0 || !S_ISFIFO(about.st_mode)) return {};
  return os::Fd(::open(("/proc/self/fd/" + std::to_string(descriptor)).c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
}

}  // namespace

Result<std::unique_ptr<Process>> Process::join_as_driver(const std::string& session_dir, Bytes config, bool wants_logs,
                                                         memory::Arena::Options arena) {
  std::unique_ptr<Process> process(new Process);
  BEELINE_ASSIGN(process->arena_, memory::Arena::open(arena));
  BEELINE_ASSIGN(auto session,
                 join_session(session_dir, control::ProcessKind::kDriver, {std::move(config), wants_logs}));
  process->is_driver_ = true;
  process->daemon_pid_ = session.daemon_pid;
  BEELINE_RETURN_IF_ERROR(
      process->start(std::move(session.socket), std::move(session.registered), std::move(session.listener)));
  return process;
}

Result<std::unique_ptr<Process>> Process::join_as_worker(
    const std::string& session_dir, std::uint64_t fork_token,
    const std::function<memory::Arena::Options(BytesView config)>& arena) {
  BEELINE_ASSIGN(auto fd, os::connect_unix(session_dir + "/daemon.sock", Deadline::after(kHandshakeWithin)));
  os::FrameSocket socket(std::move(fd));
  control::Register request;
  request.kind = static_cast<std::uint8_t>(control::ProcessKind::kWorker);
  request.pid = ::getpid();
  request.fork_token = fork_token;
  BEELINE_RETURN_IF_ERROR(socket.send(control::encode(control::Type::kRegister, request)));
  os::Frame frame;
  BEELINE_RETURN_IF_ERROR(socket.receive_within(frame, Deadline::after(kHandshakeWithin)));
  BEELINE_ASSIGN(const auto type, control::type_of(frame.bytes));
  if (type != control::Type::kRegistered) return Status(Code::kCorrupt, "the daemon did not answer a registration");
  BEELINE_ASSIGN(auto registered, control::decode<control::Registered>(frame.bytes));
  if (frame.fds.size() != 1) return Status(Code::kCorrupt, "a registration came without a socket to listen on");
  const auto options = arena(registered.config);
  std::unique_ptr<Process> process(new Process);
  process->is_worker_ = true;
  process->own_output_ = {read_end_of(STDOUT_FILENO), read_end_of(STDERR_FILENO)};
  BEELINE_ASSIGN(process->arena_, memory::Arena::open(options));
  BEELINE_RETURN_IF_ERROR(process->start(std::move(socket), std::move(registered), std::move(frame.fds.front())));
  return process;
}

void Process::send_control(Bytes frame) {
  if (!session_error_.empty()) return;
  ++sent_frames_;
  const bool keeps = registered_.daemon_wait_ms > 0;
  if (!away_ && daemon_.is_open() && daemon_.send(frame).is_ok() && daemon_.wants_write()) {  // its end is seen there
    control_.watch(daemon_.fd(), true, [this](std::uint32_t events) { on_daemon_socket(events); });
  }
  if (keeps) unhandled_.push_back(std::move(frame));
}

void Process::forget_handled(std::uint64_t frames) {
  const std::uint64_t first = sent_frames_ - unhandled_.size();  // the number of frames before those that are kept
  for (std::uint64_t number = first; number < frames && !unhandled_.empty(); ++number) unhandled_.pop_front();
}

void Process::flush_to_daemon(Locked& locked, Deadline deadline) {
  if (away_) (void)progress_.wait(locked, deadline, [this] { return !away_ || !session_error_.empty(); });
  if (daemon_.is_open()) (void)daemon_.flush_all(deadline);
}

void Process::on_daemon_socket(std::uint32_t events) {
  if ((events & EPOLLOUT) != 0) {
    if (const auto status = daemon_.flush(); !status) return daemon_lost(status.message());
    if (!daemon_.wants_write()) {
      control_.watch(daemon_.fd(), false, [this](std::uint32_t e) { on_daemon_socket(e); });
    }
  }
  for (;;) {
    os::Frame frame;
    auto outcome = daemon_.receive(frame);
    if (!outcome) return daemon_lost(outcome.status().message());
    if (*outcome == os::FrameSocket::Receive::kNothing) break;
    if (*outcome == os::FrameSocket::Receive::kClosed) return daemon_lost("its connection closed");
    if (const auto status = on_daemon_frame(frame.bytes); !status) return daemon_lost(status.message());
  }
  progress_.notify();
}

Status Process::on_daemon_frame(BytesView frame) {
  BEELINE_ASSIGN(const auto type, control::type_of(frame));
  switch (type) {
    case control::Type::kReply: {
      BEELINE_ASSIGN(const auto reply, control::decode<control::Reply>(frame));
      return take_answer(reply.request, frame);
    }
    case control::Type::kActorInfo: {
      BEELINE_ASSIGN(const auto info, control::decode<control::ActorInfo>(frame));
      return take_answer(info.request, frame);
    }
    case control::Type::kNamedActors: {
      BEELINE_ASSIGN(const auto names, control::decode<control::NamedActors>(frame));
      return take_answer(names.request, frame);
    }
    case control::Type::kState: {
      BEELINE_ASSIGN(const auto state, control::decode<control::State>(frame));
      return take_answer(state.request, frame);
    }
    case control::Type::kGroups: {
      BEELINE_ASSIGN(const auto groups, control::decode<control::Groups>(frame));
      return take_answer(groups.request, frame);
    }
    case control::Type::kNodeAdded: {
      BEELINE_ASSIGN(const auto added, control::decode<control::NodeAdded>(frame));
      return take_answer(added.request, frame);
    }
    case control::Type::kGroupUpdate: {
      BEELINE_ASSIGN(const auto update, control::decode<control::GroupUpdate>(frame));
      on_group_update(update);
      return Status::ok();
    }
    case control::Type::kReportUsage: {
      BEELINE_ASSIGN(const auto asked, control::decode<control::ReportUsage>(frame));
      const bool wants_usage = (asked.parts & control::kPartUsage) != 0;
      tell_daemon(control::Type::kUsage, control::Usage{asked.query, wants_usage ? usage() : control::Counts{},
                                                        listing(asked.parts, asked.limit)});
      return Status::ok();
    }
    case control::Type::kActorUpdate: {
      BEELINE_ASSIGN(const auto update, control::decode<control::ActorUpdate>(frame));
      // Its results may lie in the ring yet: they count.
      if (const ActorTarget* target = caller_.find_actor(update.actor); target != nullptr && target->known) {
        peers_->drain_from(target->latest.process);
      }
      caller_.on_actor_update(update);
      if (terminate_when_sent_.contains(update.actor) && update.process != 0 &&
          caller_.actor(update.actor).queued.empty()) {
        terminate_when_sent_.erase(update.actor);
        peers_->send(update.process, Message::kTerminate, view_of(update.actor));
      }
      return Status::ok();
    }
    case control::Type::kLeaseGranted: {
      BEELINE_ASSIGN(const auto granted, control::decode<control::LeaseGranted>(frame));
      caller_.on_lease_granted(granted);
      return Status::ok();
    }
    case control::Type::kLeaseFailed: {
      BEELINE_ASSIGN(const auto failed, control::decode<control::LeaseFailed>(frame));
      caller_.on_lease_failed(failed);
      return Status::ok();
    }
    case control::Type::kRecallLeases:
      caller_.on_recall_leases();
      return Status::ok();
    case control::Type::kResumed: {
      BEELINE_ASSIGN(const auto resumed, control::decode<control::Resumed>(frame));
      on_resumed(resumed);
      return Status::ok();
    }
    case control::Type::kHandled: {
      BEELINE_ASSIGN(const auto handled, control::decode<control::Handled>(frame));
      forget_handled(handled.frames);
      return Status::ok();
    }
    case control::Type::kAssignActor: {
      BEELINE_ASSIGN(auto assigned, control::decode<control::AssignActor>(frame));
      const auto& now = assignment_.actor;
      if (now && now->actor == assigned.actor && now->incarnation == assigned.incarnation) return Status::ok();
      assignment_.actor = std::move(assigned);
      ++assignment_.version;
      return Status::ok();
    }
    case control::Type::kAssignLease: {
      BEELINE_ASSIGN(auto assigned, control::decode<control::AssignLease>(frame));
      const auto& now = assignment_.lease;
      if (now && now->lessee == assigned.lessee && now->lease == assigned.lease) return Status::ok();
      assignment_.lease = std::move(assigned);
      ++assignment_.version;
      // Whoever takes a call sees the new version first.
      executor_.serve_lease(assignment_.lease->lessee, assignment_.lease->lease);
      return Status::ok();
    }
    case control::Type::kLogLines: {
      BEELINE_ASSIGN(const auto lines, control::decode<control::LogLines>(frame));
      printer_.print(lines);
      return Status::ok();
    }
    case control::Type::kExit:
      exiting_ = true;
      return Status::ok();
    case control::Type::kRetire:
      // Others may still need what this process made or owns: stay then, the daemon asks again.
      if (publications_.empty() && objects_.stats().own == 0) exiting_ = true;
      return Status::ok();
    default:
      return {Code::kCorrupt, "a control message of unknown type " + std::to_string(static_cast<int>(type))};
  }
}

void Process::prestart(Variables env) {
  const Locked locked(lock_);
  tell_daemon(control::Type::kPrestart, control::Prestart{std::move(env)});
}

Result<Bytes> Process::await_answer(Locked& locked, std::uint64_t request) {
  const auto deadline = Deadline::after(kReplyWithin);
  for (;;) {
    // In slices: a signal that comes just before the wait does not interrupt it.
    const auto slice = Deadline::after(kSignalSlice);
    const auto outcome = progress_.wait(locked, std::min(slice, deadline),
                                        [&] { return replies_.contains(request) || !session_error_.empty(); });
    if (auto node = replies_.extract(request)) return std::move(node.mapped());
    if (!session_error_.empty()) return Status(Code::kShutdown, session_error_);
    if (outcome == WaitOutcome::kTimedOut && deadline.passed()) {
      return Status(Code::kDeadlineExceeded, "the node daemon (beelined, pid " + std::to_string(daemon_pid_) +
                                                 ") did not answer within " + std::to_string(kReplyWithin.count()) +
                                                 " s: it is stopped, or the machine is overloaded; try again");
    }
    if (on_signal) {
      locked.unlock();
      const bool gives_up = on_signal();
      locked.lock();
      if (gives_up) return Status(Code::kInterrupted, "interrupted by a signal");
    }
  }
}

Status Process::take_answer(std::uint64_t request, BytesView frame) {
  // Of one that was given up, or is answered twice.
  if (asked_.contains(request)) replies_[request] = Bytes(frame.begin(), frame.end());
  return Status::ok();
}

// ----- the daemon's end

void Process::daemon_lost(const std::string& reason) {
  if (!session_error_.empty()) return;
  control_.forget(daemon_.fd());
  daemon_.close();
  if (registered_.daemon_wait_ms == 0) return session_over(reason);
  if (!away_) away_ = DaemonAway{Clock::now(), reason};
  // A driver is the better one to start another: it has the surroundings of the first.
  control_.after(kLookPeriod, [this] { find_daemon(); });
}

// Every few milliseconds until there is one.
void Process::find_daemon() {
  if (!away_ || daemon_.is_open() || !session_error_.empty()) return;
  if (daemon_child_ != 0 && ::waitpid(daemon_child_, nullptr, WNOHANG) != 0) daemon_child_ = 0;
  const auto path = registered_.session_dir + "/daemon.sock";
  if (auto socket = os::connect_unix(path, Deadline::after(kRejoinWithin)); socket.is_ok()) {
    daemon_ = os::FrameSocket(std::move(socket).value());
    if (const auto peer = os::peer_credentials(daemon_.fd()); peer.is_ok()) daemon_pid_ = peer->pid;
    std::vector<int> output;
    if (own_output_[0].is_open() && own_output_[1].is_open()) output = {own_output_[0].get(), own_output_[1].get()};
    (void)daemon_.send(control::encode(control::Type::kResume, control::Resume{self_}), output);
    return control_.watch(daemon_.fd(), false, [this](std::uint32_t events) { on_daemon_socket(events); });
  }
  if (Clock::now() - away_->since > std::chrono::milliseconds(registered_.daemon_wait_ms)) {
    return session_over(away_->reason + "; nobody has started another one within " +
                        std::to_string(registered_.daemon_wait_ms) + " ms");
  }
  start_another_daemon();
  if (away_) control_.after(kLookPeriod, [this] { find_daemon(); });
}

void Process::start_another_daemon() {
  const auto away_for = Clock::now() - away_->since;
  if (away_->starts == kMaxStarts || (is_worker_ && away_for < kDriversFirst)) return;
  const auto started = restart_daemon(registered_.session_dir, registered_.daemon_path);
  if (started.status().code() == Code::kNotFound) {
    // Its end was meant where the folder is gone as well.
    const bool has_folder = ::access(registered_.session_dir.c_str(), F_OK) == 0;
    return session_over(away_->reason + (has_folder ? "; there is no journal that another one could go on from" : ""));
  }
  if (started.is_ok() && *started == 0) return;  // somebody else is at it
  ++away_->starts;
  if (started.is_ok()) {
    daemon_child_ = *started;
  } else {
    away_->reason += "; " + registered_.daemon_path + " cannot be started again: " + started.status().message();
  }
}

// What the daemon before had not come to is said again, and asked again what it had not answered.
void Process::on_resumed(const control::Resumed& resumed) {
  if (!resumed.refused.empty()) return session_over(away_ ? away_->reason + "; " + resumed.refused : resumed.refused);
  if (!away_) return;
  away_.reset();
  forget_handled(resumed.handled);
  for (const auto& frame : unhandled_) (void)daemon_.send(frame);  // its end is seen on the socket
  for (auto& [request, asked] : asked_) {
    if (asked.number > resumed.handled || replies_.contains(request)) continue;
    asked.number = sent_frames_ + 1;
    send_control(asked.frame);
  }
  auto relied_on = caller_.relied_on();
  for (const auto& [group, target] : groups_) relied_on.groups.push_back(group);
  tell_daemon(control::Type::kReconcile, relied_on);
  progress_.notify();
}

void Process::session_over(const std::string& reason) {
  if (daemon_.is_open()) {
    control_.forget(daemon_.fd());
    daemon_.close();
  }
  // A worker is nothing without its session, whatever its threads are doing.
  if (is_worker_) ::_exit(1);
  away_.reset();
  unhandled_.clear();
  leave_session(registered_.session_dir);
  session_error_ = "the node daemon (beelined, pid " + std::to_string(daemon_pid_) + ") is gone: " + reason +
                   ". All actors and tasks of the session have ended. Call shutdown() and init() to start anew; "
                   "its log is " +
                   registered_.session_dir + "/logs/beelined.err";
  caller_.fail_everything(session_failure());
  objects_.fail_all_pending(session_failure());
  progress_.notify();
}

}  // namespace beeline::runtime
