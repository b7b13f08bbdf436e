// AN EMULATOR of libcuda.so.1: the calls. emulated_driver.h has what stands behind them.
#include "cuda_emulator.h"

#include <sstream>

#include "emulated_driver.h"

using namespace cuda_emulator;

CU_EMULATED cuInit(unsigned flags) {
  ENTER(kNothing);
  if (flags != 0) return kInvalidValue;
  Emulated& own = emulated();
  const std::lock_guard guard(own.mutex);
  const char* const folder = std::getenv("CUDA_EMULATOR_FOLDER");
  if (folder == nullptr) return kNoDevice;
  if (own.pid != 0) return own.pid == ::getpid() ? kSuccess : kNotInitialized;
  own.folder = folder;
  const int devices = static_cast<int>(number("CUDA_EMULATOR_DEVICES", 2));
  own.has_peer_access = number("CUDA_EMULATOR_PEER", 1) != 0;
  if (const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES"); visible != nullptr && *visible != 0) {
    std::stringstream list(visible);
    for (std::string each; std::getline(list, each, ',');) {
      const int device = std::atoi(each.c_str());
      if (device < 0 || device >= devices) break;
      own.visible.push_back(device);
    }
  } else {
    for (int i = 0; i < devices; ++i) own.visible.push_back(i);
  }
  if (own.visible.empty()) return kNoDevice;
  for (std::size_t i = 0; i < own.visible.size(); ++i) {
    own.contexts.push_back(std::make_unique<Context>());
    own.contexts.back()->ordinal = static_cast<int>(i);
    own.contexts.back()->device = own.visible[i];
  }
  void* const space = ::mmap(nullptr, kSpace, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) return kOutOfMemory;
  own.space = static_cast<std::byte*>(space);
  own.pid = ::getpid();
  return kSuccess;
}

CU_EMULATED cuDriverGetVersion(int* version) {
  *version = 12040;
  return kSuccess;
}

