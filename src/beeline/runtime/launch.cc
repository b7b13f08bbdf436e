#include "beeline/runtime/launch.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <random>
#include <thread>

#include "beeline/os/private_folder.h"
#include "beeline/os/process.h"
#include "beeline/os/process_limits.h"

namespace beeline::runtime {
namespace {

constexpr double kQuotaShare = 0.6;
constexpr double kMemoryShare = 0.7;

constexpr auto kRegisterTimeout = std::chrono::seconds(20);
// A directory that is being made has a name of its own until its lock is held; one of this age was abandoned.
constexpr const char* kUnfinishedPrefix = ".new-";
constexpr const char* kMembersFile = "members";
constexpr const char* kSpillPrefix = "beeline-spill-";
constexpr auto kUnfinishedAge = std::chrono::seconds(60);
// How long a session may be without its daemon before those outside take it for lost; how often they look.
constexpr auto kDaemonBackWithin = std::chrono::seconds(2);
constexpr auto kLookPeriod = std::chrono::milliseconds(20);
// Descriptors of the daemon: its driver and its lock.
constexpr int kDriverFd = 3;
constexpr int kLockFd = 4;

std::filesystem::path sessions_dir() {
  return os::user_folder();
}

// Takes the lock without waiting; nothing inside the Fd when somebody holds it.
Result<os::Fd> try_lock(const std::filesystem::path& path, int flags) {
  os::Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | flags, 0600));
  if (!fd.is_open()) return Status::from_errno("open " + path.string(), errno);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
  if (errno == EWOULDBLOCK) return os::Fd();
  return Status::from_errno("lock " + path.string(), errno);
}

struct SessionDir {
  std::string path;
  os::Fd lock;
};

// A directory appears under its final name with its lock held: nobody can take it for a stale one.
Result<SessionDir> make_session_dir() {
  const auto parent = sessions_dir();
  std::random_device random;
  char suffix[16];
  std::snprintf(suffix, sizeof suffix, "%08x", static_cast<unsigned>(random()));
  const std::string name = "session-" + std::to_string(::getpid()) + "-" + suffix;
  const auto path = parent / name;
  if (path.string().size() + sizeof "/p4294967295" > 107) {
    return Status(Code::kInvalidArgument,
                  "socket paths under " + path.string() + " would be too long: set BEELINE_TMPDIR to a shorter path");
  }
  const auto unfinished = parent / (kUnfinishedPrefix + name);
  // The last session of this user that ends removes the parent: it may go between the two calls.
  for (int attempt = 0;; ++attempt) {
    BEELINE_RETURN_IF_ERROR(os::make_private_folder(parent.string()));
    if (::mkdir(unfinished.c_str(), 0700) == 0) break;
    if (errno != ENOENT || attempt == 10) return Status::from_errno("make directory " + unfinished.string(), errno);
  }
  BEELINE_ASSIGN(auto lock, try_lock(unfinished / "lock", O_CREAT | O_EXCL));
  if (!lock.is_open()) return Status(Code::kSystem, "the lock of a new directory is held: " + unfinished.string());
  if (::mkdir((unfinished / "logs").c_str(), 0700) != 0) return Status::from_errno("make a directory for logs", errno);
  if (::rename(unfinished.c_str(), path.c_str()) != 0) return Status::from_errno("rename to " + path.string(), errno);
  return SessionDir{path.string(), std::move(lock)};
}

std::vector<std::filesystem::path> session_dirs() {
  std::vector<std::filesystem::path> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(sessions_dir(), error)) found.push_back(entry.path());
  return found;
}

// The sessions that this process belongs to, with their locked files. Locks of this kind are the process's own: a child
// by fork() does not inherit them, and closing the file anywhere in the process ends them.
struct Membership {
  os::Fd file;
  int count = 0;
};
std::mutex members_mutex;
std::map<std::string, Membership> memberships;

