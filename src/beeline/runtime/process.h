// One process of a session: what its Python (or C++) side talks to. Owns the links, the objects, the calls, and the
// two threads that keep them going (os/control_loop.h, progress.h).
//
// Thread-safe: public functions take the state lock themselves unless they say otherwise.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "beeline/os/control_loop.h"
#include "beeline/os/state_lock.h"
#include "beeline/runtime/caller.h"
#include "beeline/runtime/executor.h"
#include "beeline/runtime/launch.h"
#include "beeline/runtime/log_printer.h"
#include "beeline/runtime/mapped_peers.h"
#include "beeline/runtime/peers.h"
#include "beeline/runtime/progress.h"
#include "beeline/runtime/spill.h"

namespace beeline::runtime {

// How the tensors and arrays of a value travel.
enum class Mode : std::int8_t {
  kStored = 0,    // copied when the object is made; arrays come back read-only
  kLive = 1,      // in place: the producer must not write while others read
  kSnapshot = 2,  // as they were when published
  // Above: by transports that the program registered, which the core does not know.
};

// A piece of the caller's memory that belongs to a value.
struct SourceBuffer {
  const std::byte* data = nullptr;
  std::size_t size = 0;
  bool writable = false;
};

// Memory of the program.
using Extent = std::span<const std::byte>;

// By which tensors are fetched that stay with who made them.
struct Transport {
  store::Way way = store::Way::kArena;
  std::string name;
};

// A large value, opened: the bytes of each buffer, valid while `lease` lives. A lease on its publication, or a mapping
// of the file that its holder has moved it to.
struct Opened {
  std::shared_ptr<void> lease;
  std::vector<std::span<std::byte>> buffers;
};

// Counters that any thread may read.
struct TransferStats {
  std::uint64_t inline_objects = 0, inline_bytes = 0;  // inside messages
  std::uint64_t mapped_objects = 0, mapped_bytes = 0;  // published in place, or fetched by mapping
  std::uint64_t copied_objects = 0, copied_bytes = 0;  // copied into the arena at publication
  std::uint64_t fetched_objects = 0, fetched_bytes = 0;
  std::uint64_t rehomed_objects = 0, lost_objects = 0;     // of holders that are gone
  std::uint64_t remade_calls = 0;                          // that ran again for the sake of a lost value
  std::uint64_t spilled_objects = 0, spilled_bytes = 0;    // moved to disk by this process
  std::uint64_t restored_objects = 0, restored_bytes = 0;  // fetched from there
  std::uint64_t spill_stalled_ns = 0;                      // that publications waited for it
  std::uint64_t publications = 0;                          // now: live, or read by somebody yet
};

class Process final : public PeerEvents, public store::TableEvents {
 public:
  using Entry = store::Entry;

  static Result<std::unique_ptr<Process>> launch(LaunchOptions options, memory::Arena::Options arena);
  // Another driver of the session in `session_dir`; `config` is for its workers.
  static Result<std::unique_ptr<Process>> join_as_driver(const std::string& session_dir, Bytes config, bool wants_logs,
                                                         memory::Arena::Options arena);
  static Result<std::unique_ptr<Process>> join_as_worker(
      const std::string& session_dir, std::uint64_t fork_token,
      const std::function<memory::Arena::Options(BytesView config)>& arena);
  ~Process();
  // Ends this process's part; the last driver ends the session. Bounded by 3 s. Afterwards every function may still be
  // called and fails; only this record of it is left: no thread, descriptor or mapping (but those of live leases).
  void stop();

  [[nodiscard]] ProcessIndex self() const { return self_; }
  [[nodiscard]] const control::Registered& registered() const { return registered_; }
  [[nodiscard]] bool is_driver() const { return is_driver_; }
  [[nodiscard]] pid_t daemon_pid() const { return daemon_pid_; }  // of the last one
  // Whether the daemon is this process's child.
  [[nodiscard]] bool has_launched() const { return has_launched_; }
  // Why the session ended under us.
  std::optional<std::string> session_error();

