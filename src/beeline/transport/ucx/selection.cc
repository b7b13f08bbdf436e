#include "beeline/transport/ucx/selection.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string_view>

namespace beeline::transport::ucx {
namespace {

constexpr std::array<std::string_view, 2> kRdmaNames{"dc", "dc_x"};

// Whether a word of UCX_TLS means that transport, by its name or by one of UCX's names for several.
bool means(std::string_view word, std::string_view transport) {
  const bool is_local = transport != "dc_mlx5";
  if (word == "all" || word == transport) return true;
  if (word == "sm" || word == "shm") return is_local;
  if (word == "mm") return transport == "posix" || transport == "xpmem";
  return !is_local && (word == "ib" || std::ranges::find(kRdmaNames, word) != kRdmaNames.end());
}

bool is_left_in(const char* tls, std::string_view transport) {
  if (tls == nullptr || *tls == 0) return true;
  const bool leaves_out = *tls == '^';
  std::stringstream words(leaves_out ? tls + 1 : tls);
  bool is_named = false;
  for (std::string word; std::getline(words, word, ',');) {
    if (!word.empty() && word.front() == '\\') word.erase(0, 1);  // UCX's mark for "this very name"
    is_named = is_named || means(word, transport);
  }
  return is_named != leaves_out;
}

bool has_dc() {
  std::error_code ignored;
  for (const auto& device : std::filesystem::directory_iterator("/sys/class/infiniband", ignored)) {
    if (device.path().filename().string().starts_with("mlx5")) return true;
  }
  return false;
}

}  // namespace

Machine Machine::look() {
  const char* const rdma = std::getenv("BEELINE_UCX_RDMA");
  return {.tls = std::getenv("UCX_TLS"),
          .has_xpmem = ::access("/dev/xpmem", R_OK | W_OK) == 0,
          .has_rdma = has_dc(),
          .allows_rdma = rdma != nullptr && std::string_view(rdma) == "1"};
}

std::string Selection::list(const char* separator) const {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : separator) + name;
  return text;
}

Selection select(const Machine& machine) {
  Selection selection;
  const auto take = [&](const char* name, bool is_there) {
    const bool is_taken = is_there && is_left_in(machine.tls, name);
    if (is_taken) selection.names.emplace_back(name);
    return is_taken;
  };
  const bool has_posix = take("posix", true);
  const bool has_cma = take("cma", true);
  const bool has_xpmem = take("xpmem", machine.has_xpmem);
  selection.has_rdma = take("dc_mlx5", machine.has_rdma && machine.allows_rdma);
  const std::string tls = machine.tls != nullptr ? machine.tls : "";
  // An endpoint by cma stands on one that passes messages, though none is passed.
  if (!has_xpmem && !(has_posix && has_cma)) {
    selection.not_here = "UCX_TLS=" + tls + " leaves none of what may be used on one host: posix with cma, or xpmem";
  }
  if (!machine.allows_rdma) {
    selection.not_across =
        "by UCX another host is reached by RDMA alone, and whoever may read memory so may write to it: where all "
        "agents trust each other, set BEELINE_UCX_RDMA=1";
  } else if (!machine.has_rdma) {
    selection.not_across = "by UCX another host is reached by dc alone, and this one has no NIC for it (mlx5)";
  } else if (!selection.has_rdma) {
    selection.not_across = "UCX_TLS=" + tls + " leaves out dc, by which alone UCX may reach another host";
  }
  return selection;
}

}  // namespace beeline::transport::ucx