struct flock members_lock(short type) {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

bool has_members(const std::filesystem::path& session_dir) {
  const std::lock_guard guard(members_mutex);
  if (memberships.contains(session_dir.string())) return true;
  const os::Fd file(::open((session_dir / kMembersFile).c_str(), O_RDWR | O_CLOEXEC));
  auto lock = members_lock(F_WRLCK);
  return file.is_open() && ::fcntl(file.get(), F_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

// True when the session has no daemon any more, and nobody who would start another one.
bool is_stale(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  if (name.starts_with(kUnfinishedPrefix)) {
    struct stat info{};
    return ::stat(path.c_str(), &info) == 0 &&
           std::chrono::system_clock::from_time_t(info.st_mtime) + kUnfinishedAge < std::chrono::system_clock::now();
  }
  if (!name.starts_with("session-")) return false;
  const auto lock = try_lock(path / "lock", 0);
  if (!lock.is_ok()) return lock.status().system_error() == ENOENT;
  return lock.value().is_open() && !has_members(path);
}

Status register_with(Session& session, control::ProcessKind kind, JobOptions job = {}) {
  auto& socket = session.socket;
  const control::Register request{static_cast<std::uint8_t>(kind), static_cast<std::int32_t>(::getpid()), 0,
                                  std::move(job.config), job.wants_logs};
  BEELINE_RETURN_IF_ERROR(socket.send(control::encode(control::Type::kRegister, request)));
  const auto deadline = Deadline::after(kRegisterTimeout);
  BEELINE_RETURN_IF_ERROR(socket.flush_all(deadline));
  os::Frame frame;
  BEELINE_RETURN_IF_ERROR(socket.receive_within(frame, deadline));
  BEELINE_ASSIGN(const auto type, control::type_of(frame.bytes));
  if (type != control::Type::kRegistered) return {Code::kCorrupt, "the daemon's first frame is no registration"};
  BEELINE_ASSIGN(session.registered, control::decode<control::Registered>(frame.bytes));
  if (!frame.fds.empty()) session.listener = std::move(frame.fds.front());
  return Status::ok();
}

// One that follows a killed one has no driver's end.
Result<pid_t> spawn_daemon(const std::string& session_dir, const std::vector<std::string>& command,
                           std::optional<int> driver_end, int lock) {
  const std::string log_path = session_dir + "/logs/beelined.err";
  const os::Fd log(::open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!log.is_open()) return Status::from_errno("open " + log_path, errno);
  const os::Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null.is_open()) return Status::from_errno("open /dev/null", errno);
  os::SpawnOptions spawn;
  spawn.command = command;
  spawn.environment = os::environment_with({{kSessionVariable, session_dir}});
  spawn.descriptors = {{null.get(), 0}, {null.get(), 1}, {log.get(), 2}, {lock, kLockFd}};
  if (driver_end) spawn.descriptors.emplace_back(*driver_end, kDriverFd);
  spawn.new_session = true;
  return os::spawn_process(spawn);
}

Result<Session> start_daemon(const LaunchOptions& options, const os::Fd& lock) {
  BEELINE_ASSIGN(auto ends, os::make_socket_pair());
  Session session;
  BEELINE_ASSIGN(session.daemon_pid,
                 spawn_daemon(options.session_dir, {options.daemon_path}, ends.second.get(), lock.get()));
  ends.second.reset();
  session.socket = os::FrameSocket(std::move(ends.first));
  msgpack::sbuffer packed;
  msgpack::pack(packed, options);
  auto status = session.socket.send(as_bytes({packed.data(), packed.size()}));
  if (status.is_ok()) {
    status = options.lasting ? register_with(session, control::ProcessKind::kTool)
                             : register_with(session, control::ProcessKind::kDriver, {{}, options.log_to_driver});
    if (status.is_ok()) return session;
  }
  ::kill(session.daemon_pid, SIGKILL);
  int exit_status = 0;
  ::waitpid(session.daemon_pid, &exit_status, 0);
  const auto why = os::file_tail(options.session_dir + "/logs/beelined.err", 2048);
  return std::move(status).with_context("starting " + options.daemon_path +
                                        (why.empty() ? "" : " (it says: " + why + ")"));
}

// By which others know, without asking, that it waits for drivers.
Status mark_lasting(const LaunchOptions& options) {
  if (!options.lasting) return Status::ok();
  const std::string path = options.session_dir + "/" + kLastingFile;
  const os::Fd mark(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  return mark.is_open() ? Status::ok() : Status::from_errno("make " + path, errno);
}

// Another disk for spilled values: a folder there, by a link here.
Status link_spill_folder(const LaunchOptions& options) {
  if (options.spill_dir.empty()) return Status::ok();
  const std::filesystem::path session(options.session_dir);
  std::error_code error;
  const auto parent = std::filesystem::absolute(options.spill_dir, error);
  if (error || !std::filesystem::is_directory(parent, error)) {
    return {Code::kInvalidArgument, "object_spilling_directory: " + options.spill_dir + " is no directory"};
  }
  const auto target = parent / (kSpillPrefix + session.filename().string());
  BEELINE_RETURN_IF_ERROR(os::make_private_folder(target.string()));
  if (::symlink(target.c_str(), (session / "spill").c_str()) == 0) return Status::ok();
  return Status::from_errno("link the folder for spilled values", errno);
}

}  // namespace

std::uint64_t default_quota_bytes() {
  return static_cast<std::uint64_t>(static_cast<double>(os::usable_memory()) * kQuotaShare);
}

std::uint64_t default_memory_resource() {
  return static_cast<std::uint64_t>(static_cast<double>(os::usable_memory()) * kMemoryShare);
}

namespace {

// A process that leaves may be removing files of its own there, which disturbs the search.
std::error_code remove_folder(const std::filesystem::path& path) {
  std::error_code error;
  for (int attempt = 0; attempt < 10; ++attempt) {
    std::filesystem::remove_all(path, error);
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) return {};
  }
  return error ? error : std::make_error_code(std::errc::directory_not_empty);
}

}  // namespace

Status remove_session_dir(const std::string& session_dir) {
  const std::filesystem::path path(session_dir);
  std::error_code error;
  std::error_code left;
  const auto spill = std::filesystem::read_symlink(path / "spill", error);
  if (!error && spill.filename().string() == kSpillPrefix + path.filename().string()) left = remove_folder(spill);
  if (error = remove_folder(path); error) return Status::from_errno("remove " + session_dir, error.value());
  return left ? Status(Code::kSystem, spill.string() + " cannot be removed; remove it by hand") : Status::ok();
}

namespace {

// What the environment says of it, if it does.
Status take_daemon_wait(LaunchOptions& options) {
  const char* const setting = std::getenv(kDaemonWaitVariable);
  if (setting == nullptr || *setting == 0) return Status::ok();
  char* end = nullptr;
  const double seconds = std::strtod(setting, &end);
  if (*end != 0 || !(seconds >= 0) || seconds > 3600) {
    return {Code::kInvalidArgument,
            std::string(kDaemonWaitVariable) + "=" + setting + " is no number of seconds from 0 to 3600"};
  }
  options.daemon_wait_ms = static_cast<std::uint32_t>(seconds * 1000);
  return Status::ok();
}

}  // namespace

Result<Session> launch_session(LaunchOptions options) {
  BEELINE_RETURN_IF_ERROR(take_daemon_wait(options));
  // What others left behind is no reason to fail.
  if (const auto removed = remove_stale_sessions(); !removed.is_ok()) {
    std::fprintf(stderr, "beeline: stale sessions were not removed: %s\n", removed.status().message().c_str());
  }
  BEELINE_ASSIGN(auto dir, make_session_dir());
  options.session_dir = dir.path;
  auto prepared = link_spill_folder(options);
  if (prepared) prepared = mark_lasting(options);
  auto session = prepared ? start_daemon(options, dir.lock) : Result<Session>(prepared);
  if (!session.is_ok()) (void)remove_session_dir(dir.path);
  return session;
}

Result<pid_t> restart_daemon(const std::string& session_dir, const std::string& daemon_path) {
  if (::access(journal_path(session_dir).c_str(), F_OK) != 0) {
    return Status(Code::kNotFound, "there is no journal to go on from");
  }
  BEELINE_ASSIGN(const auto lock, try_lock(std::filesystem::path(session_dir) / "lock", 0));
  if (!lock.is_open()) return 0;
  return spawn_daemon(session_dir, {daemon_path, "--resume", session_dir}, std::nullopt, lock.get());
}

Status enter_session(const std::string& session_dir) {
  const std::lock_guard guard(members_mutex);
  if (const auto found = memberships.find(session_dir); found != memberships.end()) {
    ++found->second.count;
    return Status::ok();
  }
  const std::string path = session_dir + "/" + kMembersFile;
  os::Fd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file.is_open()) return Status::from_errno("open " + path, errno);
  auto lock = members_lock(F_RDLCK);
  if (::fcntl(file.get(), F_SETLK, &lock) != 0) return Status::from_errno("lock " + path, errno);
  memberships[session_dir] = {std::move(file), 1};
  return Status::ok();
}

