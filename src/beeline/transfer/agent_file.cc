#include "beeline/transfer/agent_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <iterator>

namespace beeline::transfer {
namespace {

// Whether nobody holds the file; then this process does, until the descriptor is closed.
bool try_lock(int fd) {
  return ::flock(fd, LOCK_EX | LOCK_NB) == 0;
}

}  // namespace

Result<os::Fd> create_agent_file(const std::string& path) {
  os::Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.is_open()) return Status::from_errno("create " + path, errno);
  // Before the lock another agent may take it for one that was left behind, and remove it.
  struct stat info{};
  if (!try_lock(fd.get()) || ::fstat(fd.get(), &info) != 0 || info.st_nlink == 0) {
    ::unlink(path.c_str());
    return Status::from_errno("lock " + path, ENOENT);
  }
  return fd;
}

Result<os::Fd> open_agent_file(const std::string& path) {
  // Not to wait for a writer, should it be a pipe.
  os::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd.is_open() && errno == ENOENT) return Status(Code::kNotFound, path + " is not there: its agent has ended");
  if (!fd.is_open()) return Status::from_errno("open " + path, errno);
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0) return Status::from_errno("stat " + path, errno);
  if (!S_ISREG(info.st_mode) || info.st_uid != ::geteuid()) {
    return Status(Code::kInvalidArgument, path + " is no file of this user");
  }
  return fd;
}

Status append_from(int fd, std::uint64_t offset, std::size_t size, Bytes& out) {
  const std::size_t before = out.size();
  out.resize(before + size);
  std::size_t got = 0;
  while (got < size) {
    const ssize_t part = ::pread(fd, out.data() + before + got, size - got, static_cast<off_t>(offset + got));
    if (part < 0 && errno == EINTR) continue;
    if (part < 0) return Status::from_errno("read", errno);
    if (part == 0) break;
    got += static_cast<std::size_t>(part);
  }
  out.resize(before + got);
  return Status::ok();
}

bool is_held(int fd) {
  // A shared lock, so that readers do not take each other for the owner.
  return ::flock(fd, LOCK_SH | LOCK_NB) != 0;
}

bool is_agent_file(std::string_view path) {
  constexpr std::string_view kSuffixes[] = {kCountersSuffix, kUnfinishedCountersSuffix, kSpansSuffix, kMetricsSuffix,
                                            kUnfinishedMetricsSuffix};
  return std::any_of(std::begin(kSuffixes), std::end(kSuffixes),
                     [&](std::string_view suffix) { return path.ends_with(suffix); });
}

void remove_if_left_behind(const std::string& path) {
  const os::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (fd.is_open() && try_lock(fd.get())) ::unlink(path.c_str());
}

}  // namespace beeline::transfer
