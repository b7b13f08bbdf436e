// Reading and writing another process's memory (process_vm_readv and its counterpart), and this machine's identity.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <string>

#include "beeline/base/status.h"

namespace beeline::os {

// How many elements one call of the kernel takes.
inline constexpr std::size_t kMaxIovecs = 1024;

// Bytes moved, in order, from the first byte on: fewer than asked for where memory ends. Both sides describe as many
// bytes. kUnsupported where the kernel does not permit it (the message says what would), kPeerLost when there is no
// such process, kInvalidArgument (EFAULT) when not even the first byte is there.
Result<std::size_t> read_process(pid_t pid, std::span<const iovec> local, std::span<const iovec> remote);
Result<std::size_t> write_process(pid_t pid, std::span<const iovec> local, std::span<const iovec> remote);

// Whether the kernel permits it: asked for a byte that is not there. Fails as read_process().
Status may_read_process(pid_t pid);

// Which processes may trace others, and so read their memory: Yama's ptrace_scope, 0 where there is no Yama.
int ptrace_scope();
// Lets `pid` read this process's memory where Yama restricts it to descendants; one process at a time.
Status permit_tracer(pid_t pid);

// Names this boot of this kernel: equal on two processes only if they run on one machine. Empty where it is hidden.
std::string boot_id();

}  // namespace beeline::os
