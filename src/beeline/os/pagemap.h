// Which pages of a private file mapping this process has written. Written pages are those present or swapped
// that are no longer pages of the file. Nothing here allocates.
#pragma once

#include <cstddef>
#include <cstdint>

namespace beeline::os {

// Whether any page of [at, at + size) was written. True where it cannot be told.
bool any_page_written(std::byte* at, std::size_t size);

// Drops all written pages of [at, at + size), so that the mapping shows the file again; where it cannot be
// told which those are, drops all pages. Zero, or errno. Returns the bytes dropped through `dropped`.
int drop_written_pages(std::byte* at, std::size_t size, std::size_t& dropped);

// Has the kernel keep note of later writes to [at, at + size), a private file mapping that nobody uses meanwhile,
// so that drop_watched_pages() finds them in 0.5 ms per GiB instead of 28 (userfaultfd's asynchronous
// write-protection, kernel 6.7). False where the kernel cannot, or where less than half of the pages are mapped.
// Costs about 0.1 s per GiB, and fills the page tables. It ends with the mapping; a forked child has no part in it.
bool watch_writes(std::byte* at, std::size_t size);
// As drop_written_pages(), of a range that watch_writes() took.
int drop_watched_pages(std::byte* at, std::size_t size, std::size_t& dropped);
bool can_watch_writes();

// How written pages are found on this machine, for `doctor` and tests.
enum class PageScan { kScan, kPagemap, kNone };
PageScan page_scan_method();
// Tests force a lesser method; it stays for the process.
void limit_page_scan(PageScan method);

}  // namespace beeline::os
