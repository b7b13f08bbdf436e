#include "beeline/os/pagemap.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "beeline/os/memory_calls.h"

namespace beeline::os {
namespace {

// linux/fs.h of kernel 6.7, which older systems' headers lack.
struct ScanRegion {
  std::uint64_t start, end, categories;
};
struct ScanArguments {
  std::uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted, category_mask,
      category_anyof_mask, return_mask;
};
static_assert(sizeof(ScanArguments) == 96);
constexpr auto kPagemapScan = _IOWR('f', 16, ScanArguments);
constexpr std::uint64_t kIsWritten = 1 << 1;
constexpr std::uint64_t kIsFile = 1 << 2;
constexpr std::uint64_t kIsPresent = 1 << 3;
constexpr std::uint64_t kIsSwapped = 1 << 4;

// linux/userfaultfd.h of kernel 6.7.
constexpr std::uint64_t kWatchAsynchronously = 1 << 15;
constexpr int kUserModeOnly = 1;

constexpr std::uint64_t kEntryPresent = std::uint64_t{1} << 63;
constexpr std::uint64_t kEntrySwapped = std::uint64_t{1} << 62;
constexpr std::uint64_t kEntryFile = std::uint64_t{1} << 61;

std::atomic<PageScan> best_method{PageScan::kScan};

// A file that describes the address space of the process that opened it: a forked child opens its own.
class AddressSpaceFile {
 public:
  using Open = int (*)();
  explicit constexpr AddressSpaceFile(Open open) : open_(open) {}

  // The descriptor, opened by the first call; negative where it cannot be opened.
  int get() {
    int fd = fd_.load();
    if (fd >= 0) return fd;
    fd = open_();
    if (fd < 0) return -1;
    int expected = -1;
    if (fd_.compare_exchange_strong(expected, fd)) return fd;
    ::close(fd);
    return expected;
  }
  void forget() {
    const int fd = fd_.exchange(-1);
    if (fd >= 0) ::close(fd);
  }

 private:
  Open open_;
  std::atomic<int> fd_{-1};
};

void forget_in_children();

int open_pagemap() {
  forget_in_children();
  return ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
}

int open_watcher() {
  forget_in_children();
  // Whoever may not watch what the kernel itself writes may still watch: nobody has to serve such a fault.
  int fd = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  if (fd < 0) fd = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | kUserModeOnly));
  if (fd < 0) return -1;
  uffdio_api wanted{};
  wanted.api = UFFD_API;
  wanted.features = kWatchAsynchronously;
  if (::ioctl(fd, UFFDIO_API, &wanted) == 0) return fd;
  ::close(fd);
  return -1;
}

AddressSpaceFile pagemap(open_pagemap);
AddressSpaceFile watcher(open_watcher);

void forget_in_children() {
  static std::atomic<bool> registered{false};
  if (registered.exchange(true)) return;
  ::pthread_atfork(nullptr, nullptr, [] {
    pagemap.forget();
    watcher.forget();
  });
}

// Which pages a scan visits: those with all of `all` and some of `any`, without `none`.
struct Categories {
  std::uint64_t all, any, none;
};
constexpr Categories kOwnPages{0, kIsPresent | kIsSwapped, kIsFile};
constexpr Categories kUnprotectedPages{kIsWritten, kIsPresent | kIsSwapped, 0};
constexpr Categories kMappedPages{0, kIsPresent | kIsSwapped, 0};

// Calls visit(start, size) for every run of such pages until it returns false; false when it cannot tell.
template <typename Visit>
bool scan(std::byte* at, std::size_t size, const Categories& pages, Visit visit) {
  if (best_method.load() != PageScan::kScan) return false;
  const int fd = pagemap.get();
  if (fd < 0) return false;
  const auto start = reinterpret_cast<std::uint64_t>(at);
  ScanRegion regions[64];
  ScanArguments arguments{};
  arguments.size = sizeof arguments;
  arguments.start = start;
  arguments.end = start + size;
  arguments.vec = reinterpret_cast<std::uint64_t>(regions);
  arguments.vec_len = 64;
  arguments.category_inverted = pages.none;
  arguments.category_mask = pages.all | pages.none;
  arguments.category_anyof_mask = pages.any;
  arguments.return_mask = kIsPresent;
  while (arguments.start < arguments.end) {
    const int count = ::ioctl(fd, kPagemapScan, &arguments);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    for (int i = 0; i < count; ++i) {
      if (!visit(reinterpret_cast<std::byte*>(regions[i].start), regions[i].end - regions[i].start)) return true;
    }
    if (arguments.walk_end <= arguments.start) break;
    arguments.start = arguments.walk_end;
  }
  return true;
}

