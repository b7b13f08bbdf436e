// NVIDIA's driver API, opened when something first needs it: a build knows nothing of CUDA, and a machine without it
// loses nothing. Names, types and numbers are those of cuda.h, of which this declares what is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include "beeline/base/function_ref.h"
#include "beeline/base/status.h"

namespace beeline::os::cuda {

using Return = std::int32_t;         // CUresult
using Ordinal = std::int32_t;        // CUdevice
using Address = unsigned long long;  // CUdeviceptr
using Context = struct CUctx_st*;
using Stream = struct CUstream_st*;
using Event = struct CUevent_st*;

// Of memory that unified addressing gives one address on the host and on GPUs.
inline Address address_of(const std::byte* data) {
  return reinterpret_cast<std::uintptr_t>(data);
}

inline constexpr Return kSuccess = 0, kNotReady = 600, kPeerAccessAlreadyEnabled = 704;
inline constexpr unsigned kStreamNonBlocking = 1;
inline constexpr unsigned kEventDisableTiming = 2, kEventInterprocess = 4;
inline constexpr unsigned kIpcMemLazyEnablePeerAccess = 1;
inline constexpr std::int32_t kCaptureModeRelaxed = 2;
inline constexpr std::int32_t kPointerMemoryType = 2, kPointerBufferId = 7, kPointerIsManaged = 8,
                              kPointerDeviceOrdinal = 9, kPointerIsLegacyIpcCapable = 10;
inline constexpr std::uint32_t kMemoryHost = 1, kMemoryDevice = 2, kMemoryUnified = 4;
inline constexpr std::int32_t kDeviceMaxPitch = 11, kDeviceUnifiedAddressing = 41;

struct Uuid {
  unsigned char bytes[16];
};

// CUipcMemHandle and CUipcEventHandle: passed by value.
struct IpcHandle {
  unsigned char bytes[64];
};
static_assert(sizeof(IpcHandle) == 64 && std::is_trivially_copyable_v<IpcHandle>);

// CUDA_MEMCPY2D_v2
struct Copy2d {
  std::size_t source_x = 0, source_y = 0;
  std::uint32_t source_type = 0;
  const void* source_host = nullptr;
  Address source_device = 0;
  void* source_array = nullptr;
  std::size_t source_pitch = 0;
  std::size_t target_x = 0, target_y = 0;
  std::uint32_t target_type = 0;
  void* target_host = nullptr;
  Address target_device = 0;
  void* target_array = nullptr;
  std::size_t target_pitch = 0;
  std::size_t width = 0, height = 0;
};
static_assert(sizeof(Copy2d) == 128);

template <typename... Parameters>
struct Function {
  const char* name = nullptr;
  Return (*address)(Parameters...) = nullptr;
};

struct Functions {
  Function<unsigned> init{"cuInit"};
  Function<int*> driver_version{"cuDriverGetVersion"};
  Function<Return, const char**> error_name{"cuGetErrorName"};
  Function<Return, const char**> error_text{"cuGetErrorString"};
  Function<int*> device_count{"cuDeviceGetCount"};
  Function<Ordinal*, int> device{"cuDeviceGet"};
  Function<Uuid*, Ordinal> device_uuid{"cuDeviceGetUuid_v2"};
  Function<char*, int, Ordinal> device_name{"cuDeviceGetName"};
  Function<int*, std::int32_t, Ordinal> device_attribute{"cuDeviceGetAttribute"};
  Function<int*, Ordinal, Ordinal> can_access_peer{"cuDeviceCanAccessPeer"};
  Function<Context*, Ordinal> primary_retain{"cuDevicePrimaryCtxRetain"};
  Function<Ordinal> primary_release{"cuDevicePrimaryCtxRelease_v2"};
  Function<Context> push_context{"cuCtxPushCurrent_v2"};
  Function<Context*> pop_context{"cuCtxPopCurrent_v2"};
  Function<Context, unsigned> enable_peer_access{"cuCtxEnablePeerAccess"};
  Function<std::int32_t*> exchange_capture_mode{"cuThreadExchangeStreamCaptureMode"};
  Function<void*, std::int32_t, Address> pointer_attribute{"cuPointerGetAttribute"};
  Function<Address*, std::size_t*, Address> address_range{"cuMemGetAddressRange_v2"};
  Function<IpcHandle*, Address> ipc_memory{"cuIpcGetMemHandle"};
  Function<Address*, IpcHandle, unsigned> open_ipc_memory{"cuIpcOpenMemHandle_v2"};
  Function<Address> close_ipc_memory{"cuIpcCloseMemHandle"};
  Function<IpcHandle*, Event> ipc_event{"cuIpcGetEventHandle"};
  Function<Event*, IpcHandle> open_ipc_event{"cuIpcOpenEventHandle"};
  Function<Event*, unsigned> create_event{"cuEventCreate"};
  Function<Event> destroy_event{"cuEventDestroy_v2"};
  Function<Event, Stream> record{"cuEventRecord"};
  Function<Event> query{"cuEventQuery"};
  Function<Stream*, unsigned> create_stream{"cuStreamCreate"};
  Function<Stream> destroy_stream{"cuStreamDestroy_v2"};
  Function<Stream, Event, unsigned> wait_event{"cuStreamWaitEvent"};
  Function<Stream, std::int32_t*> is_capturing{"cuStreamIsCapturing"};
  Function<Address, Address, std::size_t, Stream> copy{"cuMemcpyAsync"};
  Function<Address, Context, Address, Context, std::size_t, Stream> copy_peer{"cuMemcpyPeerAsync"};
  Function<const Copy2d*, Stream> copy_2d{"cuMemcpy2DAsync_v2"};
};

// Thread-safe.
class Driver {
 public:
  // The library that BEELINE_CUDA_LIBRARY names, else libcuda.so.1: opened and initialised by the first call, and kept
  // as long as the process. kUnsupported, with why, where there is none or it finds no GPU, and in a child of fork()
  // where the parent has used it: CUDA does not survive that.
  static Result<const Driver*> open();