  // ----- objects; entries are held by their users: one hold per reference
  Entry* put(store::PayloadPtr payload, const std::string* name, const std::string* call_site = nullptr);
  void add_hold(Entry& entry);
  void drop_hold(Entry& entry);
  // The entry of a reference that came inside a value; nullptr if the object is gone.
  Entry* restore(const store::ObjectId& id);
  bool ready(Entry& entry);
  // The value. Null where there is none yet: it has been lost since it was there, and comes again to who waits for it.
  store::PayloadPtr payload(Entry& entry);
  // `known`, the value of a ready object, could not be fetched by its transport. Waits until its holder is known to be
  // gone, or there is another value already.
  WaitOutcome wait_lost(Entry& entry, const store::PayloadPtr& known, Deadline deadline);
  // `known`, the value of a ready object, cannot be opened: its holder is gone. Waits until the owner has told another
  // one; at once where there is another already, and where there will be none.
  WaitOutcome ask_again(Entry& entry, const store::PayloadPtr& known, Deadline deadline);
  // Waits until `count` of the entries are ready.
  WaitOutcome wait(std::span<Entry* const> entries, std::size_t count, Deadline deadline);
  // Tells `watcher` (state lock held) when the entry is ready; at once if it is.
  void watch(Entry& entry, store::Watcher& watcher);
  void unwatch(Entry& entry, store::Watcher& watcher);

  // ----- publications: what this process shares or keeps until the owner of an object frees it
  // `referred`: the program's memory that the value stands for, see wait_unpublished(). `transport`: by which that is
  // fetched, where the buffers do not hold it.
  Result<std::unique_ptr<store::Placement>> publish(std::span<const SourceBuffer> buffers, Mode mode,
                                                    std::vector<Extent> referred = {}, const Transport& transport = {});
  // What the program is to be told of its values, each once. Cheap when there is nothing.
  std::vector<std::string> take_notices();
  // As publish(), for a value that travels inline: nobody fetches it from here. Null once the session has ended.
  std::unique_ptr<store::Placement> publish_inline(std::vector<Extent> referred, const Transport& transport = {});
  // Ends what was published for values that go nowhere.
  void discard(const std::vector<store::PayloadPtr>& values);
  // Whether what is published here may come back to who made it: to a driver or an actor. A function's process runs
  // others afterwards, which fetch it as anybody does.
  bool is_lasting();
  Result<Opened> open(const store::Placement& placement, Deadline deadline);
  // A lease ended: its pages are cleaned and given back by the helper, off this thread's path; at once if the holder
  // waits for that.
  void lease_ended(bool awaited);
  // Whether the helper is to be left asleep when a lease ends in this thread, until it sleeps or has its next call:
  // what it is about to send goes first. Returns what held before.
  static bool set_cleaning_waits(bool waits);
  void free_placement_now(const store::Placement& placement);
  // How many live publications of this process refer to memory that overlaps the range.
  std::size_t publications_of(const void* data, std::size_t size);
  // How many processes still read a live publication of this process; none once it is over.
  std::optional<std::size_t> readers_of(memory::PublicationId id);
  // Later fetches of a publication of this process fail with kMutated.
  void mark_mutated(memory::PublicationId id);
  // Waits until none is left.
  WaitOutcome wait_unpublished(const void* data, std::size_t size, Deadline deadline);
  // Called with the state lock held, from any thread, when a publication of this process was retired: short.
  std::function<void(memory::PublicationId)> on_retired;
  // Whether the memory can be published in place.
  bool is_shareable(const void* data, std::size_t size);
  TransferStats transfer_stats();

