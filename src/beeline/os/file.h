// Files on disk that hold bytes of ours.
#pragma once

#include <sys/uio.h>

#include <span>
#include <string>

#include "beeline/base/clock.h"
#include "beeline/os/fd.h"

namespace beeline::os {

// Writes a new file, mode 0600, and waits until the disk has it, so that the system can use its memory otherwise. What
// cannot be written whole is removed again. kResourceExhausted where the disk is full.
Status write_file(const std::string& path, std::span<const iovec> pieces);

// Opens for reading, close-on-exec. kNotFound where there is none.
Result<Fd> open_file(const std::string& path);
Result<std::uint64_t> size_of(const Fd& file, const std::string& path);
// Removes a file that may be gone already.
void remove_file(const std::string& path);

// Reads a mapping's pages, at the speed of the disk, which faults by themselves do not reach. kSystem where the disk
// fails: a fault would be a SIGBUS. kDeadlineExceeded with what was read so far in memory.
Status read_in(const Mapping& mapping, Deadline deadline);

}  // namespace beeline::os
