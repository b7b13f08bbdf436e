// What processes say to the node daemon and back, over a unix stream socket: frames of a u16 type and a msgpack
// array; Bytes travel as msgpack bin. None of it is on the path of a call or a transfer. docs/wire_format.md describes
// the same as a format.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "beeline/base/bytes.h"
#include "beeline/base/msgpack.h"
#include "beeline/base/status.h"
#include "beeline/runtime/listing.h"
#include "beeline/runtime/scheduling.h"
#include "beeline/store/ids.h"

namespace beeline::runtime {

using store::ProcessIndex;
// Creator's process index in the upper half, the creator's counter in the lower.
using ActorId = std::uint64_t;
// Chosen by the lessee, unique within it.
using LeaseId = std::uint32_t;
// One for each driver, from 1 on; 0: none.
using JobId = std::uint32_t;
using Variables = std::map<std::string, std::string>;

// Environment variables of a worker that say how it is started; the worker takes them out again.
// "<name> <seconds>": the virtual environment that it runs in, and how long the making of that may take; -1: any time.
inline constexpr const char* kVenvVariable = "BEELINE_VENV";
// Words of a command, one a line: what is run in the place of the session's interpreter.
inline constexpr const char* kPyExecutableVariable = "BEELINE_PY_EXECUTABLE";

namespace control {

enum class Type : std::uint16_t {
  // process -> daemon                           answer
  kRegister = 1,      //                       kRegistered
  kCreateActor = 2,   //                       kReply (request), then kActorUpdate
  kWatchActor = 3,    //                       kActorUpdate now and at each change
  kLookupActor = 4,   //                       kActorInfo
  kKillActor = 5,     //
  kActorReady = 6,    // from the actor's own worker, after __init__
  kActorExited = 7,   // from the actor's own worker: it ends on purpose
  kRequestLease = 8,  //                       kLeaseGranted or kLeaseFailed
  kReturnLease = 9,   // also cancels a pending request
  kBlocked = 10,      // a worker's thread waits: its CPU goes back to the pool
  kUnblocked = 11,
  kGetState = 12,     //                       kState
  kShutdown = 13,     // from the driver: end the session
  kListActors = 14,   //                       kNamedActors
  kLinkLost = 15,     // another process cannot be reached any more, or sent what cannot be
  kUsage = 16,        // the answer to kReportUsage
  kCreateGroup = 17,  //                       kReply (request), then kGroupUpdate
  kRemoveGroup = 18,
  kWatchGroup = 19,  //                       kGroupUpdate now and at each change
  kGetGroups = 20,   //                       kGroups
  kAddNode = 21,     //                       kNodeAdded
  kRemoveNode = 22,  //                       kReply
  kPrestart = 26,    // from a driver: have a worker of this environment ready
  kResume = 27,      // to a daemon that follows one that was killed, in the place of kRegister: kResumed. A worker's
                     // carries two descriptors, where its stdout and stderr are read from, or none
  kReconcile = 28,   // what the process relies on: it is told where that stands
  // daemon -> process
  kRegistered = 32,
  kReply = 33,
  kActorUpdate = 34,
  kActorInfo = 35,
  kLeaseGranted = 36,
  kLeaseFailed = 37,
  kState = 38,
  kAssignActor = 39,   // to a worker: become this actor
  kAssignLease = 40,   // to a worker: the lease it now serves, and what it may use for it
  kLogLines = 41,      // to the driver: output of a worker
  kExit = 42,          // to a worker: finish and exit
  kRecallLeases = 43,  // to a lessee: others wait for resources; give idle leases back
  kNamedActors = 44,
  kRetire = 45,       // to an idle worker: exit, unless it holds what others still need; no answer
  kReportUsage = 46,  // to drivers and workers: say what you hold
  kGroupUpdate = 47,
  kGroups = 48,
  kNodeAdded = 49,
  kResumed = 50,
  kHandled = 51,  // now and then: so many of the process's frames have had their effect, and will not be lost
  // daemon -> zygote and back
  kFork = 64,        //                       kForked; two descriptors: stdout, stderr
  kForkZygote = 65,  // become two: the copy imports the named modules; one descriptor: its socket
  kForked = 66,
  kChildExited = 67,
  kZygoteReady = 68,
  // what makes a virtual environment -> daemon
  kEnvironmentMade = 69,
};

enum class ProcessKind : std::uint8_t { kDriver = 0, kWorker = 1, kTool = 2 };

struct Register {
  std::uint8_t kind = 0;  // ProcessKind
  std::int32_t pid = 0;
  std::uint64_t fork_token = 0;  // of kFork; 0 for drivers and tools
  Bytes config;                  // of a driver that joins: what its workers get with kRegistered
  bool wants_logs = true;        // it prints what its workers do
  MSGPACK_DEFINE_ARRAY(kind, pid, fork_token, config, wants_logs)
};

// Where a process takes links from others. The daemon binds it before anybody is told of the process.
inline std::string link_socket(const std::string& session_dir, ProcessIndex process) {
  return session_dir + "/p" + std::to_string(process);
}

// Where the processes of a session keep their counters, and agents of the transfer engine that they open for it.
inline std::string agents_folder(const std::string& session_dir) {
  return session_dir + "/agents";
}

// With it comes the descriptor of that socket, listening; a tool gets none.
struct Registered {
  ProcessIndex index = 0;
  std::string session_name;
  std::string session_dir;
  Bytes config;   // as the job's driver gave it: opaque to the daemon (sys.path, namespace, log level ...)
  JobId job = 0;  // that it belongs to; 0 for a tool
  // If the daemon is killed: what starts another one, and how long the process waits for that.
  std::string daemon_path;
  std::uint32_t daemon_wait_ms = 0;
  ProcessIndex idle_worker = 0;  // to a driver: one that it may connect to ahead of use; 0: none
  MSGPACK_DEFINE_ARRAY(index, session_name, session_dir, config, job, daemon_path, daemon_wait_ms, idle_worker)
};

// A process numbers the frames that it sends after its registration, from 1 on, and keeps those that it has not been
// told to be handled: what a killed daemon has not come to is sent again to the next one.
struct Resume {
  ProcessIndex index = 0;
  MSGPACK_DEFINE_ARRAY(index)
};

struct Resumed {
  std::string refused;  // why, if so: the process does not belong to the session any more
  std::uint64_t handled = 0;
  MSGPACK_DEFINE_ARRAY(refused, handled)
};

struct Handled {
  std::uint64_t frames = 0;
  MSGPACK_DEFINE_ARRAY(frames)
};

struct Reconcile {
  std::vector<LeaseId> leases;  // asked for or granted
  std::vector<ActorId> actors;  // watched
  std::vector<GroupId> groups;
  MSGPACK_DEFINE_ARRAY(leases, actors, groups)
};

struct CreateActor {
  std::uint64_t request = 0;  // echoed in kReply
  ActorId actor = 0;
  Resources resources;           // held while the actor lives
  Resources creation_resources;  // needed to place it, given back once it is placed (Ray: 1 CPU)
  std::string name;              // empty: anonymous
  std::string name_space;
  std::string class_name;         // for people
  std::int32_t max_restarts = 0;  // -1: without bound
  bool detached = false;
  bool wants_torch = false;  // fork from the zygote that has torch imported
  Bytes spec;                // opaque: class, arguments, options; replayed at every restart
  Bytes handle_meta;         // opaque: what a handle found by name needs (methods and their options)
  std::map<std::string, std::string>
      env;  // environment of the worker; changes to load-time variables need a fresh interpreter
  Scheduling scheduling;
  MSGPACK_DEFINE_ARRAY(request, actor, resources, creation_resources, name, name_space, class_name, max_restarts,
                       detached, wants_torch, spec, handle_meta, env, scheduling)
};

struct Reply {
  std::uint64_t request = 0;
  std::uint8_t code = 0;  // Code
  std::string message;
  MSGPACK_DEFINE_ARRAY(request, code, message)
};

struct WatchActor {
  ActorId actor = 0;
  MSGPACK_DEFINE_ARRAY(actor)
};

// kPending: no process yet. kStarting: the worker takes calls, __init__ has not finished. kDead is final.
enum class ActorState : std::uint8_t { kPending = 0, kStarting = 1, kAlive = 2, kRestarting = 3, kDead = 4 };
// Why an actor died; selects the message and the exception.
enum class DeathCause : std::uint8_t {
  kNone = 0,
  kWorkerDied = 1,
  kKilled = 2,
  kExited = 3,
  kInitFailed = 4,
  kOwnerDied = 5,
  kUnschedulable = 6,
  kOutOfScope = 7,
  kGroupRemoved = 8,    // its placement group, before it had a place
  kNoEnvironment = 12,  // what its runtime_env asks for could not be made
};

struct ActorUpdate {
  ActorId actor = 0;
  std::uint8_t state = 0;         // ActorState
  ProcessIndex process = 0;       // where it lives, from kStarting on
  std::uint32_t incarnation = 0;  // 0 first, +1 per restart
  std::int32_t restarts_left = 0;
  std::uint8_t cause = 0;  // DeathCause
  std::string message;     // "exit code 1", "signal 9 (Killed)", what can be done
  Bytes error;             // kInitFailed: the pickled exception of __init__
  std::int32_t pid = 0;
  std::string class_name;
  std::string name;
  MSGPACK_DEFINE_ARRAY(actor, state, process, incarnation, restarts_left, cause, message, error, pid, class_name, name)
};

struct LookupActor {
  std::uint64_t request = 0;
  std::string name;
  std::string name_space;
  MSGPACK_DEFINE_ARRAY(request, name, name_space)
};

struct ActorInfo {
  std::uint64_t request = 0;
  ActorId actor = 0;  // 0: no such name
  Bytes handle_meta;
  MSGPACK_DEFINE_ARRAY(request, actor, handle_meta)
};

struct ListActors {
  std::uint64_t request = 0;
  std::string name_space;
  bool all_namespaces = false;
  MSGPACK_DEFINE_ARRAY(request, name_space, all_namespaces)
};

struct NamedActors {
  std::uint64_t request = 0;
  std::vector<std::pair<std::string, std::string>> names;  // (namespace, name)
  MSGPACK_DEFINE_ARRAY(request, names)
};

struct KillActor {
  ActorId actor = 0;
  bool no_restart = true;
  std::uint8_t cause = 0;  // DeathCause: kKilled or kOutOfScope
  MSGPACK_DEFINE_ARRAY(actor, no_restart, cause)
};

// If both processes live, one of them ends: those that do not hear each other would wait for ever, and no longer agree
// on who holds what.
struct LinkLost {
  ProcessIndex process = 0;
  bool corrupt = false;  // it sent what cannot be
  std::string reason;
  MSGPACK_DEFINE_ARRAY(process, corrupt, reason)
};

struct ActorReady {
  ActorId actor = 0;
  std::uint32_t incarnation = 0;
  bool failed = false;
  std::string message;
  Bytes error;  // the pickled exception
  MSGPACK_DEFINE_ARRAY(actor, incarnation, failed, message, error)
};

struct ActorExited {
  ActorId actor = 0;
  std::uint8_t cause = 0;  // DeathCause: kExited or kOutOfScope
  MSGPACK_DEFINE_ARRAY(actor, cause)
};

struct RequestLease {
  LeaseId lease = 0;
  Resources resources;
  bool wants_torch = false;
  std::map<std::string, std::string> env;
  std::string function_name;  // for people
  Scheduling scheduling;
  MSGPACK_DEFINE_ARRAY(lease, resources, wants_torch, env, function_name, scheduling)
};

struct LeaseGranted {
  LeaseId lease = 0;
  ProcessIndex process = 0;
  std::int32_t pid = 0;
  MSGPACK_DEFINE_ARRAY(lease, process, pid)
};

struct LeaseFailed {
  LeaseId lease = 0;
  std::uint8_t code = 0;
  std::string message;
  MSGPACK_DEFINE_ARRAY(lease, code, message)
};

// What becomes of a worker whose lease is returned.
enum class WorkerAfter : std::uint8_t {
  kIdle = 0,     // serves others
  kBroken = 1,   // cannot be reached: it is killed
  kLeaving = 2,  // was told to exit, and does once nobody needs what it owns or has made
};

struct ReturnLease {
  LeaseId lease = 0;
  std::uint8_t worker = 0;  // WorkerAfter
  MSGPACK_DEFINE_ARRAY(lease, worker)
};

// Where a worker is.
struct WorkPlace {
  NodeIndex node = 0;
  GroupId group = 0;
  bool capture = false;  // what it calls runs in the group too
  MSGPACK_DEFINE_ARRAY(node, group, capture)
};

struct AssignActor {
  ActorId actor = 0;
  std::uint32_t incarnation = 0;
  Bytes spec;
  std::map<std::string, std::vector<std::int32_t>> accelerators;  // "GPU": [0, 1]
  std::map<std::string, std::string> env;
  std::string name;
  std::string name_space;
  Resources resources;
  WorkPlace place;
  MSGPACK_DEFINE_ARRAY(actor, incarnation, spec, accelerators, env, name, name_space, resources, place)
};

struct AssignLease {
  ProcessIndex lessee = 0;
  LeaseId lease = 0;
  std::map<std::string, std::vector<std::int32_t>> accelerators;
  Resources resources;
  WorkPlace place;
  MSGPACK_DEFINE_ARRAY(lessee, lease, accelerators, resources, place)
};

// What processes say of themselves takes as long as the slowest of them, at most `within_ms` (0: the daemon's choice).
struct GetState {
  std::uint64_t request = 0;
  std::uint8_t parts = 0;   // kPartUsage ...: beyond what the daemon knows by itself
  std::uint32_t limit = 0;  // rows of each kind that a process tells
  std::uint32_t within_ms = 0;
  MSGPACK_DEFINE_ARRAY(request, parts, limit, within_ms)
};

struct ReportUsage {
  std::uint64_t query = 0;
  std::uint8_t parts = 0;
  std::uint32_t limit = 0;
  MSGPACK_DEFINE_ARRAY(query, parts, limit)
};

// What a process holds now (objects, arena), and has moved so far, by name.
using Counts = std::map<std::string, std::uint64_t>;

struct Usage {
  std::uint64_t query = 0;
  Counts counts;
  Listing listing;
  MSGPACK_DEFINE_ARRAY(query, counts, listing)
};

struct ActorRow {
  ActorId actor = 0;
  std::string class_name, name, name_space;
  std::uint8_t state = 0;
  std::int32_t pid = 0;
  std::uint32_t incarnation = 0;
  Resources resources;
  ProcessIndex owner = 0;    // who created it
  ProcessIndex process = 0;  // where it lives; 0: nowhere now
  NodeIndex node = kNoNode;  // likewise
  bool detached = false;
  std::uint8_t cause = 0;  // DeathCause
  std::string message;     // why it died or is restarted
  GroupId group = 0;
  Bytes error;    // kInitFailed, with kPartErrors: the pickled exception of __init__
  JobId job = 0;  // of its creator
  MSGPACK_DEFINE_ARRAY(actor, class_name, name, name_space, state, pid, incarnation, resources, owner, process, node,
                       detached, cause, message, group, error, job)
};

struct ProcessRow {
  ProcessIndex index = 0;
  std::int32_t pid = 0;
  std::uint8_t kind = 0;
  std::string what;  // "driver", "actor Counter", "task worker", "idle"
  std::uint64_t pss_bytes = 0;
  Counts usage;  // empty: not asked for, has none, or did not answer in time
  NodeIndex node = 0;
  bool unanswered = false;  // it was asked, and did not answer in time
  Listing listing;
  JobId job = 0;  // that it works for now
  MSGPACK_DEFINE_ARRAY(index, pid, kind, what, pss_bytes, usage, node, unanswered, listing, job)
};

// A worker that has ended. The daemon remembers the last of them.
struct EndedRow {
  ProcessIndex index = 0;
  std::int32_t pid = 0;
  std::string what, how;  // "actor Counter", "exit code 1"
  NodeIndex node = 0;
  bool intended = false;      // it was told to end, or did so by itself without a failure
  std::int64_t ended_ns = 0;  // since 1970
  MSGPACK_DEFINE_ARRAY(index, pid, what, how, node, intended, ended_ns)
};

struct NodeRow {
  NodeIndex node = 0;
  std::string id;  // as among its labels
  bool alive = false;
  Labels labels;
  Resources total, available;  // available outside of placement groups
  MSGPACK_DEFINE_ARRAY(node, id, alive, labels, total, available)
};

// What there is to know of a placement group.
struct GroupRow {
  GroupId group = 0;
  std::string name;
  std::uint8_t strategy = 0;
  std::uint8_t state = 0;
  std::vector<Resources> bundles;
  std::vector<NodeIndex> nodes;  // of the bundles, kNoNode while one has none
  // Of the bundles of a living one: their accelerators there ("GPU": [0, 1]).
  std::vector<std::map<std::string, std::vector<std::int32_t>>> accelerators;
  std::string lacks;  // of a pending one: what no node has, "" if it only waits for others
  bool detached = false;
  MSGPACK_DEFINE_ARRAY(group, name, strategy, state, bundles, nodes, accelerators, lacks, detached)
};

struct State {
  std::uint64_t request = 0;
  std::string session_name;
  double uptime_s = 0;
  Resources total, available;
  std::vector<ActorRow> actors;
  std::vector<ProcessRow> processes;
  std::uint64_t pending_actors = 0, pending_leases = 0, pending_groups = 0;
  Counts counters;
  std::vector<NodeRow> nodes;
  std::vector<EndedRow> ended;
  std::vector<GroupRow> groups;  // kPartGroups
  MSGPACK_DEFINE_ARRAY(request, session_name, uptime_s, total, available, actors, processes, pending_actors,
                       pending_leases, pending_groups, counters, nodes, ended, groups)
};

struct CreateGroup {
  std::uint64_t request = 0;  // echoed in kReply
  GroupId group = 0;
  std::vector<Bundle> bundles;
  std::uint8_t strategy = 0;      // GroupStrategy
  NodeIndex preferred = kNoNode;  // the node to try first
  std::string name;               // empty: anonymous
  std::string name_space;
  bool detached = false;
  MSGPACK_DEFINE_ARRAY(request, group, bundles, strategy, preferred, name, name_space, detached)
};

struct RemoveGroup {
  GroupId group = 0;
  MSGPACK_DEFINE_ARRAY(group)
};

struct WatchGroup {
  GroupId group = 0;
  MSGPACK_DEFINE_ARRAY(group)
};

// kRescheduling: a node was lost, some bundles wait for another one. kRemoved is final.
enum class GroupState : std::uint8_t { kPending = 0, kCreated = 1, kRescheduling = 2, kRemoved = 3 };

struct GroupUpdate {
  GroupId group = 0;
  std::uint8_t state = 0;  // GroupState
  std::string message;     // why it was removed, if nobody asked for that
  MSGPACK_DEFINE_ARRAY(group, state, message)
};

struct GetGroups {
  std::uint64_t request = 0;
  GroupId group = 0;  // 0: the living one of that name, or without a name all
  std::string name;
  std::string name_space;
  MSGPACK_DEFINE_ARRAY(request, group, name, name_space)
};

struct Groups {
  std::uint64_t request = 0;
  std::vector<GroupRow> groups;
  MSGPACK_DEFINE_ARRAY(request, groups)
};

struct AddNode {
  std::uint64_t request = 0;
  Resources resources;
  Labels labels;
  MSGPACK_DEFINE_ARRAY(request, resources, labels)
};

struct NodeAdded {
  std::uint64_t request = 0;
  NodeIndex node = kNoNode;  // kNoNode: it was refused
  std::string message;       // why
  MSGPACK_DEFINE_ARRAY(request, node, message)
};

struct Prestart {
  Variables env;
  MSGPACK_DEFINE_ARRAY(env)
};

struct RemoveNode {
  std::uint64_t request = 0;
  NodeIndex node = 0;
  MSGPACK_DEFINE_ARRAY(request, node)
};

struct LogLines {
  std::int32_t pid = 0;
  std::string who;  // "Counter", "ActorName", or the function's name
  bool is_stderr = false;
  std::string text;  // whole lines
  MSGPACK_DEFINE_ARRAY(pid, who, is_stderr, text)
};

struct Fork {
  std::uint64_t token = 0;
  std::map<std::string, std::string> env;
  MSGPACK_DEFINE_ARRAY(token, env)
};

struct ForkZygote {
  std::vector<std::string> modules;
  MSGPACK_DEFINE_ARRAY(modules)
};

struct Forked {
  std::uint64_t token = 0;
  std::int32_t pid = 0;
  MSGPACK_DEFINE_ARRAY(token, pid)
};

struct ChildExited {
  std::int32_t pid = 0;
  std::int32_t status = 0;  // as waitpid gives it
  MSGPACK_DEFINE_ARRAY(pid, status)
};

// Of what makes a virtual environment: how it ended.
struct EnvironmentMade {
  std::string error;                     // empty: it is there
  std::vector<std::string> interpreter;  // the command that starts its Python
  MSGPACK_DEFINE_ARRAY(error, interpreter)
};

struct Empty {
  std::uint8_t unused = 0;
  MSGPACK_DEFINE_ARRAY(unused)
};

template <typename Message>
Bytes encode(Type type, const Message& message) {
  return pack_frame(type, message);
}

inline Result<Type> type_of(BytesView frame) {
  Reader reader(frame);
  const auto type = reader.read<Type>();
  if (!reader.ok()) return Status(Code::kCorrupt, "a control frame shorter than its type");
  return type;
}

// Every control frame comes from outside: a bad one is kCorrupt, never a crash.
template <typename Message>
Result<Message> decode(BytesView frame) {
  if (frame.size() < sizeof(Type)) return Status(Code::kCorrupt, "a control frame shorter than its type");
  return unpack<Message>(frame.subspan(sizeof(Type)), "a control frame");
}

}  // namespace control
}  // namespace beeline::runtime
