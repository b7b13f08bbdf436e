#include "beeline/transport/ucx/library.h"

#include <dlfcn.h>
#include <signal.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <utility>

#include "beeline/os/fork_count.h"

namespace beeline::transport::ucx {
namespace {

constexpr const char* kLibraryName = "libucp.so.0";
constexpr const char* kAdvice = "pip install libucx-cu12, or BEELINE_UCX_LIBRARY=/path/to/libucp.so.0";

thread_local Words* listening = nullptr;
// How many forks lay behind the process that used UCX first, plus one; 0: none did.
std::atomic<std::uint64_t> used_after{0};

// UCX takes over signals when it is loaded: those of crashes, which Python's faulthandler reports, and SIGHUP. They
// stay the program's.
class KeptSignals {
 public:
  KeptSignals() {
    for (int signal = 1; signal < NSIG; ++signal) ::sigaction(signal, nullptr, &before(signal));
  }
  ~KeptSignals() {
    for (int signal = 1; signal < NSIG; ++signal) {
      struct sigaction now{};
      if (::sigaction(signal, nullptr, &now) != 0 || now.sa_sigaction == before(signal).sa_sigaction) continue;
      ::sigaction(signal, &before(signal), nullptr);
    }
  }
  KeptSignals(const KeptSignals&) = delete;

