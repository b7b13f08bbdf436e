// What is used of NIXL's C interface (libnixl_capi.so, 1.5), for which its packages bring no header: names, arguments
// and layouts as the library has them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace beeline::transport::nixl::capi {

// The library tells few failures apart, and has no words for them.
enum Code : int {
  kInProgress = 1,
  kSuccess = 0,
  kInvalidArgument = -1,
  kFailed = -2,
  kNotFound = -6,  // of a peer's metadata; its back end has lost the peer, or never knew it
};

enum MemoryType : int { kHostMemory = 0 };
enum Operation : int { kRead = 0, kWrite = 1 };
// The agent locks; else its callers must.
enum ThreadSync : int { kNoSync = 0, kStrictSync = 1 };

struct AgentConfig {
  bool has_progress_thread = false;
  bool has_listening_thread = false;
  std::int32_t listening_port = 0;
  std::int32_t thread_sync = kStrictSync;
  std::uint32_t workers = 0;  // not read
  std::uint64_t progress_delay_us = 0;
  std::uint64_t listening_delay_us = 0;
  bool has_telemetry = false;
};
static_assert(offsetof(AgentConfig, listening_port) == 4 && offsetof(AgentConfig, thread_sync) == 8);
static_assert(offsetof(AgentConfig, progress_delay_us) == 16 && offsetof(AgentConfig, has_telemetry) == 32);

struct Agent;
struct Params;
struct Backend;
struct OptionalArgs;
struct RegistrationList;
struct TransferList;
struct Request;

// The functions, as they are found by name. Those that destroy or release free what they are given; bytes and names
// that the library hands out are freed with free().
struct Functions {
  bool (*is_stub)() = nullptr;
  int (*create_configured_agent)(const char* name, const AgentConfig* config, Agent** agent) = nullptr;
  int (*destroy_agent)(Agent* agent) = nullptr;
  int (*create_params)(Params** params) = nullptr;
  int (*params_add)(Params* params, const char* key, const char* value) = nullptr;
  int (*destroy_params)(Params* params) = nullptr;
  int (*create_backend)(Agent* agent, const char* plugin, Params* params, Backend** backend) = nullptr;
  int (*destroy_backend)(Backend* backend) = nullptr;  // the handle; the back end goes with its agent
  int (*create_reg_dlist)(int memory_type, RegistrationList** list) = nullptr;
  int (*reg_dlist_add_desc)(RegistrationList* list, std::uintptr_t address, std::size_t length, std::uint64_t device,
                            const void* metadata, std::size_t metadata_length) = nullptr;
  int (*destroy_reg_dlist)(RegistrationList* list) = nullptr;
  int (*register_mem)(Agent* agent, RegistrationList* list, OptionalArgs* args) = nullptr;
  int (*deregister_mem)(Agent* agent, RegistrationList* list, OptionalArgs* args) = nullptr;
  // Of the memory in the list; of an empty list: how to connect.
  int (*get_local_partial_md)(Agent* agent, RegistrationList* list, void** data, std::size_t* length,
                              OptionalArgs* args) = nullptr;
  int (*load_remote_md)(Agent* agent, const void* data, std::size_t length, char** peer) = nullptr;
  int (*create_xfer_dlist)(int memory_type, TransferList** list) = nullptr;
  int (*xfer_dlist_add_desc)(TransferList* list, std::uintptr_t address, std::size_t length,
                             std::uint64_t device) = nullptr;
  int (*destroy_xfer_dlist)(TransferList* list) = nullptr;
  int (*create_xfer_req)(Agent* agent, int operation, TransferList* local, TransferList* remote, const char* peer,
                         Request** request, OptionalArgs* args) = nullptr;
  int (*post_xfer_req)(Agent* agent, Request* request, OptionalArgs* args) = nullptr;
  int (*get_xfer_status)(Agent* agent, Request* request) = nullptr;
  int (*release_xfer_req)(Agent* agent, Request* request) = nullptr;  // what it stands for; the handle stays
  int (*destroy_xfer_req)(Request* request) = nullptr;                // the handle
};

}  // namespace beeline::transport::nixl::capi