CU_EMULATED cuGetErrorName(CUresult code, const char** name) {
  static const std::map<CUresult, const char*> names = {
      {0, "CUDA_SUCCESS"},
      {kInvalidValue, "CUDA_ERROR_INVALID_VALUE"},
      {kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY"},
      {kNotInitialized, "CUDA_ERROR_NOT_INITIALIZED"},
      {kNoDevice, "CUDA_ERROR_NO_DEVICE"},
      {kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE"},
      {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT"},
      {kPeerAccessUnsupported, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED"},
      {kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE"},
      {kNotReady, "CUDA_ERROR_NOT_READY"},
      {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
      {kPeerAccessAlreadyEnabled, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED"},
      {kNotSupported, "CUDA_ERROR_NOT_SUPPORTED"}};
  const auto found = names.find(code);
  *name = found != names.end() ? found->second : nullptr;
  return found != names.end() ? kSuccess : kInvalidValue;
}

CU_EMULATED cuGetErrorString(CUresult code, const char** text) {
  const CUresult known = cuGetErrorName(code, text);
  if (known == kSuccess) *text = "said by an emulator of the driver";
  return known;
}

CU_EMULATED cuDeviceGetCount(int* count) {
  ENTER(kInit);
  *count = static_cast<int>(emulated().visible.size());
  return kSuccess;
}

CU_EMULATED cuDeviceGet(CUdevice* device, int ordinal) {
  ENTER(kInit);
  if (ordinal < 0 || ordinal >= static_cast<int>(emulated().visible.size())) return kInvalidDevice;
  *device = ordinal;
  return kSuccess;
}

CU_EMULATED cuDeviceGetName(char* name, int length, CUdevice device) {
  ENTER(kInit);
  const std::string text = "emulated GPU " + std::to_string(emulated().visible.at(static_cast<std::size_t>(device)));
  std::strncpy(name, text.c_str(), static_cast<std::size_t>(length - 1));
  name[length - 1] = 0;
  return kSuccess;
}

CU_EMULATED cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device) {
  ENTER(kInit);
  std::memcpy(uuid->bytes, "emulated-GPU-uui", 16);
  uuid->bytes[15] = static_cast<unsigned char>(emulated().visible.at(static_cast<std::size_t>(device)));
  return kSuccess;
}

CU_EMULATED cuDeviceGetAttribute(int* value, int attribute, CUdevice /*device*/) {
  ENTER(kInit);
  *value = attribute == 11 ? 1 << 30 : 1;  // the largest pitch
  return kSuccess;
}

CU_EMULATED cuDeviceCanAccessPeer(int* can, CUdevice one, CUdevice other) {
  ENTER(kInit);
  *can = one != other && emulated().has_peer_access ? 1 : 0;
  return kSuccess;
}

CU_EMULATED cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  ENTER(kInit);
  const std::lock_guard guard(emulated().mutex);
  if (device < 0 || device >= static_cast<int>(emulated().contexts.size())) return kInvalidDevice;
  Context* const own = emulated().contexts[static_cast<std::size_t>(device)].get();
  ++own->retained;
  *context = reinterpret_cast<CUcontext>(own);
  return kSuccess;
}

CU_EMULATED cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  ENTER(kInit);
  const std::lock_guard guard(emulated().mutex);
  Context& own = *emulated().contexts.at(static_cast<std::size_t>(device));
  return own.retained-- > 0 ? kSuccess : kInvalidContext;
}

CU_EMULATED cuCtxPushCurrent_v2(CUcontext context) {
  ENTER(kInit);
  Context* const own = context_of(context);
  if (own == nullptr) return kInvalidContext;
  current.push_back(own);
  return kSuccess;
}

CU_EMULATED cuCtxPopCurrent_v2(CUcontext* context) {
  ENTER(kContext);
  *context = reinterpret_cast<CUcontext>(current.back());
  current.pop_back();
  return kSuccess;
}

CU_EMULATED cuCtxSetCurrent(CUcontext context) {
  ENTER(kInit);
  Context* const own = context_of(context);
  if (own == nullptr) return kInvalidContext;
  if (!current.empty()) current.pop_back();
  current.push_back(own);
  return kSuccess;
}

CU_EMULATED cuCtxEnablePeerAccess(CUcontext context, unsigned /*flags*/) {
  ENTER(kContext);
  Context* const other = context_of(context);
  if (other == nullptr || other == current.back()) return kInvalidContext;
  const std::lock_guard guard(emulated().mutex);
  if (!emulated().has_peer_access) return kPeerAccessUnsupported;
  return current.back()->peers.insert(other).second ? kSuccess : kPeerAccessAlreadyEnabled;
}

CU_EMULATED cuThreadExchangeStreamCaptureMode(int* mode) {
  ENTER(kInit);
  thread_local int own = 0;
  std::swap(own, *mode);
  return kSuccess;
}

CU_EMULATED cuMemAlloc_v2(CUdeviceptr* address, std::size_t bytes) {
  ENTER(kContext);
  return allocate(address, bytes, false);
}

CU_EMULATED cuEmulatorAllocPooled(CUdeviceptr* address, std::size_t bytes) {
  ENTER(kContext);
  return allocate(address, bytes, true);
}

CU_EMULATED cuMemFree_v2(CUdeviceptr address) {
  ENTER(kContext);
  std::shared_ptr<Allocation> freed;
  const std::lock_guard guard(emulated().mutex);
  const auto found = emulated().allocations.find(address);
  if (found == emulated().allocations.end() || found->second->is_opened) return kInvalidValue;
  ::unlink(found->second->file.c_str());
  freed = std::move(found->second);
  emulated().allocations.erase(found);
  return kSuccess;
}

CU_EMULATED cuMemGetAddressRange_v2(CUdeviceptr* base, std::size_t* length, CUdeviceptr address) {
  ENTER(kContext);
  const auto bytes = resolve(address, 1);
  if (bytes.allocation == nullptr) return kInvalidValue;
  *base = bytes.allocation->base;
  *length = bytes.allocation->length;
  return kSuccess;
}

CU_EMULATED cuPointerGetAttribute(void* value, int attribute, CUdeviceptr address) {
  ENTER(kContext);
  const auto bytes = resolve(address, 1);
  if (bytes.allocation == nullptr) return kInvalidValue;
  const Allocation& own = *bytes.allocation;
  const auto& visible = emulated().visible;
  const auto ordinal = std::find(visible.begin(), visible.end(), own.device) - visible.begin();
  const std::uint32_t answer = attribute == 2    ? 2  // memory of a device
                               : attribute == 9  ? static_cast<std::uint32_t>(ordinal)
                               : attribute == 10 ? (own.is_pooled ? 0 : 1)
                                                 : 0;
  if (attribute == 7) {
    std::memcpy(value, &own.id, sizeof own.id);
  } else {
    std::memcpy(value, &answer, sizeof answer);
  }
  return kSuccess;
}

CU_EMULATED cuIpcGetMemHandle(CUipcMemHandle* handle, CUdeviceptr address) {
  ENTER(kContext);
  const auto bytes = resolve(address, 1);
  if (bytes.allocation == nullptr || bytes.allocation->base != address) return kInvalidValue;
  const Allocation& own = *bytes.allocation;
  if (own.is_pooled || own.is_opened) return kInvalidValue;
  const Name name{"memory", emulated().pid, own.device, own.id, own.length};
  std::memset(handle, 0, sizeof *handle);
  std::memcpy(handle, &name, sizeof name);
  return kSuccess;
}

CU_EMULATED cuIpcOpenMemHandle_v2(CUdeviceptr* address, CUipcMemHandle handle, unsigned flags) {
  ENTER(kContext);
  Name name{};
  std::memcpy(&name, &handle, sizeof name);
  if (flags != 1) return kInvalidValue;
  if (std::string(name.kind) != "memory") return kInvalidHandle;
  Emulated& own = emulated();
  const std::lock_guard guard(own.mutex);
  if (name.pid == own.pid) return kInvalidContext;
  if (name.device != current.back()->device && !own.has_peer_access) return kPeerAccessUnsupported;
  const std::string file = file_of("memory", name.pid, name.id);
  for (const auto& [base, known] : own.allocations) {
    if (!known->is_opened || known->file != file) continue;
    ++known->opens;
    *address = base;
    return kSuccess;
  }
  auto opened = std::make_shared<Allocation>();
  opened->length = name.length;
  opened->room = (name.length + kGranule - 1) / kGranule * kGranule;
  opened->data = map_file(file, opened->room, false);
  if (opened->data == nullptr) return kInvalidHandle;
  opened->file = file;
  opened->device = name.device;
  opened->id = ++own.last_id;
  opened->is_opened = true;
  opened->opens = 1;
  opened->base = *address = reinterpret_cast<std::uintptr_t>(find_room(opened->room));
  own.allocations[opened->base] = std::move(opened);
  return kSuccess;
}

CU_EMULATED cuIpcCloseMemHandle(CUdeviceptr address) {
  ENTER(kContext);
  std::shared_ptr<Allocation> closed;
  const std::lock_guard guard(emulated().mutex);
  const auto found = emulated().allocations.find(address);
  if (found == emulated().allocations.end() || !found->second->is_opened) return kInvalidValue;
  if (--found->second->opens > 0) return kSuccess;
  closed = std::move(found->second);
  emulated().allocations.erase(found);
  return kSuccess;
}

CU_EMULATED cuEventCreate(CUevent* event, unsigned flags) {
  ENTER(kContext);
  if ((flags & 4) != 0 && (flags & 2) == 0) return kInvalidValue;  // between processes, but with timing
  if ((flags & 4) == 0) {
    *event = keep(std::make_shared<Event>());
    return kSuccess;
  }
  unsigned long long id = 0;
  {
    const std::lock_guard guard(emulated().mutex);
    id = ++emulated().last_id;
  }
  const std::string file = file_of("event", emulated().pid, id);
  std::byte* const data = map_file(file, 4096, true);
  if (data == nullptr) return kOutOfMemory;
  *event = keep(std::make_shared<Event>(data, id));
  return kSuccess;
}

CU_EMULATED cuIpcGetEventHandle(CUipcEventHandle* handle, CUevent event) {
  ENTER(kContext);
  const auto own = event_of(event);
  if (own == nullptr || own->id() == 0) return kInvalidHandle;
  const Name name{"event", emulated().pid, current.back()->device, own->id(), 0};
  std::memset(handle, 0, sizeof *handle);
  std::memcpy(handle, &name, sizeof name);
  return kSuccess;
}

CU_EMULATED cuIpcOpenEventHandle(CUevent* event, CUipcEventHandle handle) {
  ENTER(kContext);
  Name name{};
  std::memcpy(&name, &handle, sizeof name);
  if (std::string(name.kind) != "event") return kInvalidHandle;
  if (name.pid == emulated().pid) return kInvalidContext;
  if (name.device != current.back()->device && !emulated().has_peer_access) return kPeerAccessUnsupported;
  std::byte* const data = map_file(file_of("event", name.pid, name.id), 4096, false);
  if (data == nullptr) return kInvalidHandle;
  *event = keep(std::make_shared<Event>(data, 0));
  return kSuccess;
}

CU_EMULATED cuEventDestroy_v2(CUevent event) {
  ENTER(kContext);
  const std::lock_guard guard(emulated().mutex);
  return emulated().events.erase(event) > 0 ? kSuccess : kInvalidHandle;
}

CU_EMULATED cuEventRecord(CUevent event, CUstream stream) {
  ENTER(kContext);
  Context *of_event = nullptr, *of_stream = nullptr;
  const auto own = event_of(event, &of_event);
  const auto in = stream_of(stream, &of_stream);
  if (own == nullptr || in == nullptr || of_event != of_stream) return kInvalidHandle;
  of_stream->streams.record(in, own);
  return kSuccess;
}

CU_EMULATED cuEventQuery(CUevent event) {
  ENTER(kContext);
  const auto own = event_of(event);
  if (own == nullptr) return kInvalidHandle;
  return own->has_happened() ? kSuccess : kNotReady;
}

CU_EMULATED cuStreamCreate(CUstream* stream, unsigned flags) {
  ENTER(kContext);
  auto made = current.back()->streams.make(flags == 1);
  const std::lock_guard guard(emulated().mutex);
  *stream = reinterpret_cast<CUstream>(made.get());
  emulated().streams[*stream] = {std::move(made), current.back()};
  return kSuccess;
}

CU_EMULATED cuStreamDestroy_v2(CUstream stream) {
  ENTER(kContext);
  const std::lock_guard guard(emulated().mutex);
  const auto found = emulated().streams.find(stream);
  if (found == emulated().streams.end()) return kInvalidHandle;
  found->second.second->streams.end(found->second.first);  // what it holds is still done
  emulated().streams.erase(found);
  return kSuccess;
}

CU_EMULATED cuStreamWaitEvent(CUstream stream, CUevent event, unsigned /*flags*/) {
  ENTER(kContext);
  Context* context = nullptr;
  const auto own = event_of(event);
  const auto in = stream_of(stream, &context);
  if (own == nullptr || in == nullptr) return kInvalidHandle;
  context->streams.wait(in, own);
  return kSuccess;
}

CU_EMULATED cuStreamSynchronize(CUstream stream) {
  ENTER(kContext);
  const auto own = stream_of(stream);
  if (own == nullptr) return kInvalidHandle;
  own->finish();
  return kSuccess;
}

CU_EMULATED cuLaunchHostFunc(CUstream stream, void (*function)(void*), void* argument) {
  ENTER(kContext);
  if (stream_of(stream) == nullptr) return kInvalidHandle;
  put(stream, [=] { function(argument); }, 0);
  return kSuccess;
}

CU_EMULATED cuStreamIsCapturing(CUstream stream, int* status) {
  ENTER(kContext);
  const auto own = stream_of(stream);
  if (own == nullptr) return kInvalidHandle;
  *status = own->captures ? 1 : 0;
  return kSuccess;
}

CU_EMULATED cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
  ENTER(kContext);
  return copy(to, bytes, from, bytes, bytes, 1, stream);
}

CU_EMULATED cuMemcpyPeerAsync(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context,
                              std::size_t bytes, CUstream stream) {
  ENTER(kContext);
  const auto target = resolve(to, bytes);
  const auto source = resolve(from, bytes);
  const Context* const there = context_of(to_context);
  const Context* const here = context_of(from_context);
  if (there == nullptr || here == nullptr) return kInvalidContext;
  const bool fits = target.allocation != nullptr && source.allocation != nullptr &&
                    target.allocation->device == there->device && source.allocation->device == here->device;
  return fits ? copy(to, bytes, from, bytes, bytes, 1, stream) : kInvalidValue;
}

CU_EMULATED cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* what, CUstream stream) {
  ENTER(kContext);
  const auto address = [](std::uint32_t type, const void* host, CUdeviceptr device) {
    return type == 1 ? reinterpret_cast<std::uintptr_t>(host) : device;
  };
  const CUdeviceptr from = address(what->srcMemoryType, what->srcHost, what->srcDevice);
  const CUdeviceptr to = address(what->dstMemoryType, what->dstHost, what->dstDevice);
  if (is_of_device(from) == (what->srcMemoryType == 1) || is_of_device(to) == (what->dstMemoryType == 1)) {
    return kInvalidValue;
  }
  return copy(to, what->dstPitch, from, what->srcPitch, what->WidthInBytes, what->Height, stream);
}

CU_EMULATED cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, std::size_t bytes) {
  ENTER(kContext);
  const CUresult code = copy(to, bytes, reinterpret_cast<std::uintptr_t>(from), bytes, bytes, 1, nullptr);
  if (code == kSuccess) stream_of(nullptr)->finish();
  return code;
}

CU_EMULATED cuMemcpyDtoH_v2(void* to, CUdeviceptr from, std::size_t bytes) {
  ENTER(kContext);
  return copy(reinterpret_cast<std::uintptr_t>(to), bytes, from, bytes, bytes, 1, nullptr);
}

CU_EMULATED cuEmulatorFill(CUdeviceptr address, int value, std::size_t bytes, std::uint64_t run_us, CUstream stream) {
  ENTER(kContext);
  const auto target = resolve(address, bytes);
  if (target.allocation == nullptr || stream_of(stream) == nullptr) return kInvalidValue;
  put(stream, [=] { std::memset(target.data, value, bytes); }, run_us);
  return kSuccess;
}

CU_EMULATED cuEmulatorRun(std::uint64_t run_us, CUstream stream) {
  ENTER(kContext);
  if (stream_of(stream) == nullptr) return kInvalidHandle;
  put(stream, [] {}, run_us);
  return kSuccess;
}

CU_EMULATED cuEmulatorFail(const char* function, CUresult code, int times) {
  const std::lock_guard guard(emulated().mutex);
  emulated().failures[function] = {code, times};
  return kSuccess;
}

CU_EMULATED cuEmulatorCapture(CUstream stream, int captures) {
  ENTER(kContext);
  const auto own = stream_of(stream);
  if (own == nullptr) return kInvalidHandle;
  own->captures = captures != 0;
  return kSuccess;
}

CU_EMULATED cuEmulatorTouch(CUdeviceptr address, std::size_t bytes, void** data) {
  ENTER(kInit);
  const auto found = resolve(address, bytes);
  *data = found.allocation != nullptr ? found.data : nullptr;
  return kSuccess;
}

CU_EMULATED cuEmulatorContext(CUcontext* context) {
  ENTER(kContext);
  *context = reinterpret_cast<CUcontext>(current.back());
  return kSuccess;
}

CU_EMULATED cuEmulatorDevice(int* device) {
  ENTER(kContext);
  *device = current.back()->device;
  return kSuccess;
}

CU_EMULATED cuEmulatorCalls(const char* function) {
  const std::lock_guard guard(emulated().mutex);
  return emulated().calls[function];
}

CU_EMULATED cuEmulatorOpened() {
  const std::lock_guard guard(emulated().mutex);
  int opened = 0;
  for (const auto& [base, allocation] : emulated().allocations) opened += allocation->is_opened ? 1 : 0;
  return opened;
}
