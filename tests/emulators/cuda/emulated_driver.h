// AN EMULATOR'S state: contexts, devices and memory.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cuda_emulator.h"
#include "emulated_streams.h"

namespace cuda_emulator {

constexpr CUresult kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kNotInitialized = 3, kNoDevice = 100,
                   kInvalidDevice = 101, kInvalidContext = 201, kPeerAccessUnsupported = 217, kInvalidHandle = 400,
                   kNotReady = 600, kPeerAccessAlreadyEnabled = 704, kNotSupported = 801;
constexpr std::uint64_t kSpace = std::uint64_t{64} << 30;  // addresses of devices, of one process
constexpr std::uint64_t kGranule = 64 << 10;

struct Allocation {
  CUdeviceptr base = 0;
  std::uint64_t length = 0, room = 0;
  std::byte* data = nullptr;  // where the emulator alone reaches it
  std::string file;
  int device = 0;  // physical
  unsigned long long id = 0;
  bool is_opened = false, is_pooled = false;
  int opens = 0;
  ~Allocation() {
    if (data != nullptr) ::munmap(data, room);
  }
};

// As a handle has it.
struct Name {
  char kind[8];
  std::int32_t pid, device;
  std::uint64_t id, length;
};
static_assert(sizeof(Name) <= 64);

struct Context {
  int ordinal = 0, device = 0;
  int retained = 0;
  Streams streams;
  std::set<Context*> peers;
};

struct Emulated {
  std::mutex mutex;
  pid_t pid = 0;  // of the process that called cuInit
  std::string folder;
  std::vector<int> visible;  // physical devices
  bool has_peer_access = true;
  std::vector<std::unique_ptr<Context>> contexts;  // primary ones, by ordinal
  std::byte* space = nullptr;
  std::map<CUdeviceptr, std::shared_ptr<Allocation>> allocations;
  std::map<CUstream, std::pair<std::shared_ptr<Stream>, Context*>> streams;
  std::map<CUevent, std::pair<std::shared_ptr<Event>, Context*>> events;
  unsigned long long last_id = 0;
  std::map<std::string, std::pair<CUresult, int>> failures;
  std::map<std::string, int> calls;
};

// Never destroyed: streams run until the process ends.
inline Emulated& emulated() {
  static auto* const own = new Emulated();
  return *own;
}

inline thread_local std::vector<Context*> current;

inline std::uint64_t number(const char* variable, std::uint64_t otherwise) {
  const char* const text = std::getenv(variable);
  return text != nullptr && *text != 0 ? std::strtoull(text, nullptr, 10) : otherwise;
}

enum class Needs { kNothing, kInit, kContext };

inline CUresult enter(const char* function, Needs needs) {
  Emulated& own = emulated();
  const std::lock_guard guard(own.mutex);
  ++own.calls[function];
  auto failure = own.failures.find(function);
  if (failure != own.failures.end() && failure->second.second > 0) {
    --failure->second.second;
    return failure->second.first;
  }
  // A child of fork() has no part in what its parent has opened.
  if (needs != Needs::kNothing && own.pid != ::getpid()) return kNotInitialized;
  return needs == Needs::kContext && current.empty() ? kInvalidContext : kSuccess;
}

#define ENTER(needs) \
  if (const CUresult refused = cuda_emulator::enter(__func__, cuda_emulator::Needs::needs); refused != 0) return refused

inline bool is_of_device(CUdeviceptr address) {
  const auto start = reinterpret_cast<std::uintptr_t>(emulated().space);
  return address >= start && address < start + kSpace;
}

// The allocation that holds all of it, or null. Needs the mutex.
inline std::shared_ptr<Allocation> allocation_of(CUdeviceptr address, std::uint64_t bytes) {
  auto& all = emulated().allocations;
  auto after = all.upper_bound(address);
  if (after == all.begin()) return nullptr;
  const auto& found = std::prev(after)->second;
  const std::uint64_t inside = address - found->base;
  return inside < found->length && bytes <= found->length - inside ? found : nullptr;
}

// Bytes of a device, or of the host, which the processor may touch.
struct Bytes {
  std::shared_ptr<Allocation> allocation;  // null: the host's
  std::byte* data = nullptr;
  bool ok = true;
};

inline Bytes resolve(CUdeviceptr address, std::uint64_t bytes) {
  const std::lock_guard guard(emulated().mutex);
  if (!is_of_device(address)) return {nullptr, reinterpret_cast<std::byte*>(address), true};
  auto found = allocation_of(address, bytes);
  if (found == nullptr) return {nullptr, nullptr, false};
  std::byte* const data = found->data + (address - found->base);
  return {std::move(found), data, true};
}

// The first gap that is wide enough: addresses are given out anew.
inline std::byte* find_room(std::uint64_t room) {
  Emulated& own = emulated();
  auto at = reinterpret_cast<std::uintptr_t>(own.space) + kGranule;
  for (const auto& [base, allocation] : own.allocations) {
    if (base - at >= room) break;
    at = base + allocation->room;
  }
  return reinterpret_cast<std::byte*>(at);
}

inline std::string file_of(const char* kind, pid_t pid, unsigned long long id) {
  return emulated().folder + "/" + kind + "-" + std::to_string(pid) + "-" + std::to_string(id);
}

inline std::byte* map_file(const std::string& file, std::uint64_t bytes, bool create) {
  if (create) ::unlink(file.c_str());  // of a process before that had the same id
  const int fd = ::open(file.c_str(), O_RDWR | O_CLOEXEC | (create ? O_CREAT | O_EXCL : 0), 0600);
  if (fd < 0) return nullptr;
  const bool is_sized = !create || ::ftruncate(fd, static_cast<off_t>(bytes)) == 0;
  void* const data = is_sized ? ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
  ::close(fd);
  return data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
}

inline CUresult allocate(CUdeviceptr* address, std::size_t bytes, bool is_pooled) {
  if (bytes == 0) return kInvalidValue;
  Emulated& own = emulated();
  const std::lock_guard guard(own.mutex);
  auto made = std::make_shared<Allocation>();
  made->length = bytes;
  made->room = (bytes + kGranule - 1) / kGranule * kGranule;
  made->device = current.back()->device;
  made->id = ++own.last_id;
  made->is_pooled = is_pooled;
  made->file = file_of("memory", own.pid, made->id);
  made->data = map_file(made->file, made->room, true);
  if (made->data == nullptr) return kOutOfMemory;
  std::memset(made->data, 0xCD, bytes);
  made->base = *address = reinterpret_cast<std::uintptr_t>(find_room(made->room));
  own.allocations[made->base] = std::move(made);
  return kSuccess;
}

inline std::shared_ptr<Stream> stream_of(CUstream handle, Context** context = nullptr) {
  const auto value = reinterpret_cast<std::uintptr_t>(handle);
  if (value <= 1) {
    if (context != nullptr) *context = current.back();
    return current.back()->streams.legacy();
  }
  const std::lock_guard guard(emulated().mutex);
  const auto found = emulated().streams.find(handle);
  if (found == emulated().streams.end()) return nullptr;
  if (context != nullptr) *context = found->second.second;
  return found->second.first;
}

inline std::shared_ptr<Event> event_of(CUevent handle, Context** context = nullptr) {
  const std::lock_guard guard(emulated().mutex);
  const auto found = emulated().events.find(handle);
  if (found == emulated().events.end()) return nullptr;
  if (context != nullptr) *context = found->second.second;
  return found->second.first;
}

inline CUevent keep(std::shared_ptr<Event> event) {
  const std::lock_guard guard(emulated().mutex);
  const auto handle = reinterpret_cast<CUevent>(event.get());
  emulated().events[handle] = {std::move(event), current.back()};
  return handle;
}

inline void put(CUstream handle, std::function<void()> work, std::uint64_t run_us) {
  Context* context = nullptr;
  const auto stream = stream_of(handle, &context);
  context->streams.put(stream, [run_us, work = std::move(work)] {
    pause_for(run_us);
    work();
  });
}

inline std::uint64_t delay_us() {
  static const std::uint64_t delay = number("CUDA_EMULATOR_DELAY_US", 50);
  return delay;
}

// `rows` of so many bytes. To pageable memory it returns when it is done; from there the bytes are taken at once.
inline CUresult copy(CUdeviceptr to, std::uint64_t to_pitch, CUdeviceptr from, std::uint64_t from_pitch,
                     std::uint64_t width, std::uint64_t rows, CUstream handle) {
  if (width == 0 || rows == 0) return kSuccess;
  if (rows > 1 && (to_pitch < width || from_pitch < width)) return kInvalidValue;
  const auto target = resolve(to, (rows - 1) * to_pitch + width);
  auto source = resolve(from, (rows - 1) * from_pitch + width);
  const auto stream = stream_of(handle);
  if (!target.ok || !source.ok) return kInvalidValue;
  if (stream == nullptr) return kInvalidHandle;
  std::shared_ptr<std::vector<std::byte>> staged;
  if (source.allocation == nullptr && target.allocation != nullptr) {
    staged = std::make_shared<std::vector<std::byte>>(source.data, source.data + (rows - 1) * from_pitch + width);
    source.data = staged->data();
  }
  put(
      handle,
      [=] {
        for (std::uint64_t i = 0; i < rows; ++i) {
          std::memcpy(target.data + i * to_pitch, source.data + i * from_pitch, width);
        }
        (void)staged;
      },
      delay_us());
  if (target.allocation == nullptr) stream->finish();
  return kSuccess;
}

inline Context* context_of(CUcontext handle) {
  for (const auto& context : emulated().contexts) {
    if (reinterpret_cast<CUcontext>(context.get()) == handle) return context.get();
  }
  return nullptr;
}

}  // namespace cuda_emulator
