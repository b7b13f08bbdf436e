// The daemon's part that goes on for one that was killed: takes back what the journal has, and the processes as they
// come back.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "beeline/os/process.h"
#include "beeline/runtime/node/daemon.h"

namespace beeline::runtime::node {
namespace {

using control::Type;

// A daemon that is killed, or fails, again and again is not followed for ever.
constexpr std::size_t kMaxRestarts = 5;
constexpr auto kRestartsWithin = std::chrono::minutes(1);
// For processes that are there and run: they look for a new daemon every few milliseconds.
constexpr auto kGatherWithin = std::chrono::milliseconds(500);

template <typename Record>
Result<Record> record_in(const Journal::Records& records, Journal::Kind kind, std::uint64_t number) {
  const auto found = records.find({kind, number});
  if (found == records.end()) return Status(Code::kCorrupt, "a record of the journal is missing");
  return unpack<Record>(found->second, "a record of the journal");
}

// Calls `take(number, record)` for all of a kind, in order.
template <typename Record, typename Take>
Status for_each_record(const Journal::Records& records, Journal::Kind kind, Take&& take) {
  for (auto entry = records.lower_bound({kind, 0}); entry != records.end() && entry->first.first == kind; ++entry) {
    BEELINE_ASSIGN(auto record, unpack<Record>(entry->second, "a record of the journal"));
    BEELINE_RETURN_IF_ERROR(take(entry->first.second, std::move(record)));
  }
  return Status::ok();
}

std::int64_t now_ns() {
  return std::chrono::duration_cast<Nanos>(std::chrono::system_clock::now().time_since_epoch()).count();
}

Share to_share(ShareRecord record) {
  return {std::move(record.amounts), std::move(record.accelerators)};
}

// Environment and folder of the first daemon: what is started from here on is as if that one had started it.
void take_surroundings(const HeaderRecord& header) {
  ::clearenv();
  for (const auto& variable : header.environment) {
    const auto at = variable.find('=');
    if (at != std::string::npos) ::setenv(variable.substr(0, at).c_str(), variable.substr(at + 1).c_str(), 1);
  }
  if (::chdir(header.folder.c_str()) != 0) {
    std::fprintf(stderr, "beelined: the folder %s cannot be entered any more\n", header.folder.c_str());
  }
}

}  // namespace

Result<std::unique_ptr<Daemon>> Daemon::resume(const std::string& session_dir, os::Fd lock) {
  const std::string path = journal_path(session_dir);
  auto daemon = from_journal(path, std::move(lock));
  if (daemon.is_ok()) return daemon;
  // Nobody is to try this again: without a journal, those who wait end.
  ::unlink(path.c_str());
  return daemon.status();
}

Result<std::unique_ptr<Daemon>> Daemon::from_journal(const std::string& path, os::Fd lock) {
  BEELINE_ASSIGN(const auto records, Journal::read(path));
  BEELINE_ASSIGN(const auto header, record_in<HeaderRecord>(records, Journal::Kind::kHeader, 0));
  take_surroundings(header);
  auto options = header.options;
  BEELINE_ASSIGN(auto loop, os::EventLoop::make());
  BEELINE_ASSIGN(auto scheduler, Scheduler::make(options.resources, options.labels, options.virtual_nodes));
  std::unique_ptr<Daemon> daemon(
      new Daemon(std::move(options), std::move(loop), std::move(scheduler), std::move(lock)));
  BEELINE_RETURN_IF_ERROR(daemon->restore(header, records));
  return daemon;
}

Status Daemon::restore(const HeaderRecord& header, const Journal::Records& records) {
  is_resumed_ = true;
  header_ = header;
  started_ = Clock::now() - Nanos(std::max<std::int64_t>(0, now_ns() - header.started_ns));
  BEELINE_ASSIGN(const auto state, record_in<StateRecord>(records, Journal::Kind::kState, 0));
  next_index_ = state.next_index;
  next_job_ = state.next_job;
  generation_ = state.generation + 1;
  BEELINE_ASSIGN(counters_, record_in<control::Counts>(records, Journal::Kind::kCounters, 0));
  for (const auto at : state.restarts_ns) {
    if (now_ns() - at < Nanos(kRestartsWithin).count()) restarts_ns_.push_back(at);
  }
  restarts_ns_.push_back(now_ns());
  if (restarts_ns_.size() > kMaxRestarts) {
    return {Code::kSystem, "it has ended " + std::to_string(kMaxRestarts) + " times within a minute: the session ends"};
  }
  counters_["daemon_restarts"] = generation_;
  ::unlink((options_.session_dir + "/daemon.sock").c_str());
  BEELINE_RETURN_IF_ERROR(listen());
  BEELINE_RETURN_IF_ERROR(restore_nodes(records));
  BEELINE_RETURN_IF_ERROR(restore_groups(records));
  BEELINE_RETURN_IF_ERROR(for_each_record<JobRecord>(records, Journal::Kind::kJob, [this](auto id, JobRecord job) {
    jobs_[static_cast<JobId>(id)] = {std::move(job.config), job.is_over};
    if (job.is_over) pool_.end_job(static_cast<JobId>(id));
    return Status::ok();
  }));
  BEELINE_RETURN_IF_ERROR(restore_actors(records));
  BEELINE_RETURN_IF_ERROR(restore_processes(records));
  BEELINE_RETURN_IF_ERROR(restore_demands(records));
  const auto zygote = [this](pid_t pid) {
    return pid > 0 && os::environment_of(pid, kSessionVariable) == options_.session_dir ? pid : 0;
  };
  BEELINE_RETURN_IF_ERROR(pool_.resume(zygote(state.base_zygote), zygote(state.torch_zygote), generation_));
  begin_journal();
  gathering_ = !state.ending;
  if (state.ending) {
    end();
  } else {
    go_on();
  }
  turn();  // nothing may happen that would make the loop do it
  return Status::ok();
}

Status Daemon::restore_nodes(const Journal::Records& records) {
  return for_each_record<NodeRecord>(records, Journal::Kind::kNode, [this](auto number, NodeRecord node) {
    const auto index = static_cast<NodeIndex>(number);
    if (index > 0) BEELINE_RETURN_IF_ERROR(scheduler_.add_node(node.total, node.labels).status());
    if (!node.is_alive) (void)scheduler_.remove_node(index);
    for (const auto& request : node.requests) node_requests_[request] = index;
    return Status::ok();
  });
}

Status Daemon::restore_groups(const Journal::Records& records) {
  return for_each_record<control::CreateGroup>(
      records, Journal::Kind::kGroup, [&](auto id, control::CreateGroup create) -> Status {
        BEELINE_ASSIGN(auto state, record_in<GroupStateRecord>(records, Journal::Kind::kGroupState, id));
        GroupRecord record;
        record.owner = state.owner;
        record.state = static_cast<control::GroupState>(state.state);
        record.message = state.message;
        if (record.is_removed()) {
          record.nodes = std::move(state.nodes);
        } else {
          std::vector<Share> shares;
          for (auto& share : state.shares) shares.push_back(to_share(std::move(share)));
          BEELINE_RETURN_IF_ERROR(scheduler_.restore_group(
              id, create.bundles, static_cast<GroupStrategy>(create.strategy), create.preferred, state.nodes, shares));
        }
        record.create = std::move(create);
        groups_.restore(id, std::move(record));
        return Status::ok();
      });
}

Status Daemon::restore_actors(const Journal::Records& records) {
  return for_each_record<control::CreateActor>(
      records, Journal::Kind::kActor, [&](auto id, control::CreateActor create) -> Status {
        BEELINE_ASSIGN(auto state, record_in<ActorStateRecord>(records, Journal::Kind::kActorState, id));
        ActorRecord record;
        record.create = std::move(create);
        record.owner = state.owner;
        record.job = state.job;
        record.state = static_cast<control::ActorState>(state.state);
        record.process = state.process;
        record.pid = state.pid;
        record.incarnation = state.incarnation;
        record.restarts_left = state.restarts_left;
        record.cause = static_cast<control::DeathCause>(state.cause);
        record.message = std::move(state.message);
        record.error = std::move(state.error);
        record.leaving = static_cast<control::DeathCause>(state.leaving);
        actors_.restore(id, std::move(record));
        return Status::ok();
      });
}

Status Daemon::restore_processes(const Journal::Records& records) {
  std::map<WorkerToken, bool> lives;
  BEELINE_RETURN_IF_ERROR(
      for_each_record<ProcessRecord>(records, Journal::Kind::kProcess, [&](auto number, ProcessRecord process) {
        const std::uint64_t id = next_connection_++;
        auto& connection = *(connections_[id] = std::make_unique<Connection>());
        connection.id = id;
        connection.pid = process.pid;
        connection.start_ticks = process.start_ticks;
        connection.index = static_cast<ProcessIndex>(number);
        connection.is_restored = true;
        connection.kind = static_cast<control::ProcessKind>(process.kind);
        connection.worker = process.worker;
        connection.job = process.job;
        connection.wants_logs = process.wants_logs;
        connection.handled = connection.said_handled = process.handled;
        processes_[connection.index] = &connection;
        const bool is_there = os::start_ticks(process.pid) == process.start_ticks;
        lives[connection.worker] = is_there;
        if (!is_there) close_later(connection);
        return connection.kind == control::ProcessKind::kDriver ? watch_end(connection) : Status::ok();
      }));
  return for_each_record<WorkerRecord>(records, Journal::Kind::kWorker, [&](auto token, WorkerRecord record) {
    Worker worker;
    worker.token = token;
    worker.flavour = {record.torch, std::move(record.env), record.job};
    worker.leaving = record.leaving;
    worker.state = record.leaving ? Worker::State::kBusy : Worker::State::kIdle;  // until a demand takes it
    worker.pid = record.pid;
    worker.launcher = record.launcher;
    worker.index = record.index;
    worker.fresh = record.fresh;
    // One that had lost its connection was about to be killed.
    if (!lives.contains(token) && os::environment_of(record.pid, kSessionVariable) == options_.session_dir) {
      ::kill(record.pid, SIGKILL);
    }
    pool_.adopt(std::move(worker), lives[token]);
    return Status::ok();
  });
}

Status Daemon::restore_demands(const Journal::Records& records) {
  return for_each_record<DemandRecord>(records, Journal::Kind::kDemand, [this](auto id, DemandRecord record) -> Status {
    next_demand_ = std::max(next_demand_, id + 1);
    auto& demand = demands_[id];
    demand.id = id;
    demand.actor = record.actor;
    demand.lease = {record.lessee, record.request.lease};
    demand.request = std::move(record.request);
    demand.worker = record.worker;
    demand.job = record.job;
    demand.blocked = record.blocked;
    if (!record.allocation.empty()) {
      auto& held = record.allocation.front();
      demand.allocation =
          Allocation{to_share(std::move(held.share)), held.cpu_given_back, held.node, 0, held.group, held.bundle};
      scheduler_.restore(*demand.allocation);
    }
    if (demand.actor != 0) {
      demand_of_actor_[demand.actor] = id;
    } else {
      demand_of_lease_[demand.lease] = id;
    }
    if (demand.worker != 0) {
      demand_of_worker_[demand.worker] = id;
      pool_.take(demand.worker);
    }
    return Status::ok();
  });
}

// What the daemon before was about to do.
void Daemon::go_on() {
  std::vector<DemandId> waiting;
  for (const auto& [id, demand] : demands_) {
    if (demand.worker == 0) waiting.push_back(id);
  }
  for (const DemandId id : waiting) {
    auto& demand = demands_.at(id);
    const auto* record = demand.actor == 0 ? nullptr : actors_.find(demand.actor);
    if (demand.allocation) {
      pool_.want(id, demand.flavour(record));
      continue;
    }
    const auto status = record == nullptr
                            ? scheduler_.request(id, demand.request.resources, {}, demand.request.scheduling)
                            : scheduler_.request(id, record->create.resources, record->create.creation_resources,
                                                 record->create.scheduling);
    if (!status.is_ok()) end_demand(id, status.code(), control::DeathCause::kUnschedulable, status.message());
  }
  std::vector<ActorId> homeless;
  std::size_t living = 0;
  for (const auto& [actor, record] : actors_.all()) {
    living += record.process != 0 ? 1 : 0;
    const auto found = demand_of_actor_.find(actor);
    if (found == demand_of_actor_.end()) {
      if (!record.is_dead()) homeless.push_back(actor);  // it waited to be restarted
    } else if (const WorkerToken worker = demands_.at(found->second).worker; record.is_dead() && worker != 0) {
      pool_.kill(worker);
    }
  }
  for (const ActorId actor : homeless) place_actor(actor);
  look_at_jobs_ = true;
  loop_.after(kGatherWithin, [this] { end_gathering(); });
  loop_.after(std::chrono::milliseconds(options_.daemon_wait_ms), [this] { end_absent(); });
  const std::string text = "the node daemon was killed and has been started again: it goes on with " +
                           std::to_string(living) + " actors and " + std::to_string(pool_.workers().size()) +
                           " workers\n";
  std::fprintf(stderr, "beelined: %s", text.c_str());
  send_logs({static_cast<std::int32_t>(::getpid()), 0, "beelined"}, true, text);
}

// Those that have not come back.
void Daemon::end_absent() {
  for (const auto& [index, connection] : processes_) {
    if (connection->socket.is_open() || connection->closing) continue;
    ++counters_["processes_not_back"];
    std::fprintf(stderr, "beelined: process %u (pid %d) has not come back within %u ms\n", index, connection->pid,
                 options_.daemon_wait_ms);
    if (connection->worker != 0) pool_.kill(connection->worker, "it did not come back to a new node daemon");
    close_later(*connection);
  }
}

Result<os::FrameSocket::Receive> Daemon::next_frame(Connection& from, os::Frame& frame) {
  if (gathering_ || from.gathered.empty()) return from.socket.receive(frame);
  frame = std::move(from.gathered.front());
  from.gathered.pop_front();
  return os::FrameSocket::Receive::kFrame;
}

void Daemon::gather(Connection& from, os::Frame frame) {
  const auto type = control::type_of(frame.bytes);
  from.reconciled |= type.is_ok() && *type == Type::kReconcile;
  from.gathered.push_back(std::move(frame));
}

void Daemon::end_gathering_if_complete() {
  const bool is_complete = std::all_of(processes_.begin(), processes_.end(), [](const auto& entry) {
    const Connection& process = *entry.second;
    return !process.is_restored || process.reconciled || process.closing;
  });
  if (is_complete) end_gathering();
}

void Daemon::end_gathering() {
  if (!std::exchange(gathering_, false)) return;
  std::vector<std::uint64_t> ids;
  for (const auto& [id, connection] : connections_) {
    if (!connection->gathered.empty()) ids.push_back(id);
  }
  // Those that have ended meanwhile are closed behind their last words.
  for (const std::uint64_t id : ids) {
    if (const auto found = connections_.find(id); found != connections_.end()) read_frames(*found->second);
  }
}

Status Daemon::resume_process(Connection& from, const control::Resume& message, std::vector<os::Fd> fds) {
  const auto known = processes_.find(message.index);
  Connection* before = known == processes_.end() || known->second->closing ? nullptr : known->second;
  if (before == nullptr || before->pid != from.pid || before->socket.is_open()) {
    control::Resumed refused;
    refused.refused = "process " + std::to_string(message.index) + " does not belong to the session any more";
    send(from, control::encode(Type::kResumed, refused));
    return Status::ok();
  }
  from.is_restored = true;
  from.index = before->index;
  from.kind = before->kind;
  from.start_ticks = before->start_ticks;
  from.worker = before->worker;
  from.job = before->job;
  from.wants_logs = before->wants_logs;
  from.handled = from.said_handled = before->handled;
  from.held_logs = std::move(before->held_logs);
  from.held_log_bytes = before->held_log_bytes;
  processes_[from.index] = &from;
  if (before->pidfd.is_open()) loop_.forget(before->pidfd.get());
  connections_.erase(before->id);
  if (from.kind == control::ProcessKind::kDriver) BEELINE_RETURN_IF_ERROR(watch_end(from));
  send(from, control::encode(Type::kResumed, control::Resumed{{}, from.handled}));
  if (from.worker == 0) return Status::ok();
  const Demand* demand = demand_of_worker(from.worker);
  if (fds.size() == 2) {
    const auto* record = demand == nullptr || demand->actor == 0 ? nullptr : actors_.find(demand->actor);
    const std::string who = record != nullptr   ? label_of(record->create)
                            : demand != nullptr ? demand->request.function_name
                                                : std::string();
    BEELINE_RETURN_IF_ERROR(logs_.adopt(from.worker, {static_cast<std::int32_t>(from.pid), from.job, who},
                                        std::move(fds[0]), std::move(fds[1])));
  }
  if (demand != nullptr) assign_again(*demand);
  return Status::ok();
}

// It may not have come to the worker; one that has it takes it for what it is.
void Daemon::assign_again(const Demand& demand) {
  const auto* worker = pool_.find(demand.worker);
  if (demand.actor == 0) return send(worker->index, Type::kAssignLease, assignment(demand));
  const auto* record = actors_.find(demand.actor);
  if (record == nullptr || record->is_dead()) return;
  send(worker->index, Type::kAssignActor, assignment(demand, *record));
  if (record->leaving == control::DeathCause::kOutOfScope) send(worker->index, Type::kExit, control::Empty{});
}

void Daemon::reconcile(Connection& from, const control::Reconcile& message) {
  for (const LeaseId lease : message.leases) {
    const auto found = demand_of_lease_.find({from.index, lease});
    if (found == demand_of_lease_.end()) {
      send(from, control::encode(Type::kLeaseFailed,
                                 control::LeaseFailed{lease, static_cast<std::uint8_t>(Code::kPeerLost),
                                                      "its worker ended while there was no node daemon"}));
    } else if (const auto* worker = pool_.find(demands_.at(found->second).worker);
               worker != nullptr && !worker->ended) {  // of one that has ended word follows
      send(from, control::encode(Type::kLeaseGranted,
                                 control::LeaseGranted{lease, worker->index, static_cast<std::int32_t>(worker->pid)}));
    }
  }
  for (const ActorId actor : message.actors) watch_actor(from.index, actor);
  for (const GroupId group : message.groups) watch_group(from.index, group);
}

Status Daemon::resume_zygote(Connection& from) {
  loop_.forget(from.socket.fd());
  // One of a virtual environment is started again when somebody wants it.
  if (!pool_.adopt_zygote(from.pid, from.socket)) {
    (void)from.socket.send(control::encode(Type::kExit, control::Empty{}));
  }
  close_later(from);
  return Status::ok();
}

}  // namespace beeline::runtime::node