void leave_session(const std::string& session_dir) {
  const std::lock_guard guard(members_mutex);
  const auto found = memberships.find(session_dir);
  if (found != memberships.end() && --found->second.count == 0) memberships.erase(found);
}

std::vector<pid_t> processes_in(const std::string& session_dir) {
  std::vector<pid_t> found;
  for (const auto& process : os::list_processes()) {
    if (process.pid == ::getpid() || process.state == 'Z') continue;
    if (os::environment_of(process.pid, kSessionVariable) == session_dir) found.push_back(process.pid);
  }
  return found;
}

namespace {

// While a daemon that was killed is being followed by another one, a while longer.
Result<os::Fd> connect_to_daemon(const std::string& session_dir) {
  const auto back_within = Deadline::after(kDaemonBackWithin);
  for (;;) {
    auto socket = os::connect_unix(session_dir + "/daemon.sock", Deadline::after(kRegisterTimeout));
    const int error = socket.is_ok() ? 0 : socket.status().system_error();
    const bool is_away = error == ECONNREFUSED || error == ENOENT;
    if (!is_away || back_within.passed() || !has_members(session_dir)) return socket;
    std::this_thread::sleep_for(kLookPeriod);
  }
}

}  // namespace

Result<Session> join_session(const std::string& session_dir, control::ProcessKind kind, JobOptions job) {
  Session session;
  BEELINE_ASSIGN(auto socket, connect_to_daemon(session_dir));
  session.socket = os::FrameSocket(std::move(socket));
  BEELINE_ASSIGN(const auto peer, os::peer_credentials(session.socket.fd()));
  session.daemon_pid = peer.pid;
  BEELINE_RETURN_IF_ERROR(register_with(session, kind, std::move(job)));
  return session;
}