  // ----- calls
  std::vector<Entry*> call_actor(ActorTarget& actor, CallOptions options, store::PayloadPtr args,
                                 const std::vector<Entry*>& dependencies);
  std::vector<Entry*> call_function(Shape& shape, CallOptions options, store::PayloadPtr args,
                                    const std::vector<Entry*>& dependencies);
  ActorTarget& actor(ActorId id);
  Shape& shape(const Resources& resources, bool wants_torch, const std::map<std::string, std::string>& env,
               const Scheduling& scheduling, const std::string& name);
  void define_function(std::uint64_t key, std::string blob);
  std::uint64_t pending_calls(ActorTarget& actor);
  bool cancel(Entry& entry, bool force, bool recursive);
  // ----- streams: calls with kCallStreams give one return, which names the stream until drop_stream()
  // The object of the next item, held once more. A stream that has ended gives one that holds kEndOfStream.
  Entry* next_item(Entry& stream);
  // The next item, if it is there, with its hold; null at the end.
  Entry* take_item(Entry& stream);
  void drop_stream(Entry& stream);
  // Makes the value that stands for a collection of objects. Set before other threads use the process; short, called
  // with the state lock held.
  std::function<store::PayloadPtr(std::vector<store::ObjectId>)> collect;
  // Whether the object is what a call of this process to an actor will give.
  bool is_actor_call(Entry& entry);
  const std::string* intern(std::string_view name);

  // ----- actors
  // A new actor: its id and the entry that keeps it alive, held once.
  struct NewActor {
    ActorId id = 0;
    Entry* life = nullptr;
  };
  Result<NewActor> create_actor(control::CreateActor request, store::PayloadPtr args,
                                const std::vector<Entry*>& dependencies, std::string_view blob, BytesView options,
                                bool wait_for_name);
  Result<control::ActorInfo> lookup_actor(const std::string& name, const std::string& name_space);
  Result<control::NamedActors> list_actors(const std::string& name_space, bool all);
  void kill_actor(ActorId id, bool no_restart);
  control::ActorUpdate actor_state(ActorId id);
  // With the parts that the request names: `request` is chosen here. Waits as long as the request gives processes, and
  // a while for the daemon.
  Result<control::State> node_state(control::GetState request = {});
  // Has a worker with this environment ready; what cannot be made for it is told to those who ask for one.
  void prestart(Variables env);

  // ----- placement groups and nodes
  // At once; with a name, after the name is taken.
  Result<GroupId> create_group(control::CreateGroup request);
  void remove_group(GroupId id);
  // One group, or by name, or all; see control::GetGroups.
  Result<control::Groups> groups(control::GetGroups request);
  // An object with that value, held once, as soon as all bundles of the group have a place; an error when it is
  // removed.
  Entry* group_ready(GroupId id, store::PayloadPtr value);
  Result<control::NodeAdded> add_node(control::AddNode request);
  Status remove_node(NodeIndex node);

  // ----- the worker's side
  struct Assignment {
    std::optional<control::AssignActor> actor;
    std::optional<control::AssignLease> lease;
    std::uint64_t version = 0;  // grows with each change
  };
  // Waits for a call to run, a new assignment (version differs from `seen`), or the end.
  enum class Next { kCall, kAssigned, kExit, kInterrupted };  // the last: a signal, or chores for Python
  Next next_call(std::uint64_t seen, IncomingCall*& call, Deadline deadline);
  // Has a thread that waits for a call return to Python soon, or now if it waits. The lock is held.
  void request_python() { has_chores_for_python_ = true; }
  IncomingCall* try_take();
  Assignment assignment();
  void finish(IncomingCall& call, std::vector<store::PayloadPtr> results, bool retryable);
  // This process ends by itself: who waits for a call gets kExit.
  void leave();
  // Until no more than `left` calls run here.
  WaitOutcome wait_for_calls(std::size_t left, Deadline deadline);
  // Sends the next item of a call that streams; false if nobody takes more.
  bool send_item(IncomingCall& call, const store::PayloadPtr& item);
  // Waits until the call may send another one. As any wait, it gives way meanwhile.
  WaitOutcome wait_for_room(IncomingCall& call, Deadline deadline);
  void actor_ready(bool failed, const std::string& message, BytesView error);
  void actor_exited(control::DeathCause cause);
  // Parts of what create_actor encoded.
  struct ActorSpec {
    std::string blob;
    Bytes options;
    store::PayloadPtr args;
    std::vector<Entry*> dependencies;
  };
  Result<ActorSpec> open_spec(BytesView spec);
  void release_spec(ActorSpec& spec);
  // This thread executes a function (or constructs an actor): while it waits, its CPU goes back to the daemon.
  void set_executing_task(bool executing);
  static bool is_executing_task();
  Executor& executor() { return executor_; }
  // Asked now and then, without the state lock, during a wait for the daemon: whether a signal makes the caller give up
  // (kInterrupted). Set before other threads use the process.
  std::function<bool()> on_signal;
  bool exiting();
  [[nodiscard]] bool exiting_locked() const { return exiting_; }
  // An actor without handles has done what it was asked, and nobody needs what it owns. The state lock is held.
  bool may_terminate();
  void ask_owners();

