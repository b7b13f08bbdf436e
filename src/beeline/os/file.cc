#include "beeline/os/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

namespace beeline::os {
namespace {

// At once: so much is written while the disk writes what came before.
constexpr std::size_t kChunk = std::size_t{8} << 20;

Status failed(const std::string& operation, const std::string& path, int error) {
  auto status = Status::from_errno(operation + " " + path, error);
  if (error != ENOSPC && error != EDQUOT) return status;
  return {Code::kResourceExhausted, status.message()};
}

Status write_all(int fd, const std::string& path, std::span<const iovec> pieces) {
  for (const iovec& piece : pieces) {
    const auto* data = static_cast<const std::byte*>(piece.iov_base);
    for (std::size_t done = 0; done < piece.iov_len;) {
      const ssize_t wrote = ::write(fd, data + done, std::min(kChunk, piece.iov_len - done));
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) return failed("write", path, errno);
      const auto from = ::lseek(fd, 0, SEEK_CUR) - wrote;
      (void)::sync_file_range(fd, from, wrote, SYNC_FILE_RANGE_WRITE);
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

void read_ahead(const Mapping& mapping) {
  ::madvise(mapping.data(), mapping.size(), MADV_WILLNEED);
}

}  // namespace beeline::os