Status wait_session_end(pid_t daemon_pid, Deadline deadline) {
  // A daemon that cannot be found has been reaped by somebody else (a program that waits for any child).
  if (const auto pidfd = os::open_pidfd(daemon_pid); pidfd.is_ok()) {
    for (;;) {
      pollfd entry{pidfd.value().get(), POLLIN, 0};
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline.left()).count();
      const int timeout_ms = deadline.is_never() ? -1 : static_cast<int>(std::min<std::int64_t>(left, 1'000'000));
      const int ready = ::poll(&entry, 1, timeout_ms);
      if (ready > 0) break;
      if (ready < 0 && errno != EINTR) return Status::from_errno("wait for the node daemon's end", errno);
      if (deadline.passed()) return {Code::kDeadlineExceeded, "the node daemon has not exited within the deadline"};
    }
  }
  int status = 0;
  while (::waitpid(daemon_pid, &status, 0) < 0 && errno == EINTR) {
  }
  return Status::ok();
}

Result<bool> end_lost_session(const std::string& session_dir, std::uint32_t* killed) {
  const std::filesystem::path path(session_dir);
  // Held until all is gone: of several who are at it one goes on, and nobody starts another daemon meanwhile.
  const auto lock = try_lock(path / "lock", 0);
  if (!lock.is_ok() && lock.status().system_error() != ENOENT) return lock.status();
  if (lock.is_ok() && !lock->is_open()) return false;
  for (const pid_t pid : processes_in(session_dir)) {
    if (::kill(pid, SIGKILL) == 0 && killed != nullptr) ++*killed;
  }
  BEELINE_RETURN_IF_ERROR(remove_session_dir(session_dir));
  ::rmdir(path.parent_path().c_str());  // when it was the last session
  return true;
}

Result<StaleSessions> remove_stale_sessions() {
  StaleSessions result;
  for (const auto& path : session_dirs()) {
    if (!is_stale(path)) continue;
    BEELINE_ASSIGN(const bool is_removed, end_lost_session(path.string(), &result.processes));
    result.directories += is_removed ? 1 : 0;
  }
  return result;
}

Result<std::vector<std::string>> live_sessions() {
  std::vector<std::string> found;
  for (const auto& path : session_dirs()) {
    if (path.filename().string().starts_with("session-") && !is_stale(path)) found.push_back(path.string());
  }
  return found;
}

Result<control::State> session_state(const std::string& session_dir, control::GetState request, Deadline deadline) {
  BEELINE_ASSIGN(auto session, join_session(session_dir, control::ProcessKind::kTool));
  request.request = 1;
  BEELINE_RETURN_IF_ERROR(session.socket.send(control::encode(control::Type::kGetState, request)));
  for (;;) {
    os::Frame frame;
    BEELINE_RETURN_IF_ERROR(session.socket.receive_within(frame, deadline));
    BEELINE_ASSIGN(const auto type, control::type_of(frame.bytes));
    if (type == control::Type::kState) return control::decode<control::State>(frame.bytes);
  }
}

Status stop_session(const std::string& session_dir, Deadline deadline) {
  auto joined = join_session(session_dir, control::ProcessKind::kTool);
  const int error = joined.is_ok() ? 0 : joined.status().system_error();
  if (error == ECONNREFUSED || error == ENOENT) {
    // It has lost its daemon, and those who belong to it do not start another one: they are stopped, say.
    ::unlink(journal_path(session_dir).c_str());
    for (const pid_t pid : processes_in(session_dir)) ::kill(pid, SIGKILL);
    return remove_session_dir(session_dir);
  }
  BEELINE_RETURN_IF_ERROR(joined.status());
  auto session = std::move(joined).value();
  BEELINE_RETURN_IF_ERROR(session.socket.send(control::encode(control::Type::kShutdown, control::Empty{})));
  for (;;) {
    os::Frame frame;
    const auto status = session.socket.receive_within(frame, deadline);
    if (status.code() == Code::kPeerLost) return Status::ok();
    if (!status) return status;
  }
}

}  // namespace beeline::runtime
