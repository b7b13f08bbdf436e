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

// How written pages are found on this machine, for `doctor` and tests.
enum class PageScan { kScan, kPagemap, kNone };
PageScan page_scan_method();
// Tests force a lesser method; it stays for the process.
void limit_page_scan(PageScan method);

}  // namespace beeline::os
