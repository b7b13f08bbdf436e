#include "beeline/os/memory_calls.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

namespace beeline::os {

int raw_memfd(const char* name, std::uint64_t size) {
  const int fd = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -errno;
  // A shorter file would be a SIGBUS for whoever reads it through a mapping.
  if (::ftruncate(fd, static_cast<off_t>(size)) != 0 ||
      ::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    const int error = errno;
    ::close(fd);
    return -error;
  }
  return fd;
}

int reopen_read_only(int fd) {
  // Written by hand: snprintf may allocate.
  char path[32] = "/proc/self/fd/";
  char digits[12];
  int count = 0;
  do {
    digits[count++] = static_cast<char>('0' + fd % 10);
    fd /= 10;
  } while (fd > 0);
  char* at = path + std::strlen(path);
  while (count > 0) *at++ = digits[--count];
  *at = '\0';
  const int copy = ::open(path, O_RDONLY | O_CLOEXEC);
  return copy < 0 ? -errno : copy;
}

void* reserve_memory(std::size_t size) {
  void* data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return data == MAP_FAILED ? nullptr : data;
}

std::byte* reserve_address_space(std::size_t size, std::size_t alignment) {
  void* data = ::mmap(nullptr, size + alignment, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  auto* const start = static_cast<std::byte*>(data);
  const auto address = reinterpret_cast<std::uintptr_t>(start);
  const std::size_t before = (alignment - address % alignment) % alignment;
  if (before > 0) ::munmap(start, before);
  if (alignment - before > 0) ::munmap(start + before + size, alignment - before);
  return start + before;
}

namespace {

int map_over(std::byte* at, std::size_t size, int flags, int fd, std::uint64_t offset) {
  void* data =
      ::mmap(at, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED | MAP_NORESERVE, fd, static_cast<off_t>(offset));
  return data == MAP_FAILED ? errno : 0;
}

}  // namespace

int map_shared_over(std::byte* at, std::size_t size, int fd, std::uint64_t offset) {
  return map_over(at, size, MAP_SHARED, fd, offset);
}

int map_private_over(std::byte* at, std::size_t size, int fd, std::uint64_t offset) {
  return map_over(at, size, MAP_PRIVATE, fd, offset);
}

std::byte* map_private(std::size_t size, int fd, std::uint64_t offset) {
  void* data =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, static_cast<off_t>(offset));
  return data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
}

void unmap(void* at, std::size_t size) {
  ::munmap(at, size);
}

int punch_hole(int fd, std::uint64_t offset, std::uint64_t size) {
  const int result =
      ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(size));
  return result == 0 ? 0 : errno;
}

int drop_pages(std::byte* at, std::size_t size) {
  return ::madvise(at, size, MADV_DONTNEED) == 0 ? 0 : errno;
}

int populate_for_reading(std::byte* at, std::size_t size) {
  int result = 0;
  do {
    result = ::madvise(at, size, MADV_POPULATE_READ);
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

void advise_huge_pages(std::byte* at, std::size_t size) {
  ::madvise(at, size, MADV_HUGEPAGE);
}

bool shared_huge_pages_available() {
  const int fd = ::open("/sys/kernel/mm/transparent_hugepage/shmem_enabled", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char text[128] = {};
  const ssize_t size = ::read(fd, text, sizeof text - 1);
  ::close(fd);
  return size > 0 && std::strstr(text, "[never]") == nullptr && std::strstr(text, "[deny]") == nullptr;
}

int make_pipe(int& read_end, int& write_end) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno;
  ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
  read_end = ends[0];
  write_end = ends[1];
  return 0;
}

bool pipe_ended(int read_end) {
  char byte = 0;
  return ::read(read_end, &byte, 1) == 0;
}

void close_fd(int fd) {
  ::close(fd);
}

}  // namespace beeline::os
