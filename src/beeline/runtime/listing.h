// What a process tells of its calls, objects and publications when somebody asks: rows of control frames (control.h).
// Nothing is kept for it but what CallHistory has; all else is looked up when it is asked for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "beeline/base/bytes.h"
#include "beeline/base/msgpack.h"
#include "beeline/runtime/scheduling.h"
#include "beeline/store/ids.h"

namespace beeline::runtime::control {

// Parts of the state that are told on request, in any combination.
inline constexpr std::uint8_t kPartUsage = 1;    // sums of each process
inline constexpr std::uint8_t kPartTasks = 2;    // its calls
inline constexpr std::uint8_t kPartObjects = 4;  // its objects and publications
inline constexpr std::uint8_t kPartGroups = 8;   // placement groups
inline constexpr std::uint8_t kPartErrors = 16;  // what actors raised in __init__
inline constexpr std::uint8_t kPartsOfProcesses = kPartUsage | kPartTasks | kPartObjects;

enum class TaskState : std::uint8_t {
  kPendingArguments = 0,  // arguments are being made
  kPendingWorker = 1,     // no worker yet, or the actor has no process
  kSent = 2,              // to the worker, which has not begun it
  kWaitsForTurn = 3,      // at the actor: calls before it, or its concurrency group, are not done
  kRunning = 4,
  kRunningInGet = 5,  // it waits for an object
  kFinished = 6,
  kFailed = 7,
};

// One attempt of a call, as its caller or its executor knows it; who asks brings the two together by the first three.
struct TaskRow {
  store::ProcessIndex caller = 0;
  std::uint64_t task = 0;
  std::uint32_t attempt = 0;
  bool of_executor = false;  // who tells: only the first three, `state`, the times and `worker` are set then
  std::uint8_t state = 0;    // TaskState
  std::string name, function;
  std::uint64_t actor = 0;
  store::ProcessIndex parent_caller = 0;  // of the call that made it; 0: the program did
  std::uint64_t parent_task = 0;
  store::ProcessIndex worker = 0;  // where it was sent last; 0: nowhere
  std::uint8_t error = 0;          // ErrorKind
  std::string error_message;
  Bytes error_pickle;  // what the program raised, as its worker pickled it; empty if it was too long
  std::int64_t started_ns = 0, ended_ns = 0;  // since 1970; 0: not known
  Resources resources;                        // of a function
  GroupId group = 0;
  MSGPACK_DEFINE_ARRAY(caller, task, attempt, of_executor, state, name, function, actor, parent_caller, parent_task,
                       worker, error, error_message, error_pickle, started_ns, ended_ns, resources, group)
};

enum class Reference : std::uint8_t {
  kUnknown = 0,
  kLocal = 1,        // a reference of the program, or a hold on behalf of another process
  kUsedByTask = 2,   // an argument of a call that is not over
  kInObject = 3,     // within another object's value
  kActorHandle = 4,  // stands for an actor
};

inline constexpr std::uint8_t kNoTask = 255;  // put, or a call of another process

// An object as one process knows it: its owner, or one that holds a reference.
struct ObjectRow {
  store::ProcessIndex owner = 0;
  std::uint32_t kind = 0;  // ObjectKind
  std::uint64_t serial = 0;
  std::string name, call_site;        // call_site: only where they are recorded
  std::int64_t size_bytes = -1;       // -1: not there yet
  std::uint8_t error = 0;             // ErrorKind, of one that holds an error
  std::uint8_t reference = 0;         // Reference
  std::uint8_t task_state = kNoTask;  // of the call that makes it or has made it, as its caller knows it
  std::uint32_t attempt = 0;
  std::uint32_t holds = 0;                     // in this process
  std::vector<store::ProcessIndex> borrowers;  // own: processes that hold it as well
  store::ProcessIndex holder = 0;              // where its bytes lie; 0: in messages and in its owner's memory
  std::uint32_t slot = 0, generation = 0;      // of the publication there
  bool is_direct = false;
  MSGPACK_DEFINE_ARRAY(owner, kind, serial, name, call_site, size_bytes, error, reference, task_state, attempt, holds,
                       borrowers, holder, slot, generation, is_direct)
};

// What this process has published, or keeps for somebody.
struct PublicationRow {
  std::uint32_t slot = 0, generation = 0;
  store::ProcessIndex owner = 0;  // of the object that it belongs to
  std::uint64_t bytes = 0;
  std::uint32_t buffers = 0;
  bool is_direct = false, is_moved_out = false, is_retired = false;
  std::string transport;  // that fetches it; empty: it is mapped or copied
  double age_s = 0;
  std::vector<std::int32_t> readers;  // pids of processes that may read it now
  std::vector<std::int32_t> leases;   // pids of those that hold a lease, readers included
  MSGPACK_DEFINE_ARRAY(slot, generation, owner, bytes, buffers, is_direct, is_moved_out, is_retired, transport, age_s,
                       readers, leases)
};

struct Listing {
  std::vector<TaskRow> tasks;
  std::vector<ObjectRow> objects;
  std::vector<PublicationRow> publications;
  // Rows beyond the limit, and tasks that ended so long ago that they are not kept any more.
  std::uint64_t tasks_left_out = 0, objects_left_out = 0, publications_left_out = 0, tasks_forgotten = 0;
  MSGPACK_DEFINE_ARRAY(tasks, objects, publications, tasks_left_out, objects_left_out, publications_left_out,
                       tasks_forgotten)
};

}  // namespace beeline::runtime::control