  // ----- for the parts of this process; the state lock is held
  [[nodiscard]] std::shared_ptr<memory::Arena> arena() const { return arena_; }
  StateLock& lock() { return lock_; }
  store::ObjectTable& objects() { return objects_; }
  Peers& peers() { return *peers_; }
  os::ControlLoop& control() { return control_; }
  Progress& progress() { return progress_; }
  void subscribe(Entry& entry);
  template <typename Body>
  void tell_daemon(control::Type type, const Body& body) {
    send_control(control::encode(type, body));
  }
  void send_object_to(ProcessIndex to, const Entry& entry) { send_object(to, entry); }
  // A value whose holder is gone: its owner copies it, or has it made again, and then tells it to who asks.
  [[nodiscard]] bool is_stale(const Entry& entry) const;
  void release_args(const store::PayloadPtr& args);
  void cancel_children(const CallKey& parent, bool force) { caller_.cancel_children(parent, force); }
  // Pins entries until the receiver of a message says that it borrowed them; the token to send along.
  std::uint64_t pin_for(ProcessIndex receiver, std::span<const store::ObjectId> refs);
  void unpin(std::uint64_t token);

 private:
  struct Publication {
    memory::PublicationId id;
    std::vector<Extent> referred;
    ProcessIndex owner = 0;     // of the object: with it, what was published for it ends
    std::uint64_t number = 0;   // in movable_; 0 for what stays where it is
    memory::Range block{};      // its bytes
    bool is_moved_out = false;  // they lie in spill_
    bool is_direct = false;
    std::string transport{};  // that fetches what the value stands for; empty where its buffers hold it
    std::uint64_t bytes = 0;  // of all buffers, or of what the transport fetches, in how many
    std::uint32_t buffers = 0;
    Clock::time_point since{};  // the epoch: not recorded, of what travels inline
    // What a holder that is gone had of the value: it goes with this.
    std::pair<ProcessIndex, memory::PublicationId> inherited{};
  };

  Process();
  Status start(os::FrameSocket socket, control::Registered registered, os::Fd listener);

  // PeerEvents
  Status on_message(ProcessIndex from, Message type, BytesView body) override;
  void on_peer_ending(ProcessIndex process) override { caller_.on_leaving(process); }
  void on_peer_lost(ProcessIndex process, const Status& why) override;
  void watch_socket(int fd, bool also_writable, std::function<void(std::uint32_t)> handler) override;
  void forget_socket(int fd) override;
  // TableEvents
  void send_borrow(const store::ObjectId& id) override;
  void send_release(const store::ObjectId& id) override;
  void send_object(ProcessIndex to, const Entry& entry) override;
  void free_placement(const store::Placement& placement) override;
  void actor_unreferenced(const store::ObjectId& id) override;
  void lineage_unneeded(Entry& entry) override { caller_.forget_lineage(entry); }

