#include "beeline/os/openssl.h"

#include <dlfcn.h>

namespace beeline::os::openssl {
namespace {

constexpr const char* kWhatToDo = "; TLS needs OpenSSL 3 (libssl.so.3 and libcrypto.so.3): install it";

template <typename Function>
Status look_up(void* opened, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(::dlsym(opened, name));
  if (function != nullptr) return Status::ok();
  return {Code::kUnsupported, std::string("there is no function ") + name + " in it" + kWhatToDo};
}

Result<Library> load() {
  Library library;
  for (const bool is_crypto : {true, false}) {  // libssl needs libcrypto
    void* const opened = ::dlopen(is_crypto ? "libcrypto.so.3" : "libssl.so.3", RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr) {
      const char* const reason = ::dlerror();
      return Status(Code::kUnsupported, std::string(reason != nullptr ? reason : "it cannot be loaded") + kWhatToDo);
    }
#define BEELINE_LOOK_UP(result, name, ...) BEELINE_RETURN_IF_ERROR(look_up(opened, #name, library.name));
    if (is_crypto) {
      BEELINE_LIBCRYPTO(BEELINE_LOOK_UP)
    } else {
      BEELINE_LIBSSL(BEELINE_LOOK_UP)
    }
#undef BEELINE_LOOK_UP
  }
  // While a process exits, threads of agents may still be at it: nothing is taken away below them.
  library.OPENSSL_init_crypto(kNoAtExit, nullptr);
  return library;
}

}  // namespace

Result<const Library*> library() {
  static const Result<Library> loaded = load();
  if (!loaded) return loaded.status();
  return &*loaded;
}

}  // namespace beeline::os::openssl