template <typename Visit>
bool read_pagemap(std::byte* at, std::size_t size, Visit visit) {
  const int fd = pagemap.get();
  if (fd < 0) return false;
  std::uint64_t entries[512];
  const std::size_t pages = size / kPageSize;
  for (std::size_t page = 0; page < pages;) {
    const std::size_t count = std::min<std::size_t>(pages - page, 512);
    const auto position = (reinterpret_cast<std::uint64_t>(at) / kPageSize + page) * sizeof(std::uint64_t);
    if (::pread(fd, entries, count * sizeof(std::uint64_t), static_cast<off_t>(position)) !=
        static_cast<ssize_t>(count * sizeof(std::uint64_t))) {
      return false;
    }
    for (std::size_t i = 0; i < count; ++i) {
      const bool resident = (entries[i] & (kEntryPresent | kEntrySwapped)) != 0;
      // Written pages that were swapped out carry no file bit either.
      if (!resident || (entries[i] & kEntryFile) != 0) continue;
      if (!visit(at + (page + i) * kPageSize, kPageSize)) return true;
    }
    page += count;
  }
  return true;
}

template <typename Visit>
bool for_each_written(std::byte* at, std::size_t size, Visit visit) {
  const PageScan method = best_method.load();
  if (method == PageScan::kScan) {
    if (scan(at, size, kOwnPages, visit)) return true;
    if (errno == ENOTTY || errno == EINVAL) limit_page_scan(PageScan::kPagemap);
  }
  return method != PageScan::kNone && read_pagemap(at, size, visit);
}

// Looks at every page that is mapped; drops all where it cannot be told which were written. Zero, or errno.
int drop_own_pages(std::byte* at, std::size_t size) {
  int error = 0;
  const bool known = for_each_written(at, size, [&](std::byte* start, std::size_t bytes) {
    error = drop_pages(start, bytes);
    return error == 0;
  });
  return known ? error : drop_pages(at, size);
}

}  // namespace

bool any_page_written(std::byte* at, std::size_t size) {
  bool found = false;
  const bool known = for_each_written(at, size, [&](std::byte*, std::size_t) {
    found = true;
    return false;
  });
  return !known || found;
}

Dropped drop_written_pages(std::byte* at, std::size_t size) {
  Dropped result;
  const bool known = scan(at, size, kMappedPages, [&](std::byte* start, std::size_t bytes) {
    result.mapped_bytes += bytes;
    result.error = drop_own_pages(start, bytes);
    return result.error == 0;
  });
  if (!known) result.error = drop_own_pages(at, size);
  return result;
}

bool watch_writes(std::byte* at, std::size_t size) {
  if (best_method.load() != PageScan::kScan || watcher.get() < 0) return false;
  uffdio_register range{};
  range.range = {reinterpret_cast<std::uint64_t>(at), size};
  range.mode = UFFDIO_REGISTER_MODE_WP;
  uffdio_writeprotect protection{};
  protection.range = range.range;
  protection.mode = UFFDIO_WRITEPROTECT_MODE_WP;
  return populate_for_reading(at, size) == 0 && ::ioctl(watcher.get(), UFFDIO_REGISTER, &range) == 0 &&
         ::ioctl(watcher.get(), UFFDIO_WRITEPROTECT, &protection) == 0;
}

int drop_watched_pages(std::byte* at, std::size_t size) {
  int error = 0;
  // Pages that were dropped once are no longer protected: they are looked at every time.
  const bool known = scan(at, size, kUnprotectedPages, [&](std::byte* start, std::size_t bytes) {
    error = drop_own_pages(start, bytes);
    return error == 0;
  });
  return known ? error : drop_own_pages(at, size);
}

PageScan page_scan_method() {
  alignas(kPageSize) static std::byte probe[kPageSize];
  if (for_each_written(probe, kPageSize, [](std::byte*, std::size_t) { return true; })) return best_method.load();
  return PageScan::kNone;
}

void limit_page_scan(PageScan method) {
  best_method.store(method);
}

}  // namespace beeline::os