  WaitOutcome wait_giving_way(Locked& locked, Deadline deadline, FunctionRef<bool()> done);
  void hand_over(const store::Payload& value, ProcessIndex owner);
  void add_publication(const store::Placement& placement, std::vector<Extent> referred, bool is_movable);
  void mark_by_transport(store::Placement& placement, const Transport& transport);
  Result<std::byte*> allocate(memory::Arena& arena, std::size_t size);
  Result<std::uint64_t> make_room(memory::Arena& arena, std::uint64_t wanted);
  // Handles what has come, unless another thread does; true if there was anything.
  bool look_into_mailbox();
  Result<std::uint64_t> move_out_oldest(memory::Arena& arena);
  Result<Opened> open_moved_out(const store::Placement& placement, Deadline deadline);
  Result<Opened> open_buffers(transfer::Paths& from, const store::Placement& placement, Deadline deadline);
  Result<store::PayloadPtr> copy_here(memory::Arena& arena, transfer::Paths& from, const store::Payload& value);
  Status handle_message(ProcessIndex from, Message type, Reader& reader, BytesView body);
  void on_subscribe(ProcessIndex from, const store::ObjectId& id);
  void on_daemon_socket(std::uint32_t events);
  Status on_daemon_frame(BytesView frame);
  void on_group_update(const control::GroupUpdate& update);
  Status take_answer(std::uint64_t request, BytesView frame);
  void send_control(Bytes frame);
  // Of what was sent, so much need not be kept for another daemon.
  void forget_handled(std::uint64_t frames);
  // The daemon is gone. Another one may follow it, which this process starts if nobody else does; if none comes, the
  // session is over.
  void daemon_lost(const std::string& reason);
  void find_daemon();
  void start_another_daemon();
  void on_resumed(const control::Resumed& resumed);
  void session_over(const std::string& reason);
  // Until it is written to the daemon's socket, for a while.
  void flush_to_daemon(Locked& locked, Deadline deadline);
  // Asks the daemon something under `request`, for await_reply(). Another daemon may be asked it again.
  template <typename Body>
  void ask_daemon(control::Type type, const Body& body) {
    auto frame = control::encode(type, body);
    asked_[body.request] = {sent_frames_ + 1, frame};
    send_control(std::move(frame));
  }
  // The frame that answers the request.
  Result<Bytes> await_answer(Locked& locked, std::uint64_t request);
  template <typename Answer>
  Result<Answer> await_reply(Locked& locked, std::uint64_t request) {
    auto frame = await_answer(locked, request);
    asked_.erase(request);
    if (!frame.is_ok()) return frame.status();
    return control::decode<Answer>(*frame);
  }
  const std::string* intern_locked(std::string_view name) { return &*names_.emplace(name).first; }
  bool drain();
  void on_idle();
  bool is_needed_by_others();
  void run_chores();
  void clean_leases();
  // The state lock is held.
  void notify_program(std::string notice);
  void say_of_remaking(const Entry& entry);
  [[nodiscard]] std::string spilling_notice(const memory::Arena& arena) const;
  void forget_spilled(ProcessIndex holder, memory::PublicationId id);
  void remove_spilled();
  void request_cleaning();
  control::Counts usage();
  // What it tells who asks, in process_listing.cc.
  control::Listing listing(std::uint8_t parts, std::uint32_t limit);
  void list_tasks(std::uint32_t limit, control::Listing& out);
  void list_objects(std::uint32_t limit, control::Listing& out);
  void list_publications(std::uint32_t limit, control::Listing& out);
  bool trim_arena();
  // The ways to what a process that is or was linked to this one, or this one itself, has published.
  Result<MappedPeers::PathsPtr> paths_to(ProcessIndex process);
  [[nodiscard]] std::string name_for_people() const;
  void rehome(ProcessIndex holder, const std::string& reason);
  void lose(Entry& entry, const std::string& reason, const std::string& more);
  static bool may_be_made_again(const Entry& entry);
  void copy_lost_values();
  void reap();
  void release_lost_arenas();
  void retire(memory::PublicationId id);
  void settle_publications();
  void retire_publications_of(ProcessIndex owner);
  store::PayloadPtr session_failure() const;