  [[nodiscard]] const Functions& functions() const { return functions_; }
  [[nodiscard]] const std::string& library() const { return library_; }
  [[nodiscard]] int version() const { return version_; }  // 12040: CUDA 12.4
  [[nodiscard]] int devices() const { return devices_; }

  // The call's outcome as a status that names it: kResourceExhausted without memory, else kSystem.
  template <typename... Parameters>
  Status call(const Function<Parameters...>& function, std::type_identity_t<Parameters>... arguments) const {
    const Return code = function.address(arguments...);
    return code == kSuccess ? Status::ok() : failed(function.name, code);
  }
  // Where there is nobody to tell: what ends is gone with the driver, too.
  template <typename... Parameters>
  void end(const Function<Parameters...>& function, std::type_identity_t<Parameters>... arguments) const {
    static_cast<void>(function.address(arguments...));
  }
  [[nodiscard]] Status failed(const char* function, Return code) const;

  // Until what the event's newest record comes after is done; `go_on` is asked now and then, and its failure ends the
  // wait, not the work. Sleeps between looks: a driver wakes nobody.
  Status finish(Event event, FunctionRef<Status()> go_on) const;

 private:
  Driver() = default;
  static Result<const Driver*> load();

  Functions functions_;
  std::string library_;
  int version_ = 0;
  int devices_ = 0;
};

// A context is the calling thread's as long as this lives, and what the thread calls meanwhile does not disturb a graph
// that another one captures.
class Current {
 public:
  Current(const Driver& driver, Context context);
  ~Current();
  Current(const Current&) = delete;
  [[nodiscard]] const Status& status() const { return status_; }

 private:
  const Driver& driver_;
  std::int32_t mode_ = kCaptureModeRelaxed;
  bool is_pushed_ = false;
  bool is_exchanged_ = false;
  Status status_;
};

}  // namespace beeline::os::cuda
