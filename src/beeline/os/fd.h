// Owners of file descriptors, anonymous shared files and mappings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "beeline/base/status.h"

namespace beeline::os {

// Owns one file descriptor; closes it at the end. Moves, does not copy.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~Fd() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool is_open() const { return fd_ >= 0; }
  [[nodiscard]] int release();
  void reset();

 private:
  int fd_ = -1;
};

// A connection that children of fork() are not to keep open: its other end sees this process's end, whoever lives on.
// In a child the number stands for an empty eventfd, so that what closes it there closes nothing else. Until the Fd
// that owns it ends.
void keep_from_children(int fd);

// Another descriptor of the same open file, close-on-exec.
Result<Fd> duplicate(int fd);

// An anonymous shared file of `size` bytes (sparse), close-on-exec, sealed against shrinking and growing.
Result<Fd> make_memfd(const std::string& name, std::uint64_t size);

// The size of a memfd that came from another process: kCorrupt unless it is sealed against shrinking, which would be a
// SIGBUS for whoever has mapped it. `what` it is stands in messages.
Result<std::uint64_t> sealed_size(const Fd& file, const char* what);

// A non-blocking, close-on-exec eventfd.
Result<Fd> make_eventfd();
void signal_eventfd(int fd);
void drain_eventfd(int fd);

enum class Sharing { kShared, kPrivate };
enum class Access { kRead, kReadWrite };

// A mapping of a file; unmapped at the end. Moves, does not copy.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping() { reset(); }

  static Result<Mapping> map(int fd, std::uint64_t offset, std::uint64_t size, Access access, Sharing sharing);

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  void reset();

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace beeline::os