  StateLock lock_;
  ProcessIndex self_ = 0;
  bool is_driver_ = false;
  bool has_launched_ = false;
  bool is_worker_ = false;
  bool started_ = false;
  bool stopped_ = false;
  pid_t daemon_pid_ = 0;
  control::Registered registered_;
  std::shared_ptr<memory::Arena> arena_;  // shared with publish() in other threads; null once stopped
  ring::Mailbox mailbox_;
  os::ControlLoop control_;
  Progress progress_;
  std::unique_ptr<Peers> peers_;
  store::ObjectTable objects_;
  Caller caller_;
  Executor executor_;
  LogPrinter printer_;

  os::FrameSocket daemon_;
  // While there is none, or one that has not taken this process up yet.
  struct DaemonAway {
    Clock::time_point since;
    std::string reason;
    int starts = 0;  // that this process has tried
  };
  std::optional<DaemonAway> away_;
  pid_t daemon_child_ = 0;       // started by this process, to be reaped
  std::deque<Bytes> unhandled_;  // the last frames, up to the one numbered sent_frames_
  std::uint64_t sent_frames_ = 0;
  std::array<os::Fd, 2> own_output_;  // of a worker whose output the daemon reads: the same ends, for another daemon
  std::string session_error_;
  std::uint64_t next_request_ = 1;
  struct Asked {
    std::uint64_t number = 0;  // of its frame
    Bytes frame;
  };
  std::unordered_map<std::uint64_t, Asked> asked_;
  std::unordered_map<std::uint64_t, Bytes> replies_;
  std::set<std::string> names_;

  std::unordered_map<std::uint32_t, Publication> publications_;  // by slot; until retired and read by nobody
  std::map<std::uint64_t, std::uint32_t> movable_;               // slots of those that may be moved out, oldest first
  std::uint64_t next_movable_ = 1;
  std::optional<Spill> spill_;  // there once started
  // Of values that are no more: their files, which the helper removes.
  std::vector<std::pair<ProcessIndex, memory::PublicationId>> spilled_in_vain_;
  std::optional<memory::PublicationId> inheriting_;  // while a copy takes its place
  std::mutex spill_mutex_;                           // before the state lock; held while values are being moved out
  std::atomic<bool> has_notice_{false};
  std::vector<std::string> notices_;
  bool said_of_spilling_ = false, said_of_remaking_ = false;
  std::vector<memory::PublicationId> retired_;  // of these, the ones that somebody may read yet
  std::uint64_t inline_publications_ = 0;       // ever made
  MappedPeers mapped_;
  // Own values in the memory of a process that is gone.
  struct LostValue {
    store::ObjectId id;
    store::PayloadPtr value;
    MappedPeers::PathsPtr holder;
    std::string reason;
  };
  std::vector<LostValue> to_rehome_;
  std::set<ProcessIndex> lost_holders_;  // gone, with memory that fetched objects may still be opened from
  std::unordered_map<std::uint64_t, std::pair<ProcessIndex, std::vector<Entry*>>> pins_;
  std::uint64_t next_pin_ = 1;
  TransferStats transfers_;
  std::atomic<bool> leases_to_clean_{false}, leases_awaited_{false};
  bool has_chores_for_python_ = false;
  std::uint64_t allocations_seen_ = 0;  // by trim_arena(), of the helper thread

  // What is known of placement groups that this process has made, or waits for; not of removed ones.
  struct GroupTarget {
    control::GroupState state = control::GroupState::kPending;
    bool condemned = false;  // this process has asked for its removal: whatever it hears, it is not there any more
    std::vector<std::pair<Entry*, store::PayloadPtr>> waiting;  // each held
  };
  std::unordered_map<GroupId, GroupTarget> groups_;
  std::uint32_t next_group_ = 1;

  Assignment assignment_;
  bool exiting_ = false;
  std::uint32_t next_actor_ = 1;
  std::unordered_map<std::uint64_t, ActorId> actor_of_life_;  // by serial of the entry that keeps it alive
  std::set<ActorId> terminate_when_sent_;                     // unreferenced, with calls that wait for its process
};

}  // namespace beeline::runtime
