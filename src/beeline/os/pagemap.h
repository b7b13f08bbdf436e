// Which pages of a private file mapping this process has written. Written pages are those present or swapped
// that are no longer pages of the file. Nothing here allocates.
#pragma once

#include <cstddef>
#include <cstdint>

namespace beeline::os {

// Whether any page of [at, at + size) was written. True where it cannot be told.
bool any_page_written(std::byte* at, std::size_t size);

// What drop_written_pages() did: zero or errno, and how much of the range was mapped, 0 where that is not known.
struct Dropped {
  int error = 0;
  std::size_t mapped_bytes = 0;
};
// Drops all written pages of [at, at + size), so that the mapping shows the file again; where it cannot be
// told which those are, drops all pages. Takes 28 ms per GiB that is mapped.
Dropped drop_written_pages(std::byte* at, std::size_t size);

// Has the kernel keep note of later writes to [at, at + size), a private file mapping that nobody uses meanwhile,
// so that drop_watched_pages() finds them in 0.5 ms per GiB (userfaultfd's asynchronous write-protection, kernel
// 6.7). False where the kernel cannot. Costs about 0.1 s per GiB, and fills the page tables. It ends with the mapping;
// a forked child has no part in it.
bool watch_writes(std::byte* at, std::size_t size);
// As drop_written_pages(), of a range that watch_writes() took. Zero, or errno.
int drop_watched_pages(std::byte* at, std::size_t size);

// How written pages are found on this machine, for `doctor` and tests.
enum class PageScan { kScan, kPagemap, kNone };
PageScan page_scan_method();
// Tests force a lesser method; it stays for the process.
void limit_page_scan(PageScan method);

}  // namespace beeline::os
