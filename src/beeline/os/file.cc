#include "beeline/os/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

namespace beeline::os {
namespace {

Status failed(const std::string& operation, const std::string& path, int error) {
  auto status = Status::from_errno(operation + " " + path, error);
  if (error != ENOSPC && error != EDQUOT) return status;
  return {Code::kResourceExhausted, status.message()};
}

Status write_all(int fd, const std::string& path, std::span<const iovec> pieces) {
  for (const iovec& piece : pieces) {
    const auto* data = static_cast<const std::byte*>(piece.iov_base);
    for (std::size_t done = 0; done < piece.iov_len;) {
      const ssize_t wrote = ::write(fd, data + done, piece.iov_len - done);
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) return failed("write", path, errno);
      done += static_cast<std::size_t>(wrote);
    }
  }
  return ::fdatasync(fd) == 0 ? Status::ok() : failed("sync", path, errno);
}

}  // namespace

Status write_file(const std::string& path, std::span<const iovec> pieces) {
  const Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file.is_open()) return failed("make", path, errno);
  auto status = write_all(file.get(), path, pieces);
  if (!status) remove_file(path);
  return status;
}

Result<Fd> open_file(const std::string& path) {
  Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.is_open()) return file;
  const int error = errno;
  if (error == ENOENT) return Status(Code::kNotFound, path + " is not there");
  return Status::from_errno("open " + path, error);
}

Result<std::uint64_t> size_of(const Fd& file, const std::string& path) {
  struct stat facts{};
  if (::fstat(file.get(), &facts) != 0) return Status::from_errno("look at " + path, errno);
  return static_cast<std::uint64_t>(facts.st_size);
}

void remove_file(const std::string& path) {
  ::unlink(path.c_str());
}

Status read_in(const Mapping& mapping, Deadline deadline) {
  // Between two looks at the deadline.
  constexpr std::size_t kChunk = std::size_t{16} << 20;
  for (std::size_t at = 0; at < mapping.size(); at += kChunk) {
    if (deadline.passed()) return {Code::kDeadlineExceeded, "the disk has not given all of a value in time"};
    const std::size_t size = std::min(kChunk, mapping.size() - at);
    while (::madvise(mapping.data() + at, size, MADV_POPULATE_READ) != 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      if (errno == EINVAL) return Status::ok();  // a kernel without it: pages come by faults
      return Status::from_errno("read " + std::to_string(mapping.size()) + " bytes of a file", errno);
    }
  }
  return Status::ok();
}

}  // namespace beeline::os
