#include "beeline/os/process_limits.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace beeline::os {
namespace {

namespace fs = std::filesystem;

std::string read_text(const fs::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Of what begins with one: "max" and "-1" are no limits, and none is what cannot be read.
std::optional<std::uint64_t> number_in(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() ? std::optional(number) : std::nullopt;
}

template <typename T>
void keep_least(std::optional<T>& least, const std::optional<T>& other) {
  if (other && (!least || *other < *least)) least = other;
}

bool names(std::string_view controllers, std::string_view wanted) {
  while (true) {
    const auto comma = controllers.find(',');
    if (controllers.substr(0, comma) == wanted) return true;
    if (comma == std::string_view::npos) return false;
    controllers.remove_prefix(comma + 1);
  }
}

// The process's cgroup under the controller ("": version 2's only hierarchy) and all above it. Within a container that
// has a namespace of its own the path may be the host's: of its folders only the mount is there.
std::vector<fs::path> folders_of(const fs::path& root, std::string_view controller) {
  const fs::path mounts = root / "sys/fs/cgroup";
  std::vector<fs::path> folders;
  std::istringstream lines(read_text(root / "proc/self/cgroup"));
  for (std::string line; std::getline(lines, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    if (!names(std::string_view(line).substr(first + 1, second - first - 1), controller)) continue;
    const auto add = [&](const fs::path& mount) {
      fs::path folder = mount;
      folders.push_back(folder);
      for (const auto& part : fs::path(line.substr(second + 1)).relative_path()) folders.push_back(folder /= part);
    };
    if (controller.empty()) {
      add(mounts);
      add(mounts / "unified");
    } else {
      add(mounts / controller);
    }
  }
  return folders;
}

std::optional<double> share(const std::optional<std::uint64_t>& quota, const std::optional<std::uint64_t>& period) {
  if (!quota || period.value_or(0) == 0) return std::nullopt;
  return static_cast<double>(*quota) / static_cast<double>(*period);
}

// The kernel refuses a set that has no room for all its processors.
int bound_cpus() {
  for (std::size_t room = 1024; room <= std::size_t{1} << 20; room *= 2) {
    const auto free = [](cpu_set_t* set) { CPU_FREE(set); };
    const std::unique_ptr<cpu_set_t, decltype(free)> set(CPU_ALLOC(room), free);
    if (set != nullptr && ::sched_getaffinity(0, CPU_ALLOC_SIZE(room), set.get()) == 0) {
      return CPU_COUNT_S(CPU_ALLOC_SIZE(room), set.get());
    }
  }
  return 1;
}

}  // namespace

CgroupLimits cgroup_limits(const fs::path& root) {
  CgroupLimits limits;
  for (const auto& folder : folders_of(root, "")) {
    keep_least(limits.memory_bytes, number_in(read_text(folder / "memory.max")));
    const std::string cpu = read_text(folder / "cpu.max");  // "quota period"
    const auto space = std::min(cpu.find(' '), cpu.size());
    keep_least(limits.cpus,
               share(number_in(cpu), number_in(std::string_view(cpu).substr(std::min(space + 1, cpu.size())))));
  }
  for (const auto& folder : folders_of(root, "memory")) {
    keep_least(limits.memory_bytes, number_in(read_text(folder / "memory.limit_in_bytes")));
  }
  for (const auto& folder : folders_of(root, "cpu")) {
    keep_least(limits.cpus, share(number_in(read_text(folder / "cpu.cfs_quota_us")),
                                  number_in(read_text(folder / "cpu.cfs_period_us"))));
  }
  return limits;
}

std::uint64_t usable_memory() {
  const auto total =
      static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(::sysconf(_SC_PAGE_SIZE));
  return std::min(total, cgroup_limits().memory_bytes.value_or(total));
}

unsigned usable_cpus() {
  const int bound = bound_cpus();
  const double allowed = cgroup_limits().cpus.value_or(bound);
  return static_cast<unsigned>(std::min<double>(bound, std::max(1.0, allowed)));
}

}  // namespace beeline::os
