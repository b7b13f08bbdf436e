#include "beeline/os/nccl_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <memory>
#include <mutex>

namespace beeline::os::nccl {
namespace {

constexpr const char* kName = "libnccl.so.2";
constexpr const char* kAdvice =
    "pip install nvidia-nccl-cu12 (or -cu13, as the driver is), or BEELINE_NCCL_LIBRARY=/path/to/libnccl.so.2";

Status unusable(const std::string& why) {
  return {Code::kUnsupported, "NCCL cannot be used: " + why};
}

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr ? value : "";
}

template <typename Function>
void find(void* library, const char* name, Function*& function, std::string& missing) {
  function = reinterpret_cast<Function*>(::dlsym(library, name));
  if (function == nullptr) missing += (missing.empty() ? "" : ", ") + std::string(name);
}

// Names of those that the library lacks.
std::string find_all(void* library, Functions& all) {
  std::string missing;
  find(library, "ncclGetVersion", all.get_version, missing);
  find(library, "ncclGetErrorString", all.error_text, missing);
  find(library, "ncclGetLastError", all.last_error, missing);
  find(library, "ncclGetUniqueId", all.get_unique_id, missing);
  find(library, "ncclCommInitRankConfig", all.init_rank, missing);
  find(library, "ncclCommGetAsyncError", all.async_error, missing);
  find(library, "ncclCommAbort", all.abort, missing);
  find(library, "ncclGroupStart", all.group_start, missing);
  find(library, "ncclGroupEnd", all.group_end, missing);
  find(library, "ncclSend", all.send, missing);
  find(library, "ncclRecv", all.receive, missing);
  return missing;
}

std::string text_of(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

}  // namespace

Result<const Library*> Library::open(const std::string& given) {
  static std::mutex mutex;
  static const Library* opened = nullptr;  // needs mutex
  // It goes before what a communicator is told, and waits of a blocking one have no end.
  if (environment("NCCL_COMM_BLOCKING") == "1") {
    return unusable("NCCL_COMM_BLOCKING=1 makes calls block beyond every deadline: unset it");
  }
  const std::lock_guard guard(mutex);
  if (opened == nullptr) {
    // A failure is tried again: a library may be named, or loaded, later.
    BEELINE_ASSIGN(opened, load(given));
  }
  return opened;
}

Result<const Library*> Library::load(const std::string& given) {
  const std::string named = environment("BEELINE_NCCL_LIBRARY");
  const std::string wanted = !named.empty() ? named : !given.empty() ? given : kName;
  // Two versions in one process would be in each other's way: torch's own comes before the package.
  void* handle = named.empty() ? ::dlopen(kName, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD) : nullptr;
  if (handle == nullptr) handle = ::dlopen(wanted.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return unusable(std::string(::dlerror()) + " (" + kAdvice + ")");
  std::unique_ptr<Library> library(new Library());
  if (const std::string missing = find_all(handle, library->functions_); !missing.empty()) {
    return unusable(wanted + " lacks " + missing + ": NCCL " + text_of(kOldest) + " or later is needed (" + kAdvice +
                    ")");
  }
  int version = 0;
  const Return code = library->functions_.get_version(&version);
  Dl_info place{};
  (void)::dladdr(reinterpret_cast<void*>(library->functions_.get_version), &place);
  library->description_ =
      "NCCL " + text_of(version) + " (" + (place.dli_fname != nullptr ? place.dli_fname : wanted) + ")";
  if (code != kSuccess || version < kOldest) {
    return unusable(library->description_ + " will not do: " + text_of(kOldest) + " or later is needed (" + kAdvice +
                    ")");
  }
  return library.release();
}

Status Library::failed(std::string_view what, Return code, Comm comm) const {
  std::string message =
      std::string(what) + ": NCCL says " + functions_.error_text(code) + " (" + std::to_string(code) + ")";
  // The newest error, which may be another communicator's.
  const char* const last = functions_.last_error(comm);
  if (last != nullptr && *last != 0) message += ", " + std::string(last);
  return {code == kRemoteError ? Code::kPeerLost : Code::kSystem, message + "; with NCCL_DEBUG=WARN it says more"};
}

}  // namespace beeline::os::nccl
