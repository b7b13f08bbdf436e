#include "beeline/os/remote_memory.h"

#include <sys/prctl.h>

#include <algorithm>
#include <cerrno>
#include <fstream>

namespace beeline::os {
namespace {

template <typename Call>
Result<std::size_t> transfer(const char* what, pid_t pid, std::span<const iovec> local, std::span<const iovec> remote,
                             Call&& call) {
  for (;;) {
    const ssize_t moved = call(pid, local.data(), local.size(), remote.data(), remote.size(), 0ul);
    if (moved >= 0) return static_cast<std::size_t>(moved);
    const int error = errno;
    const std::string where = std::string(what) + " the memory of process " + std::to_string(pid);
    switch (error) {
      case EINTR:
        continue;
      case ESRCH:
        return Status(Code::kPeerLost, where + ": it has ended");
      case EFAULT:
        return Status(Code::kInvalidArgument, where + ": the address is not mapped there");
      case EPERM:
      case ENOSYS:
        return Status(Code::kUnsupported,
                      where + ": the kernel does not permit it (Yama's ptrace_scope is " +
                          std::to_string(ptrace_scope()) +
                          "; a container needs CAP_SYS_PTRACE or a seccomp profile that allows process_vm_readv)");
      default:
        return Status::from_errno(where, error);
    }
  }
}

}  // namespace

Result<std::size_t> read_process(pid_t pid, std::span<const iovec> local, std::span<const iovec> remote) {
  return transfer("read", pid, local, remote, ::process_vm_readv);
}

Result<std::size_t> write_process(pid_t pid, std::span<const iovec> local, std::span<const iovec> remote) {
  return transfer("write", pid, local, remote, ::process_vm_writev);
}

Status may_read_process(pid_t pid) {
  std::byte probe{};
  const iovec local{&probe, 1};
  const iovec remote{nullptr, 1};
  const Status asked = read_process(pid, {&local, 1}, {&remote, 1}).status();
  return asked.code() == Code::kInvalidArgument ? Status::ok() : asked;
}

int ptrace_scope() {
  std::ifstream file("/proc/sys/kernel/yama/ptrace_scope");
  int scope = 0;
  return file >> scope ? scope : 0;
}

Status permit_tracer(pid_t pid) {
  if (::prctl(PR_SET_PTRACER, static_cast<unsigned long>(pid), 0, 0, 0) == 0) return Status::ok();
  if (errno == EINVAL && ptrace_scope() == 0) return Status::ok();  // no Yama: nothing to permit
  return Status::from_errno("permit process " + std::to_string(pid) + " to read this one's memory", errno);
}

std::string boot_id() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  std::erase(id, '-');
  return id;
}

}  // namespace beeline::os
