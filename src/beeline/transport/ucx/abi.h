// The part of UCX's C interface that is called here, so that building needs no UCX: docs/decisions/0009. UCX keeps
// these layouts and adds fields at their ends; a caller says by `field_mask` which ones are set, and no other is read.
// tests/conformance/test_ucx.py compares with UCX's own headers.
#pragma once

#include <cstdarg>
#include <cstddef>
#include <cstdint>

namespace beeline::transport::ucx {

struct UcpConfig;
struct UcpContext;
struct UcpWorker;
struct UcpEndpoint;
struct UcpMemory;
struct UcpKey;
struct UcpAddress;

// ucs_status_t, which is packed into a byte.
enum class UcsStatus : std::int8_t {
  kOk = 0,
  kInProgress = 1,
  kNoResource = -2,
  kNoMemory = -4,
  kUnreachable = -6,
  kNotImplemented = -8,
  kNoDevice = -14,
  kBusy = -15,
  kTimedOut = -20,
  kExceedsLimit = -21,
  kUnsupported = -22,
  kRejected = -23,
  kNotConnected = -24,
  kConnectionReset = -25,
  kEndpointTimeout = -80,
  kLast = -100,
};

// What starting something returns: null when it is done already, an error, or a request.
using UcsStatusPointer = void*;
inline bool is_error(UcsStatusPointer pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) >= static_cast<std::uintptr_t>(static_cast<int>(UcsStatus::kLast));
}
inline UcsStatus error_of(UcsStatusPointer pointer) {
  return static_cast<UcsStatus>(reinterpret_cast<std::intptr_t>(pointer));
}

constexpr int kHostMemoryType = 0;

struct UcpContextParams {
  static constexpr std::uint64_t kFeatures = 1u << 0, kSharedByThreads = 1u << 5;
  static constexpr std::uint64_t kRemoteMemory = 1u << 1, kWakeUp = 1u << 4;  // features
  std::uint64_t field_mask;
  std::uint64_t features;
  std::size_t request_size;
  void (*request_init)(void* request);
  void (*request_cleanup)(void* request);
  std::uint64_t tag_sender_mask;
  int shared_by_threads;
};

struct UcpWorkerParams {
  static constexpr std::uint64_t kThreadMode = 1u << 0;
  static constexpr int kSerialized = 1;  // any thread, one at a time
  std::uint64_t field_mask;
  int thread_mode;
};

struct UcpEndpointParams {
  static constexpr std::uint64_t kAddress = 1u << 0;
  std::uint64_t field_mask;
  const UcpAddress* address;
};

struct UcpMemoryParams {
  static constexpr std::uint64_t kAddress = 1u << 0, kLength = 1u << 1, kMemoryType = 1u << 4;
  std::uint64_t field_mask;
  void* address;
  std::size_t length;
  unsigned flags;
  unsigned protection;
  int memory_type;
};

struct UcpRequestParams {
  static constexpr std::uint32_t kCallback = 1u << 1, kUserData = 1u << 2, kMemoryType = 1u << 6;
  std::uint32_t field_mask;
  std::uint32_t flags;
  void* request;
  void (*on_done)(void* request, UcsStatus status, void* user_data);
  std::uint64_t datatype;
  void* user_data;
  void* reply_buffer;
  int memory_type;
};

// What UCX has to say. Returns kStop where it need not be printed.
using UcsLogHandler = int (*)(const char* file, unsigned line, const char* function, int level, const void* component,
                              const char* format, std::va_list arguments);
constexpr int kLogLevelError = 1;
constexpr int kStop = 0;
constexpr int kContinue = 1;

struct Functions {
  void (*get_version)(unsigned* major, unsigned* minor, unsigned* release);
  UcsStatus (*config_read)(const char* prefix, const char* file, UcpConfig** config);
  UcsStatus (*config_modify)(UcpConfig* config, const char* name, const char* value);
  void (*config_release)(UcpConfig* config);
  UcsStatus (*init_version)(unsigned major, unsigned minor, const UcpContextParams* params, const UcpConfig* config,
                            UcpContext** context);
  void (*cleanup)(UcpContext* context);
  UcsStatus (*worker_create)(UcpContext* context, const UcpWorkerParams* params, UcpWorker** worker);
  void (*worker_destroy)(UcpWorker* worker);
  UcsStatus (*worker_get_address)(UcpWorker* worker, UcpAddress** address, std::size_t* size);
  void (*worker_release_address)(UcpWorker* worker, UcpAddress* address);
  unsigned (*worker_progress)(UcpWorker* worker);
  UcsStatus (*worker_get_efd)(UcpWorker* worker, int* fd);
  UcsStatus (*worker_arm)(UcpWorker* worker);
  UcsStatus (*ep_create)(UcpWorker* worker, const UcpEndpointParams* params, UcpEndpoint** endpoint);
  UcsStatusPointer (*ep_close_nbx)(UcpEndpoint* endpoint, const UcpRequestParams* params);
  UcsStatus (*mem_map)(UcpContext* context, const UcpMemoryParams* params, UcpMemory** memory);
  UcsStatus (*mem_unmap)(UcpContext* context, UcpMemory* memory);
  UcsStatus (*rkey_pack)(UcpContext* context, UcpMemory* memory, void** packed, std::size_t* size);
  void (*rkey_buffer_release)(void* packed);
  UcsStatus (*ep_rkey_unpack)(UcpEndpoint* endpoint, const void* packed, UcpKey** key);
  void (*rkey_destroy)(UcpKey* key);
  UcsStatusPointer (*get_nbx)(UcpEndpoint* endpoint, void* local, std::size_t size, std::uint64_t remote, UcpKey* key,
                              const UcpRequestParams* params);
  UcsStatusPointer (*put_nbx)(UcpEndpoint* endpoint, const void* local, std::size_t size, std::uint64_t remote,
                              UcpKey* key, const UcpRequestParams* params);
  UcsStatusPointer (*ep_flush_nbx)(UcpEndpoint* endpoint, const UcpRequestParams* params);
  UcsStatus (*request_check_status)(void* request);
  void (*request_free)(void* request);
  const char* (*status_string)(UcsStatus status);
  void (*log_push_handler)(UcsLogHandler handler);
};

}  // namespace beeline::transport::ucx
