#include "beeline/os/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <map>
#include <sstream>

extern char** environ;

namespace beeline::os {
namespace {

// Above any number that a child is given, so that placing one descriptor never overwrites another's source.
constexpr int kParkedFd = 64;

std::vector<char*> pointers_to(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  pointers.reserve(texts.size() + 1);
  for (const auto& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// Files of /proc have no size: read until the end.
std::string read_whole(const std::string& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  if (!fd.is_open()) return text;
  std::array<char, 4096> buffer;
  for (;;) {
    const ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

std::string proc_path(pid_t pid, const char* file) {
  return "/proc/" + std::to_string(pid) + "/" + file;
}

// The pid in a directory's name, or 0.
pid_t pid_of(const char* name) {
  pid_t pid = 0;
  const char* end = name + std::strlen(name);
  const auto [stop, error] = std::from_chars(name, end, pid);
  return error == std::errc() && stop == end ? pid : 0;
}

struct SpawnAttributes {
  SpawnAttributes() {
    ::posix_spawnattr_init(&attributes);
    ::posix_spawn_file_actions_init(&actions);
  }
  SpawnAttributes(const SpawnAttributes&) = delete;
  SpawnAttributes& operator=(const SpawnAttributes&) = delete;
  ~SpawnAttributes() {
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
  }
  posix_spawnattr_t attributes;
  posix_spawn_file_actions_t actions;
};

}  // namespace

Result<pid_t> spawn_process(const SpawnOptions& options) {
  if (options.command.empty()) return Status(Code::kInvalidArgument, "an empty command to start");
  SpawnAttributes spawn;
  sigset_t signals;
  ::sigemptyset(&signals);
  ::posix_spawnattr_setsigmask(&spawn.attributes, &signals);
  ::sigfillset(&signals);
  ::posix_spawnattr_setsigdefault(&spawn.attributes, &signals);
  int flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
  if (options.new_session) flags |= POSIX_SPAWN_SETSID;
  ::posix_spawnattr_setflags(&spawn.attributes, static_cast<short>(flags));

  std::vector<Fd> parked;
  for (const auto& [ours, theirs] : options.descriptors) {
    const int copy = ::fcntl(ours, F_DUPFD_CLOEXEC, kParkedFd);
    if (copy < 0) return Status::from_errno("duplicate a descriptor for " + options.command[0], errno);
    parked.emplace_back(copy);
    ::posix_spawn_file_actions_adddup2(&spawn.actions, copy, theirs);
  }
  const auto arguments = pointers_to(options.command);
  const auto environment = pointers_to(options.environment);
  pid_t pid = 0;
  const int error =
      ::posix_spawnp(&pid, arguments[0], &spawn.actions, &spawn.attributes, arguments.data(), environment.data());
  if (error != 0) return Status::from_errno("start " + options.command[0], error);
  return pid;
}

std::vector<std::string> environment_with(const std::vector<std::pair<std::string, std::string>>& changes) {
  std::map<std::string, std::string> variables;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const auto equals = text.find('=');
    if (equals != std::string_view::npos) variables[std::string(text.substr(0, equals))] = text.substr(equals + 1);
  }
  for (const auto& [name, value] : changes) variables[name] = value;
  std::vector<std::string> result;
  result.reserve(variables.size());
  for (const auto& [name, value] : variables) result.push_back(name + "=" + value);
  return result;
}

Result<Fd> open_pidfd(pid_t pid) {
  Fd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!fd.is_open()) return Status::from_errno("pidfd_open of process " + std::to_string(pid), errno);
  return fd;
}

bool has_ended(const Fd& pidfd) {
  pollfd ended{pidfd.get(), POLLIN, 0};
  return ::poll(&ended, 1, 0) > 0;
}

bool is_ending(pid_t pid) {
  constexpr unsigned kExiting = 4;  // PF_EXITING of the kernel's sched.h
  const std::string stat = read_whole(proc_path(pid, "stat"));
  const auto end = stat.rfind(')');
  if (end == std::string::npos) return true;
  // ) state parent group session terminal its_group flags ...
  std::istringstream fields(stat.substr(end + 1));
  char state = 0;
  long skipped = 0;
  unsigned flags = 0;
  fields >> state >> skipped >> skipped >> skipped >> skipped >> skipped >> flags;
  return state == 'Z' || state == 'X' || (flags & kExiting) != 0;
}

std::string describe_exit(int status) {
  if (WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    const char* name = ::sigabbrev_np(signal);
    return "killed by signal " + std::to_string(signal) + (name ? std::string(" (SIG") + name + ")" : "");
  }
  return "exit code " + std::to_string(WEXITSTATUS(status));
}

Status become_subreaper() {
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0) return Status::from_errno("become a subreaper", errno);
  return Status::ok();
}

std::vector<ProcessEntry> list_processes() {
  std::vector<ProcessEntry> entries;
  DIR* directory = ::opendir("/proc");
  if (directory == nullptr) return entries;
  while (const dirent* file = ::readdir(directory)) {
    const pid_t pid = pid_of(file->d_name);
    if (pid == 0) continue;
    const std::string stat = read_whole(proc_path(pid, "stat"));
    // pid (name) state parent ...: the name may hold anything, its end is the last parenthesis.
    const auto end = stat.rfind(')');
    if (end == std::string::npos || end + 4 >= stat.size()) continue;
    ProcessEntry entry{pid, 0, stat[end + 2]};
    std::from_chars(stat.data() + end + 4, stat.data() + stat.size(), entry.parent);
    entries.push_back(entry);
  }
  ::closedir(directory);
  return entries;
}

std::optional<std::uint64_t> start_ticks(pid_t pid) {
  constexpr int kStartField = 22;  // of /proc/<pid>/stat; the state, after the name, is the third
  const std::string stat = read_whole(proc_path(pid, "stat"));
  const auto end = stat.rfind(')');
  if (end == std::string::npos || end + 2 >= stat.size() || stat[end + 2] == 'Z' || stat[end + 2] == 'X') {
    return std::nullopt;
  }
  std::size_t at = end + 2;
  for (int field = 3; field < kStartField && at != std::string::npos; ++field) {
    at = stat.find(' ', at);
    if (at != std::string::npos) ++at;
  }
  if (at == std::string::npos) return std::nullopt;
  std::uint64_t ticks = 0;
  const auto [rest, error] = std::from_chars(stat.data() + at, stat.data() + stat.size(), ticks);
  return error == std::errc() ? std::optional(ticks) : std::nullopt;
}

std::vector<pid_t> descendants_of(pid_t root) {
  std::multimap<pid_t, ProcessEntry> children;
  for (const auto& entry : list_processes()) children.emplace(entry.parent, entry);
  std::vector<pid_t> parents{root};
  std::vector<pid_t> found;
  while (!parents.empty()) {
    const pid_t parent = parents.back();
    parents.pop_back();
    const auto [first, last] = children.equal_range(parent);
    for (auto child = first; child != last; ++child) {
      parents.push_back(child->second.pid);
      if (child->second.state != 'Z') found.push_back(child->second.pid);
    }
  }
  return found;
}

std::optional<std::string> environment_of(pid_t pid, std::string_view name) {
  const std::string text = read_whole(proc_path(pid, "environ"));
  std::string_view rest = text;
  while (!rest.empty()) {
    const auto entry = rest.substr(0, rest.find('\0'));
    if (entry.size() > name.size() && entry.starts_with(name) && entry[name.size()] == '=') {
      return std::string(entry.substr(name.size() + 1));
    }
    rest.remove_prefix(std::min(rest.size(), entry.size() + 1));
  }
  return std::nullopt;
}

std::uint64_t pss_bytes(pid_t pid) {
  const std::string text = read_whole(proc_path(pid, "smaps_rollup"));
  const auto at = text.find("\nPss:");
  if (at == std::string::npos) return 0;
  const auto digits = text.find_first_of("0123456789", at);
  if (digits == std::string::npos) return 0;
  std::uint64_t kibibytes = 0;
  std::from_chars(text.data() + digits, text.data() + text.size(), kibibytes);
  return kibibytes * 1024;
}

std::string file_tail(const std::string& path, std::size_t limit) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.is_open()) return {};
  const off_t size = ::lseek(fd.get(), 0, SEEK_END);
  if (size <= 0) return {};
  const off_t from = std::max<off_t>(0, size - static_cast<off_t>(limit));
  std::string text(static_cast<std::size_t>(size - from), '\0');
  const ssize_t got = ::pread(fd.get(), text.data(), text.size(), from);
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  if (from > 0) {
    const auto line = text.find('\n');
    if (line != std::string::npos) text.erase(0, line + 1);
  }
  return text;
}

}  // namespace beeline::os
