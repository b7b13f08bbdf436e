// The node daemon: what must be known once per machine. One thread, one event loop; every message is handled at once
// and to its end. The parts that decide (Scheduler, ActorTable) do no I/O; this class carries out what they decide.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "beeline/os/epoll.h"
#include "beeline/os/unix_socket.h"
#include "beeline/runtime/launch.h"
#include "beeline/runtime/node/actor_table.h"
#include "beeline/runtime/node/group_table.h"
#include "beeline/runtime/node/journal.h"
#include "beeline/runtime/node/journal_records.h"
#include "beeline/runtime/node/log_pump.h"
#include "beeline/runtime/node/scheduler.h"
#include "beeline/runtime/node/worker_pool.h"

namespace beeline::runtime::node {

class Daemon final : private PoolEvents {
 public:
  // `driver` is the connection of the driver, or tool, that starts the session, its first frame (the options) read;
  // `lock` is held until the end.
  static Result<std::unique_ptr<Daemon>> make(LaunchOptions options, os::FrameSocket driver, os::Fd lock);
  // Goes on with the session of a daemon that was killed, from its journal.
  static Result<std::unique_ptr<Daemon>> resume(const std::string& session_dir, os::Fd lock);
  ~Daemon() override;

  // Runs the session to its end and removes its directory.
  Status run();

 private:
  struct Connection {
    std::uint64_t id = 0;
    os::FrameSocket socket;  // not open: it belonged to another daemon, and has not come back yet
    pid_t pid = 0;
    ProcessIndex index = 0;  // 0: not registered
    control::ProcessKind kind = control::ProcessKind::kTool;
    WorkerToken worker = 0;
    JobId job = 0;
    bool wants_logs = false;
    os::Fd pidfd;  // of drivers: their children may hold the socket beyond their death
    std::uint64_t start_ticks = 0;
    std::uint64_t handled = 0;  // frames of a driver or worker, after its registration
    std::uint64_t said_handled = 0;
    std::size_t unsaid_bytes = 0;
    bool watches_room = false;  // for what its socket has not taken
    bool is_restored = false;   // a process of the daemon before
    bool reconciled = false;
    std::deque<os::Frame> gathered;
    bool closing = false;
    std::deque<Bytes> held_logs;  // for a driver that does not keep up
    std::size_t held_log_bytes = 0;
    // A driver's kRegistered and what goes with it, until workers can be had.
    std::optional<control::Registered> greeting;
    os::Fd greeting_fd;
  };
  // A lessee's request: its process and the number it chose.
  using LeaseKey = std::pair<ProcessIndex, LeaseId>;
  using DemandId = std::uint64_t;  // the scheduler's ticket and the pool's want
  // What a driver started, and what that started in turn. It stays while there are workers or actors of it.
  struct Job {
    Bytes config;
    bool is_over = false;  // its driver has ended
  };
  // An actor's or a lease's way to a worker: waits for resources, then for a worker, then has both.
  struct Demand {
    DemandId id = 0;
    ActorId actor = 0;  // 0: a lease
    LeaseKey lease;
    control::RequestLease request;  // of a lease; of an actor `scheduling` alone
    std::optional<Allocation> allocation;
    WorkerToken worker = 0;
    JobId job = 0;
    int blocked = 0;  // threads of the worker that wait

    [[nodiscard]] Flavour flavour(const ActorRecord* record) const;
    [[nodiscard]] control::WorkPlace place(const Scheduling& scheduling) const;
  };

  Daemon(LaunchOptions options, os::EventLoop loop, Scheduler scheduler, os::Fd lock);
  Status listen();
  Status start(os::FrameSocket driver);

  // daemon.cc: connections
  Status watch_signals();
  Connection& adopt(os::FrameSocket socket, pid_t pid);
  void accept_all();
  Status watch_end(Connection& driver);
  // Whether there may be more.
  bool read_frames(Connection& connection);
  void write_more(Connection& connection);
  void close_later(Connection& connection);
  void sweep();
  void process_gone(ProcessIndex process);
  void link_lost(ProcessIndex from, const control::LinkLost& message);
  void end_one_of(ProcessIndex from, const control::LinkLost& message);
  // Leaves at the end of the turn, when the journal has what it tells.
  void send(Connection& connection, const Bytes& frame, const std::vector<int>& fds = {});
  void send_queued();
  template <typename Message>
  void send(ProcessIndex process, control::Type type, const Message& message);
  Connection* find(ProcessIndex process);
  Status handle(Connection& from, control::Type type, os::Frame& frame);
  Status register_process(Connection& from, const control::Register& message);
  void greet_drivers();
  void end_job(JobId job);
  void forget_over_jobs();
  // To the job's driver; of job 0 to all.
  void send_logs(const LogPump::Source& source, bool is_stderr, const std::string& lines);
  void reap_children();
  void turn();

