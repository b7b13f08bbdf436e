// What the node daemon says to this process, and the end of either.
#include <sys/epoll.h>
#include <unistd.h>

#include "beeline/runtime/process.h"

namespace beeline::runtime {
namespace {

constexpr auto kReplyWithin = std::chrono::seconds(30);
constexpr auto kSignalSlice = std::chrono::milliseconds(200);

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

void Process::send_control(const Bytes& frame) {
  if (!daemon_.is_open()) return;
  if (const auto status = daemon_.send(frame); !status) return;  // its end is seen on the socket
  if (daemon_.wants_write()) {
    control_.watch(daemon_.fd(), true, [this](std::uint32_t events) { on_daemon_socket(events); });
  }
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
      replies_[reply.request] = Bytes(frame.begin(), frame.end());
      return Status::ok();
    }
    case control::Type::kActorInfo: {
      BEELINE_ASSIGN(const auto info, control::decode<control::ActorInfo>(frame));
      replies_[info.request] = Bytes(frame.begin(), frame.end());
      return Status::ok();
    }
    case control::Type::kNamedActors: {
      BEELINE_ASSIGN(const auto names, control::decode<control::NamedActors>(frame));
      replies_[names.request] = Bytes(frame.begin(), frame.end());
      return Status::ok();
    }
    case control::Type::kState: {
      BEELINE_ASSIGN(const auto state, control::decode<control::State>(frame));
      replies_[state.request] = Bytes(frame.begin(), frame.end());
      return Status::ok();
    }
    case control::Type::kGroups: {
      BEELINE_ASSIGN(const auto groups, control::decode<control::Groups>(frame));
      replies_[groups.request] = Bytes(frame.begin(), frame.end());
      return Status::ok();
    }
    case control::Type::kNodeAdded: {
      BEELINE_ASSIGN(const auto added, control::decode<control::NodeAdded>(frame));
      replies_[added.request] = Bytes(frame.begin(), frame.end());
      return Status::ok();
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
    case control::Type::kAssignActor: {
      BEELINE_ASSIGN(assignment_.actor, control::decode<control::AssignActor>(frame));
      ++assignment_.version;
      return Status::ok();
    }
    case control::Type::kAssignLease: {
      BEELINE_ASSIGN(assignment_.lease, control::decode<control::AssignLease>(frame));
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
    const auto outcome = progress_.wait(locked, slice.at() < deadline.at() ? slice : deadline,
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

void Process::daemon_lost(const std::string& reason) {
  control_.forget(daemon_.fd());
  daemon_.close();
  // A worker is nothing without its session, whatever its threads are doing.
  if (is_worker_) ::_exit(1);
  session_error_ = "the node daemon (beelined, pid " + std::to_string(daemon_pid_) + ") is gone: " + reason +
                   ". All actors and tasks of the session have ended. Call shutdown() and init() to start anew; "
                   "its log is " +
                   registered_.session_dir + "/logs/beelined.err";
  caller_.fail_everything(session_failure());
  objects_.fail_all_pending(session_failure());
  progress_.notify();
}

}  // namespace beeline::runtime
