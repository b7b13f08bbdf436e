// How a driver starts a session: its directory, its node daemon, and the connection to it.
//
// <BEELINE_TMPDIR or /tmp>/beeline-<uid>/session-<pid>-<random>/   0700
//   lock          held (flock) by the daemon for as long as it lives
//   members       locked (fcntl) by each driver and worker: a directory is stale if nobody holds either
//   journal       what the daemon must know again if it is killed, see node/journal.h; absent: it cannot be followed
//   daemon.sock   where the daemon listens
//   p<index>      where process <index> listens for its peers
//   packages/     folders and modules that runtime_env names, as workers see them; venvs/ likewise
//   lasting       of a session that lives until `beeline stop`: there by its name alone
//   spill/        values that were moved to disk, see spill.h; or a link to the session's own folder on another one
//   logs/         beelined.err, zygote.log, worker-<pid>.{out,err}
//
// Every process of a session has BEELINE_SESSION=<session_dir> in its environment, and so have its descendants.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "beeline/base/clock.h"
#include "beeline/os/unix_socket.h"
#include "beeline/runtime/control.h"

namespace beeline::runtime {

inline constexpr const char* kSessionVariable = "BEELINE_SESSION";
// In the environment that is asked of a worker: the program in C++ that it runs. That one finds its token in the other.
inline constexpr const char* kProgramVariable = "BEELINE_PROGRAM";
inline constexpr const char* kWorkerTokenVariable = "BEELINE_WORKER_TOKEN";
// Seconds, see LaunchOptions::daemon_wait_ms.
inline constexpr const char* kDaemonWaitVariable = "BEELINE_DAEMON_WAIT_S";

// Bytes that the published objects of one process may take where nobody says: a part of the memory there is.
std::uint64_t default_quota_bytes();
// Of the resource "memory", which tasks may ask for: likewise.
std::uint64_t default_memory_resource();

// What a session is started with. The daemon gets all of it as its first frame.
struct LaunchOptions {
  std::string daemon_path;                        // of beelined
  Resources resources;                            // totals; accelerators in whole numbers
  std::vector<std::string> zygote_command;        // {python, "-m", "beeline._zygote"}
  std::map<std::string, std::string> zygote_env;  // over the driver's own: LD_PRELOAD, PYTHONPATH ...
  Bytes config;                                   // opaque; every process gets it with kRegistered
  bool log_to_driver = true;
  std::uint32_t prestart = 0;               // idle workers to fork before anybody asks
  std::uint32_t idle_workers = 0;           // idle workers to keep; 0: as many as CPUs, at least `prestart`
  std::uint32_t idle_timeout_ms = 60'000;   // beyond `prestart`, idle workers end after this
  std::uint64_t max_log_bytes = 64u << 20;  // size at which a worker's log file stops growing
  std::string spill_dir;                    // where the session's folder for spilled values is made; empty: session_dir
  std::string session_dir;                  // filled in by launch_session
  Labels labels;                            // of this node
  bool virtual_nodes = false;               // nodes may be added: what no node has is waited for
  std::vector<std::string> venv_command;    // makes a virtual environment, see node/environments.h
  Variables prestart_env;                   // of the workers to fork before anybody asks
  bool lasting = false;                     // starts without a driver, and ends by a tool alone
  std::uint32_t daemon_wait_ms = 10'000;  // after the daemon was killed: until all is ended; 0: at once, and no journal
  MSGPACK_DEFINE_ARRAY(daemon_path, resources, zygote_command, zygote_env, config, log_to_driver, prestart,
                       idle_workers, idle_timeout_ms, max_log_bytes, spill_dir, session_dir, labels, virtual_nodes,
                       venv_command, prestart_env, lasting, daemon_wait_ms)
};

// A process's end of a session. Closing a driver's the socket (or dying) ends the session, detached actors excepted.
struct Session {
  os::FrameSocket socket;          // registered already: index 1 is the first driver
  control::Registered registered;  // index, name, directory
  os::Fd listener;                 // where other processes of the session connect to; none for a tool
  pid_t daemon_pid = 0;            // our child if we launched it: see wait_session_end
};

// Starts a session and registers the caller as its driver, as a tool if it is a lasting one. Removes stale sessions
// first. The daemon is in a session (of the terminal) of its own: Ctrl-C does not reach it.
Result<Session> launch_session(LaunchOptions options);

// What a driver that joins says of itself.
struct JobOptions {
  Bytes config;  // opaque; its workers get it
  bool wants_logs = true;
};
// Registers the caller, as another driver or a tool, with the session in `session_dir`.
Result<Session> join_session(const std::string& session_dir, control::ProcessKind kind, JobOptions job = {});

// Starts a daemon that goes on with a session whose own was killed. Its pid, a child's; 0: there is a daemon, or
// somebody else starts one. kNotFound: there is no journal to go on from.
Result<pid_t> restart_daemon(const std::string& session_dir, const std::string& daemon_path);
inline std::string journal_path(const std::string& session_dir) {
  return session_dir + "/journal";
}

// The calling process belongs to the session until it leaves or ends: it is not stale meanwhile.
Status enter_session(const std::string& session_dir);
void leave_session(const std::string& session_dir);

// Living processes that were started in the session, the caller excepted.
std::vector<pid_t> processes_in(const std::string& session_dir);

// Asks a live session, as a tool, for its state, with the parts that the request names.
Result<control::State> session_state(const std::string& session_dir, control::GetState request, Deadline deadline);
// Ends a live session, as a tool; kOk once its daemon is gone.
Status stop_session(const std::string& session_dir, Deadline deadline);

// Waits for the daemon that launch_session started to exit and reaps it. After the deadline kDeadlineExceeded.
Status wait_session_end(pid_t daemon_pid, Deadline deadline);

struct StaleSessions {
  std::uint32_t directories = 0;  // removed
  std::uint32_t processes = 0;    // killed: they still belonged to one of them
};
// Removes what sessions without a daemon have left behind. Sessions that live are not touched.
Result<StaleSessions> remove_stale_sessions();

// Ends what is left of a session that has no daemon and removes its directory: kills its processes, the caller
// excepted, and adds their number to `killed`. False, and nothing is done, where it has a daemon or somebody else is
// ending it.
Result<bool> end_lost_session(const std::string& session_dir, std::uint32_t* killed = nullptr);

// Removes a session's directory, and what it has spilled elsewhere.
Status remove_session_dir(const std::string& session_dir);

// Directories of the sessions that have a daemon.
Result<std::vector<std::string>> live_sessions();

// The file in a lasting session's directory.
inline constexpr const char* kLastingFile = "lasting";

}  // namespace beeline::runtime