  // daemon_journal.cc
  void changed(Journal::Kind kind, std::uint64_t key) { changed_.emplace(kind, key); }
  void begin_journal();
  // What has changed in this turn; all of it where the file is to be written anew.
  void write_journal();
  void note_all();
  void note_changed_tables();
  void give_up_journal(const Status& why);
  [[nodiscard]] std::optional<Bytes> record_of(const Journal::Key& key) const;
  [[nodiscard]] StateRecord state_record() const;
  [[nodiscard]] GroupStateRecord state_record(const GroupRecord& record) const;
  void count_handled(Connection& from, std::size_t bytes);

  // daemon_resume.cc
  static Result<std::unique_ptr<Daemon>> from_journal(const std::string& path, os::Fd lock);
  Status restore(const HeaderRecord& header, const Journal::Records& records);
  Status restore_nodes(const Journal::Records& records);
  Status restore_groups(const Journal::Records& records);
  Status restore_actors(const Journal::Records& records);
  Status restore_processes(const Journal::Records& records);
  Status restore_demands(const Journal::Records& records);
  void go_on();
  void end_absent();
  // What processes of the daemon before say is handled once all are back, or some time has passed: one may name what
  // another one has made.
  void gather(Connection& from, os::Frame frame);
  void end_gathering_if_complete();
  void end_gathering();
  Result<os::FrameSocket::Receive> next_frame(Connection& from, os::Frame& frame);
  // A process, or a zygote, of the daemon before is back.
  Status resume_process(Connection& from, const control::Resume& message, std::vector<os::Fd> fds);
  Status resume_zygote(Connection& from);
  void reconcile(Connection& from, const control::Reconcile& message);
  void assign_again(const Demand& demand);
  [[nodiscard]] bool is_left_by_others() const;

  // daemon_actors.cc
  void create_actor(Connection& from, control::CreateActor message);
  void watch_actor(ProcessIndex from, ActorId actor);
  void kill_actor(const control::KillActor& message);
  void actor_ready(Connection& from, const control::ActorReady& message);
  void actor_exited(Connection& from, const control::ActorExited& message);
  void actor_worker_ended(const Demand& demand, const std::string& how);
  void place_actor(ActorId actor);
  void assign_actor(Demand& demand, Worker& worker);
  [[nodiscard]] control::AssignActor assignment(const Demand& demand, const ActorRecord& record) const;
  // Dead at once; its worker, if any, is killed.
  void end_actor(ActorId actor, control::DeathCause cause, const std::string& message);
  void announce(ActorId actor);
  // Waits for what its creator has sent already: the news of an actor may overtake its creation.
  ActorRecord* find_actor(ActorId actor);
  void dismiss(WorkerToken worker);
  // What its output goes by.
  static std::string label_of(const control::CreateActor& create);

  // daemon_demands.cc
  Demand& add_demand(JobId job);
  void request_lease(Connection& from, control::RequestLease message);
  void return_lease(Connection& from, const control::ReturnLease& message);
  void assign_lease(Demand& demand, Worker& worker);
  [[nodiscard]] control::AssignLease assignment(const Demand& demand) const;
  void withdraw(DemandId demand);
  void set_blocked(Connection& from, bool blocked);
  Demand* demand_of_worker(WorkerToken worker);
  [[nodiscard]] const Demand* demand_of_worker(WorkerToken worker) const;
  bool place_demands();  // whether there was something to place
  void recall_leases();
  void worker_ready(WantId want, Worker& worker) override;
  void worker_failed(WantId want, NoWorker kind, const std::string& why) override;
  void worker_ended(const Worker& worker, const std::string& how) override;
  void retire(Worker& worker) override;

