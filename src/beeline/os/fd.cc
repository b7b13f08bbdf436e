#include "beeline/os/fd.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <cerrno>

namespace beeline::os {
namespace {

// Descriptors, a bit each; there are few above.
constexpr int kKept = 1 << 20;
constexpr int kBits = 64;
std::array<std::atomic<std::uint64_t>, kKept / kBits> kept_from_children{};
std::atomic<int> words_in_use{0};

// Relaxed: a descriptor's bit is set and cleared by who owns the descriptor, and fork() reads what its caller sees.
void clear_kept(int fd) {
  if (fd >= kKept) return;
  auto& word = kept_from_children[static_cast<std::size_t>(fd / kBits)];
  const std::uint64_t bit = std::uint64_t{1} << (fd % kBits);
  if ((word.load(std::memory_order_relaxed) & bit) != 0) word.fetch_and(~bit, std::memory_order_relaxed);
}

void replace_kept_in_child() {
  int stand_in = -1;
  const int words = words_in_use.load();
  for (int i = 0; i < words; ++i) {
    std::uint64_t bits = kept_from_children[static_cast<std::size_t>(i)].exchange(0);
    for (; bits != 0; bits &= bits - 1) {
      const int fd = i * kBits + std::countr_zero(bits);
      if (stand_in < 0) stand_in = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
      if (stand_in < 0 || ::dup3(stand_in, fd, O_CLOEXEC) < 0) ::close(fd);
    }
  }
  if (stand_in >= 0) ::close(stand_in);
}

}  // namespace

void Fd::reset() {
  if (fd_ < 0) return;
  clear_kept(fd_);
  ::close(std::exchange(fd_, -1));
}

int Fd::release() {
  if (fd_ >= 0) clear_kept(fd_);
  return std::exchange(fd_, -1);
}

void keep_from_children(int fd) {
  static const int registered = ::pthread_atfork(nullptr, nullptr, replace_kept_in_child);
  static_cast<void>(registered);
  if (fd < 0 || fd >= kKept) return;
  const int word = fd / kBits;
  kept_from_children[static_cast<std::size_t>(word)].fetch_or(std::uint64_t{1} << (fd % kBits));
  for (int used = words_in_use.load(); used <= word && !words_in_use.compare_exchange_weak(used, word + 1);) {
  }
}

Result<Fd> duplicate(int fd) {
  const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return Status::from_errno("duplicate a file descriptor", errno);
  return Fd(copy);
}

Result<Fd> make_memfd(const std::string& name, std::uint64_t size) {
  Fd fd(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.is_open()) return Status::from_errno("memfd_create " + name, errno);
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
    return Status::from_errno("size " + name + " to " + std::to_string(size) + " bytes", errno);
  }
  // A shorter file would be a SIGBUS for whoever reads it through a mapping.
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return Status::from_errno("seal " + name, errno);
  }
  return fd;
}

Result<std::uint64_t> sealed_size(const Fd& file, const char* what) {
  struct stat info{};
  if (::fstat(file.get(), &info) != 0) return Status::from_errno(std::string("stat the ") + what, errno);
  const int seals = ::fcntl(file.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return Status(Code::kCorrupt, std::string("the ") + what + " is not a memfd that is sealed against shrinking");
  }
  return static_cast<std::uint64_t>(info.st_size);
}

Result<Fd> make_eventfd() {
  Fd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.is_open()) return Status::from_errno("eventfd", errno);
  return fd;
}

void signal_eventfd(int fd) {
  const std::uint64_t one = 1;
  // EAGAIN means the counter is at its maximum: the reader is awake already.
  [[maybe_unused]] const auto written = ::write(fd, &one, sizeof one);
}

void drain_eventfd(int fd) {
  std::uint64_t count = 0;
  [[maybe_unused]] const auto got = ::read(fd, &count, sizeof count);
}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  if (this != &other) {
    reset();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

Result<Mapping> Mapping::map(int fd, std::uint64_t offset, std::uint64_t size, Access access, Sharing sharing) {
  const int protection = access == Access::kRead ? PROT_READ : PROT_READ | PROT_WRITE;
  const int flags = (sharing == Sharing::kShared ? MAP_SHARED : MAP_PRIVATE) | MAP_NORESERVE;
  void* data = ::mmap(nullptr, size, protection, flags, fd, static_cast<off_t>(offset));
  if (data == MAP_FAILED) {
    return Status::from_errno("map " + std::to_string(size) + " bytes of shared memory", errno);
  }
  Mapping mapping;
  mapping.data_ = static_cast<std::byte*>(data);
  mapping.size_ = size;
  return mapping;
}

void Mapping::reset() {
  if (data_ != nullptr) ::munmap(std::exchange(data_, nullptr), size_);
  size_ = 0;
}

}  // namespace beeline::os
