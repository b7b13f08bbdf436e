// System calls on memory, returning errno values: nothing here allocates, so the preload library and fork
// handlers may use it. Sizes and offsets are multiples of the page size.
#pragma once

#include <cstddef>
#include <cstdint>

namespace beeline::os {

inline constexpr std::size_t kPageSize = 4096;

constexpr std::uint64_t page_floor(std::uint64_t bytes) {
  return bytes & ~std::uint64_t{kPageSize - 1};
}
constexpr std::uint64_t page_ceil(std::uint64_t bytes) {
  return page_floor(bytes + kPageSize - 1);
}

// A sealed, sparse, close-on-exec memfd of `size` bytes, or -errno.
int raw_memfd(const char* name, std::uint64_t size);
// Opens the same file again, read-only: a descriptor to hand to a peer. -errno on failure.
int reopen_read_only(int fd);

// Zeroed private memory that is charged page by page as it is touched; null on failure.
void* reserve_memory(std::size_t size);
// Address space without access, aligned to `alignment` (a power of two); null on failure.
std::byte* reserve_address_space(std::size_t size, std::size_t alignment);
// Maps `size` bytes of `fd` at `offset` over [at, at + size), read and write. Zero, or errno.
int map_shared_over(std::byte* at, std::size_t size, int fd, std::uint64_t offset);
int map_private_over(std::byte* at, std::size_t size, int fd, std::uint64_t offset);
// A private read-write mapping anywhere; null on failure.
std::byte* map_private(std::size_t size, int fd, std::uint64_t offset);
void unmap(void* at, std::size_t size);

// Gives the pages of the file back to the system; they read as zeroes afterwards. Zero, or errno.
int punch_hole(int fd, std::uint64_t offset, std::uint64_t size);
// Drops this mapping's own pages: a private mapping shows the file again.
int drop_pages(std::byte* at, std::size_t size);
// Fills the page tables for reading. EINVAL on kernels before 5.14.
int populate_for_reading(std::byte* at, std::size_t size);
void advise_huge_pages(std::byte* at, std::size_t size);
// Whether the kernel gives huge pages to shared memory that asks for them.
bool shared_huge_pages_available();

// A pipe whose two ends are close-on-exec; the read end does not block. Zero, or errno.
int make_pipe(int& read_end, int& write_end);
// Whether every holder of the pipe's write end is gone.
bool pipe_ended(int read_end);
void close_fd(int fd);

}  // namespace beeline::os