  // daemon_groups.cc
  void create_group(Connection& from, control::CreateGroup message);
  void remove_group(GroupId group);
  void watch_group(ProcessIndex from, GroupId group);
  void get_groups(Connection& from, const control::GetGroups& message);
  // The creator's frames that lie in its socket may make it.
  GroupRecord* find_group(GroupId group);
  // The same before a request for it, which frames of its own process must not overtake.
  void expect_group(const Connection& from, GroupId group);
  void announce(const GroupRecord& record);
  void place_groups();
  void end_groups_of(ProcessIndex process, bool is_driver);
  void add_node(Connection& from, const control::AddNode& message);
  void remove_node(Connection& from, const control::RemoveNode& message);
  // It can be met no more: an actor dies of `cause` if it had no place yet, a lessee is told `code`.
  void end_demand(DemandId demand, Code code, control::DeathCause cause, const std::string& why);
  // What it was given is gone before a worker could be had for it.
  void place_again(DemandId demand);

  // daemon_state.cc
  control::State state(std::uint64_t request, std::uint8_t parts);
  [[nodiscard]] control::ActorRow row_of(const ActorRecord& record, std::uint8_t parts) const;
  [[nodiscard]] control::GroupRow row_of(const GroupRecord& record) const;
  // What a worker is used for, for people, and on which node.
  [[nodiscard]] std::pair<std::string, NodeIndex> use_of(WorkerToken worker) const;
  void remember_ended(const Worker& worker, const std::string& how);
  void get_state(Connection& from, const control::GetState& message);
  void add_usage(ProcessIndex process, control::Usage message);
  void expect_no_usage(ProcessIndex process);
  void answer(std::uint64_t query);

  // daemon_end.cc
  // A driver ends its part: the session as well, unless somebody needs it.
  void leave(Connection& driver);
  [[nodiscard]] bool is_used_beside(const Connection* driver) const;
  void end_if_unused();
  void end();
  void kill_rest();
  void remove_session_dir();

  LaunchOptions options_;
  os::EventLoop loop_;
  os::Fd lock_;
  os::Fd listener_;
  os::Fd signals_;
  Clock::time_point started_ = Clock::now();
  std::string session_name_;

  std::uint64_t next_connection_ = 1;
  ProcessIndex next_index_ = 1;
  std::map<std::uint64_t, std::unique_ptr<Connection>> connections_;
  std::map<ProcessIndex, Connection*> processes_;
  std::vector<std::uint64_t> closing_;
  JobId next_job_ = 1;
  std::map<JobId, Job> jobs_;
  bool look_at_jobs_ = false;  // one may have lost what kept it
  bool draining_ = false;

  Scheduler scheduler_;
  ActorTable actors_;
  GroupTable groups_;
  LogPump logs_;
  WorkerPool pool_;
  DemandId next_demand_ = 1;
  std::map<DemandId, Demand> demands_;
  std::map<ActorId, DemandId> demand_of_actor_;
  std::map<LeaseKey, DemandId> demand_of_lease_;
  std::map<WorkerToken, DemandId> demand_of_worker_;
  os::EventLoop::TimerId recall_timer_ = 0;
  Nanos recall_delay_{};
  control::Counts counters_;
  // A request for the state that waits for what processes say of themselves.
  struct Query {
    ProcessIndex from = 0;
    std::uint64_t request = 0;
    std::uint8_t parts = 0;
    std::set<ProcessIndex> awaited;
    std::map<ProcessIndex, control::Usage> answers;
  };
  std::uint64_t next_query_ = 1;
  std::map<std::uint64_t, Query> queries_;
  std::deque<control::EndedRow> ended_workers_;  // the last of them, oldest first

  std::map<NodeRequest, NodeIndex> node_requests_;

  std::optional<Journal> journal_;
  HeaderRecord header_;
  std::set<Journal::Key> changed_;
  StateRecord written_state_;
  control::Counts written_counters_;
  Clock::time_point counters_written_;
  std::uint64_t generation_ = 0;           // of daemons of the session
  std::set<std::uint64_t> queued_;         // connections that have frames to send
  std::vector<std::int64_t> restarts_ns_;  // since 1970: the last times that the session's daemon was followed
  bool is_resumed_ = false;
  bool gathering_ = false;

  bool ending_ = false;
  bool ended_ = false;
  Clock::time_point ending_since_;
};

template <typename Message>
void Daemon::send(ProcessIndex process, control::Type type, const Message& message) {
  if (Connection* connection = find(process)) send(*connection, control::encode(type, message));
}

}  // namespace beeline::runtime::node
