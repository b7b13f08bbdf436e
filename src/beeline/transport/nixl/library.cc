#include "beeline/transport/nixl/library.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <string_view>
#include <type_traits>

namespace beeline::transport::nixl {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFile = "libnixl_capi.so";
// Its C interface has no version of its own and changes between releases.
constexpr std::string_view kKnownVersion = "1.5.";
constexpr const char* kInstall = "pip install --no-deps nixl-cu12==1.5.1";

// A wheel lays its libraries in ".<package>.mesonpy.libs", beside "<package>-<version>.dist-info".
std::string version_of(const fs::path& library) {
  const std::string folder = library.parent_path().filename().string();
  constexpr std::string_view kSuffix = ".mesonpy.libs";
  if (!folder.starts_with('.') || !folder.ends_with(kSuffix)) return {};
  const std::string package = folder.substr(1, folder.size() - 1 - kSuffix.size()) + "-";
  constexpr std::string_view kInfo = ".dist-info";
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(library.parent_path().parent_path(), ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(package) || !name.ends_with(kInfo)) continue;
    return name.substr(package.size(), name.size() - package.size() - kInfo.size());
  }
  return {};
}

// UCX's own variable goes before what an engine is told: it may only narrow what the options allow.
Status check_environment(NixlOptions::Reach reach) {
  const char* const set = std::getenv("UCX_TLS");
  if (set == nullptr || reach == NixlOptions::Reach::kAny) return Status::ok();
  static constexpr std::array<std::string_view, 8> kOfOneHost{"sm",  "shm",   "mm",   "posix",
                                                              "cma", "xpmem", "knem", "self"};
  const std::string_view all(set);
  bool is_within = !all.empty() && all.front() != '^';
  for (std::size_t at = 0; is_within && at <= all.size();) {
    const std::size_t end = std::min(all.find(',', at), all.size());
    const std::string_view name = all.substr(at, end - at);
    is_within = reach == NixlOptions::Reach::kHost ? std::ranges::find(kOfOneHost, name) != kOfOneHost.end()
                                                   : name != "tcp" && name != "all";
    at = end + 1;
  }
  if (is_within) return Status::ok();
  return {Code::kUnsupported, "UCX_TLS=" + std::string(all) +
                                  " in the environment goes before what this agent allows NIXL (nixl=\"" +
                                  (reach == NixlOptions::Reach::kHost ? "host" : "rdma") +
                                  "\"): unset it, or open the agent with nixl=\"any\""};
}

Result<capi::Functions> load(const Place& place) {
  const auto failed = [&](const std::string& why) {
    return Status(Code::kUnsupported, "NIXL's library " + place.library + ": " + why);
  };
  // Never closed: threads and thread-local state of its own run on.
  void* const handle = ::dlopen(place.library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return failed(::dlerror());
  std::string missing;
  const auto find = [&](const char* name, auto& function) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(
        ::dlsym(handle, (std::string("nixl_capi_") + name).c_str()));
    if (function == nullptr && missing.empty()) missing = name;
  };
  capi::Functions functions;
  find("is_stub", functions.is_stub);
  find("create_configured_agent", functions.create_configured_agent);
  find("destroy_agent", functions.destroy_agent);
  find("create_params", functions.create_params);
  find("params_add", functions.params_add);
  find("destroy_params", functions.destroy_params);
  find("create_backend", functions.create_backend);
  find("destroy_backend", functions.destroy_backend);
  find("create_reg_dlist", functions.create_reg_dlist);
  find("reg_dlist_add_desc", functions.reg_dlist_add_desc);
  find("destroy_reg_dlist", functions.destroy_reg_dlist);
  find("register_mem", functions.register_mem);
  find("deregister_mem", functions.deregister_mem);
  find("get_local_partial_md", functions.get_local_partial_md);
  find("load_remote_md", functions.load_remote_md);
  find("create_xfer_dlist", functions.create_xfer_dlist);
  find("xfer_dlist_add_desc", functions.xfer_dlist_add_desc);
  find("destroy_xfer_dlist", functions.destroy_xfer_dlist);
  find("create_xfer_req", functions.create_xfer_req);
  find("post_xfer_req", functions.post_xfer_req);
  find("get_xfer_status", functions.get_xfer_status);
  find("release_xfer_req", functions.release_xfer_req);
  find("destroy_xfer_req", functions.destroy_xfer_req);
  if (!missing.empty()) return failed("it exports no nixl_capi_" + missing + "(): " + kInstall);
  if (functions.is_stub()) return failed(std::string("it is a stub: ") + kInstall);
  return functions;
}

}  // namespace

bool is_known_version(std::string_view version) {
  return version.empty() || version.starts_with(kKnownVersion);
}

Place find_library(const NixlOptions& options) {
  const char* const set = std::getenv("BEELINE_NIXL_LIBRARY");
  const bool is_named = set != nullptr && set[0] != 0;
  Place place;
  fs::path library = is_named ? set : options.library;
  if (library.empty()) {
    place.usable = Status(Code::kUnsupported, std::string("NIXL is not installed: ") + kInstall + ", or name its " +
                                                  kFile + " in BEELINE_NIXL_LIBRARY");
    return place;
  }
  std::error_code ignored;
  if (fs::is_directory(library, ignored)) library /= kFile;
  place.library = library.string();
  if (!fs::is_regular_file(library, ignored)) {
    place.usable = Status(Code::kUnsupported, "NIXL's library is not at " + place.library +
                                                  (is_named ? " (BEELINE_NIXL_LIBRARY)" : "") + ": " + kInstall);
    return place;
  }
  place.version = version_of(library);
  // What was named and is no package's is taken at its word.
  if (!is_known_version(place.version) || (place.version.empty() && !is_named)) {
    const std::string found = place.version.empty() ? "a build of unknown version" : "version " + place.version;
    place.usable = Status(Code::kUnsupported, "NIXL at " + place.library + " is " + found +
                                                  ", and this release knows the C interface of 1.5: " + kInstall);
    return place;
  }
  place.usable = check_environment(options.reach);
  return place;
}

Result<const capi::Functions*> open_library(const Place& place) {
  BEELINE_RETURN_IF_ERROR(place.usable);
  static std::mutex mutex;
  static std::map<std::string, const capi::Functions> opened;  // needs mutex; by path; what is in it stays
  const std::lock_guard guard(mutex);
  auto found = opened.find(place.library);
  if (found == opened.end()) {
    BEELINE_ASSIGN(const capi::Functions functions, load(place));
    found = opened.emplace(place.library, functions).first;
  }
  return &found->second;
}

}  // namespace beeline::transport::nixl