 private:
  struct sigaction& before(int signal) { return before_[static_cast<std::size_t>(signal)]; }
  std::array<struct sigaction, NSIG> before_{};
};

void* load(const std::string& path) {
  const KeptSignals kept;
  // UCX's libraries end in order only if libucs came first. Where it does not lie beside libucp, the loader finds it.
  const std::size_t name = path.rfind('/') + 1;
  if (name > 0 && path.compare(name, 6, "libucp") == 0) {
    (void)::dlopen((path.substr(0, name) + "libucs" + path.substr(name + 6)).c_str(), RTLD_NOW | RTLD_LOCAL);
  }
  return ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
}

template <typename Function>
bool resolve(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(::dlsym(library, name));
  return function != nullptr;
}

bool resolve_all(void* library, Functions& all) {
  return resolve(library, "ucp_get_version", all.get_version) && resolve(library, "ucp_config_read", all.config_read) &&
         resolve(library, "ucp_config_modify", all.config_modify) &&
         resolve(library, "ucp_config_release", all.config_release) &&
         resolve(library, "ucp_init_version", all.init_version) && resolve(library, "ucp_cleanup", all.cleanup) &&
         resolve(library, "ucp_worker_create", all.worker_create) &&
         resolve(library, "ucp_worker_destroy", all.worker_destroy) &&
         resolve(library, "ucp_worker_get_address", all.worker_get_address) &&
         resolve(library, "ucp_worker_release_address", all.worker_release_address) &&
         resolve(library, "ucp_worker_progress", all.worker_progress) &&
         resolve(library, "ucp_worker_get_efd", all.worker_get_efd) &&
         resolve(library, "ucp_worker_arm", all.worker_arm) && resolve(library, "ucp_ep_create", all.ep_create) &&
         resolve(library, "ucp_ep_close_nbx", all.ep_close_nbx) && resolve(library, "ucp_mem_map", all.mem_map) &&
         resolve(library, "ucp_mem_unmap", all.mem_unmap) && resolve(library, "ucp_rkey_pack", all.rkey_pack) &&
         resolve(library, "ucp_rkey_buffer_release", all.rkey_buffer_release) &&
         resolve(library, "ucp_ep_rkey_unpack", all.ep_rkey_unpack) &&
         resolve(library, "ucp_rkey_destroy", all.rkey_destroy) && resolve(library, "ucp_get_nbx", all.get_nbx) &&
         resolve(library, "ucp_put_nbx", all.put_nbx) && resolve(library, "ucp_ep_flush_nbx", all.ep_flush_nbx) &&
         resolve(library, "ucp_request_check_status", all.request_check_status) &&
         resolve(library, "ucp_request_free", all.request_free) &&
         resolve(library, "ucs_status_string", all.status_string) &&
         resolve(library, "ucs_log_push_handler", all.log_push_handler);
}

Code code_of(UcsStatus status) {
  switch (status) {
    case UcsStatus::kUnreachable:
    case UcsStatus::kNotImplemented:
    case UcsStatus::kNoDevice:
    case UcsStatus::kUnsupported:
      return Code::kUnsupported;
    case UcsStatus::kNoResource:
    case UcsStatus::kNoMemory:
    case UcsStatus::kExceedsLimit:
      return Code::kResourceExhausted;
    case UcsStatus::kTimedOut:
    case UcsStatus::kRejected:
    case UcsStatus::kNotConnected:
    case UcsStatus::kConnectionReset:
    case UcsStatus::kEndpointTimeout:
      return Code::kPeerLost;
    default:
      return Code::kSystem;
  }
}

}  // namespace

Words::Words() : outer_(std::exchange(listening, this)) {}

Words::~Words() {
  listening = outer_;
}

int Words::hear(const char* /*file*/, unsigned /*line*/, const char* /*function*/, int level, const void* /*component*/,
                const char* format, std::va_list arguments) {
  if (listening == nullptr || level != kLogLevelError) return kContinue;
  std::array<char, 512> text{};
  std::vsnprintf(text.data(), text.size(), format, arguments);
  if (listening->text_.empty()) listening->text_ = text.data();
  return kStop;
}

Result<std::shared_ptr<const Library>> Library::open(const std::string& given) {
  const char* const named = std::getenv("BEELINE_UCX_LIBRARY");
  const std::string wanted = named != nullptr && *named != 0 ? named : !given.empty() ? given : kLibraryName;
  // Two versions in one process would share what they depend on.
  void* handle = ::dlopen(kLibraryName, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
  if (handle == nullptr) handle = load(wanted);
  if (handle == nullptr) {
    return Status(Code::kUnsupported, std::string("UCX is not there (") + kAdvice + "): " + ::dlerror());
  }
  auto library = std::make_shared<Library>();
  if (!resolve_all(handle, library->functions_)) {
    return Status(Code::kUnsupported, wanted + " is no UCX that will do (" + kAdvice + "): " + ::dlerror());
  }
  unsigned major = 0, minor = 0, release = 0;
  library->functions_.get_version(&major, &minor, &release);
  Dl_info place{};
  (void)::dladdr(reinterpret_cast<void*>(library->functions_.get_version), &place);
  library->description_ = "UCX " + std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(release) +
                          " (" + (place.dli_fname != nullptr ? place.dli_fname : wanted) + ")";
  if (major != kMajor || minor < kMinor) {
    return Status(Code::kUnsupported, library->description_ + " will not do: " + std::to_string(kMajor) + "." +
                                          std::to_string(kMinor) + " or a newer 1.x is needed (" + kAdvice + ")");
  }
  static std::once_flag hears;
  std::call_once(hears, [&] { library->functions_.log_push_handler(Words::hear); });
  return std::shared_ptr<const Library>(std::move(library));
}

Status Library::status(UcsStatus status, std::string_view what, const Words& words) const {
  if (status == UcsStatus::kOk) return Status::ok();
  std::string message = std::string(what) + ": UCX says " + functions_.status_string(status);
  if (!words.text().empty()) message += " (" + words.text() + ")";
  return {code_of(status), std::move(message)};
}

Status Library::note_use() {
  std::uint64_t nobody = 0;
  used_after.compare_exchange_strong(nobody, os::fork_count() + 1);
  return check_use();
}

Status Library::check_use() {
  const std::uint64_t used = used_after.load();
  if (used == 0 || used == os::fork_count() + 1) return Status::ok();
  return {Code::kUnsupported,
          "this process was forked from one that had used UCX, which does not bear that: start it by exec"};
}

}  // namespace beeline::transport::ucx
