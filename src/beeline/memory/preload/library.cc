// Loading: whether to serve at all, the interface for Arena, and two courtesies to the program: LD_PRELOAD
// leaves its environment, and RTLD_DEEPBIND does not split its allocator in two.
#include "beeline/memory/preload/library.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "beeline/memory/heap_abi.h"
#include "beeline/memory/preload/next_allocator.h"

BEELINE_EXPORT beeline_heap_abi beeline_arena_abi;
beeline_heap_abi beeline_arena_abi = {};

namespace {

const char* aside_reason = nullptr;
void* (*next_dlopen)(const char*, int) = nullptr;

const char* path_of(void* symbol) {
  Dl_info info{};
  return ::dladdr(symbol, &info) != 0 ? info.dli_fname : nullptr;
}

// Whose malloc comes first, and whose comes after ours.
const char* find_reason_to_stand_aside() {
  const char* setting = std::getenv("BEELINE_PRELOAD");
  if (setting != nullptr && std::strcmp(setting, "0") == 0) return "switched off by BEELINE_PRELOAD=0";
  if (::dlsym(RTLD_DEFAULT, "__asan_init") != nullptr || ::dlsym(RTLD_DEFAULT, "__tsan_init") != nullptr ||
      ::dlsym(RTLD_DEFAULT, "__msan_init") != nullptr) {
    return "a sanitizer's allocator is loaded";
  }
  const char* const our_path = path_of(&beeline_arena_abi);
  const char* const first_path = path_of(::dlsym(RTLD_DEFAULT, "malloc"));
  if (our_path == nullptr || first_path == nullptr || std::strcmp(our_path, first_path) != 0) {
    return "another allocator comes before it (see LD_PRELOAD)";
  }
  // glibc's malloc also has a name that nobody replaces.
  if (reinterpret_cast<void*>(beeline::preload::next.malloc) != ::dlsym(RTLD_DEFAULT, "__libc_malloc")) {
    return "another allocator is preloaded (see LD_PRELOAD)";
  }
  return nullptr;
}

// Takes our entry out of LD_PRELOAD, in place: nothing may allocate here, and other entries are not ours.
void leave_environment() {
  char* const list = std::getenv("LD_PRELOAD");
  const char* const own_path = path_of(&beeline_arena_abi);
  if (list == nullptr || own_path == nullptr) return;
  const char* const slash = std::strrchr(own_path, '/');
  const char* const own_name = slash != nullptr ? slash + 1 : own_path;
  char* write = list;
  for (char* read = list; *read != '\0';) {
    const std::size_t length = std::strcspn(read, ": ");
    char* name = read;
    for (char* at = read; at < read + length; ++at) {
      if (*at == '/') name = at + 1;
    }
    const auto name_length = static_cast<std::size_t>(read + length - name);
    const bool is_ours = name_length == std::strlen(own_name) && std::strncmp(name, own_name, name_length) == 0;
    const char* const after = read + length;
    if (length > 0 && !is_ours) {
      if (write != list) *write++ = ':';
      std::memmove(write, read, length);
      write += length;
    }
    read += length + (*after != '\0' ? 1 : 0);
  }
  *write = '\0';
  if (write == list) ::unsetenv("LD_PRELOAD");
}

int activate(void* heap, std::uint64_t capacity_bytes, std::uint64_t quota_bytes) {
  if (aside_reason != nullptr) return EPERM;
  return static_cast<beeline::memory::Heap*>(heap)->open(capacity_bytes, quota_bytes);
}

__attribute__((constructor)) void load() {
  const int error = errno;
  beeline::preload::resolve_next_allocator();
  next_dlopen = reinterpret_cast<decltype(next_dlopen)>(::dlsym(RTLD_NEXT, "dlopen"));
  aside_reason = find_reason_to_stand_aside();
  beeline_arena_abi = beeline::memory::make_heap_abi(beeline::preload::heap);
  beeline_arena_abi.stands_aside = [] { return aside_reason; };
  beeline_arena_abi.activate = activate;
  leave_environment();
  errno = error;
}

}  // namespace

// A library opened with RTLD_DEEPBIND would find libc's allocator before ours, and free our memory with it.
// The call is the function's last act, compiled to a jump: dlopen() goes by its caller's address when it
// looks at RUNPATH.
BEELINE_EXPORT void* dlopen(const char* file, int flags) noexcept {
  if (next_dlopen == nullptr) [[unlikely]] {
    next_dlopen = reinterpret_cast<decltype(next_dlopen)>(::dlsym(RTLD_NEXT, "dlopen"));
  }
  return next_dlopen(file, flags & ~RTLD_DEEPBIND);
}
