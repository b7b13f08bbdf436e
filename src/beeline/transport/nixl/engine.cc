#include "beeline/transport/nixl/engine.h"

#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <random>

namespace beeline::transport::nixl {
namespace {

// How long the thread of an owner's engine sleeps at most; peers wake it.
constexpr std::chrono::microseconds kLongestSleep = std::chrono::milliseconds(10);

// What the library destroys.
template <typename T>
using Owned = std::unique_ptr<T, int (*)(T*)>;

// No two agents that ever meet have one name: metadata of an owner that was restarted are nobody's.
std::string make_name() {
  std::random_device random;
  const std::uint64_t bits = std::uint64_t{random()} << 32 | random();
  return "beeline-" + std::to_string(::getpid()) + "-" + std::to_string(bits);
}

// A code of the library, which says no more.
Status status_of(int code, const char* what) {
  if (code == capi::kSuccess) return Status::ok();
  return {code == capi::kNotFound ? Code::kPeerLost : Code::kSystem,
          std::string("NIXL failed while ") + what + " (" + std::to_string(code) + "; what it found is on stderr)"};
}

// As NIXL's UCX back end takes it. Without emulation bytes move past the owner's processor, by the kernel or a NIC, or
// not at all: no message of a reader that has died waits in the owner for its turn, and an owner that is stopped holds
// up nobody. TCP knows no other way.
std::string config_of(NixlOptions::Reach reach) {
  switch (reach) {
    case NixlOptions::Reach::kHost:
      return "TLS=sm,PROTO_EMULATION_ENABLE=n";
    case NixlOptions::Reach::kRdma:
      return "TLS=^tcp,PROTO_EMULATION_ENABLE=n";
    default:
      return "PROTO_EMULATION_ENABLE=y";
  }
}

Result<Owned<capi::RegistrationList>> list_of(const capi::Functions& functions, std::byte* data, std::uint64_t length) {
  capi::RegistrationList* made = nullptr;
  BEELINE_RETURN_IF_ERROR(status_of(functions.create_reg_dlist(capi::kHostMemory, &made), "making a list"));
  Owned<capi::RegistrationList> list(made, functions.destroy_reg_dlist);
  if (length == 0) return list;
  BEELINE_RETURN_IF_ERROR(
      status_of(functions.reg_dlist_add_desc(list.get(), reinterpret_cast<std::uintptr_t>(data), length, 0, nullptr, 0),
                "making a list"));
  return list;
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::open(const capi::Functions& functions, NixlOptions::Reach reach, Role role) {
  std::unique_ptr<Engine> engine(new Engine(functions));
  engine->name_ = make_name();
  capi::AgentConfig config;
  config.has_progress_thread = role == Role::kOwner;
  config.progress_delay_us = static_cast<std::uint64_t>(kLongestSleep.count());
  const auto failed = [](int code, const char* what) {
    return Status(Code::kUnsupported, status_of(code, what).message());
  };
  if (const int code = functions.create_configured_agent(engine->name_.c_str(), &config, &engine->agent_)) {
    engine->agent_ = nullptr;
    return failed(code, "opening an agent");
  }
  capi::Params* made = nullptr;
  if (const int code = functions.create_params(&made)) return failed(code, "making parameters");
  const Owned<capi::Params> params(made, functions.destroy_params);
  if (const int code = functions.params_add(params.get(), "engine_config", config_of(reach).c_str())) {
    return failed(code, "making parameters");
  }
  // UCX's transports in shared memory do not tell of a peer's end, and are not taken where that is asked for: here the
  // owner's process is watched instead.
  const char* const errors = reach == NixlOptions::Reach::kHost ? "none" : "peer";
  if (const int code = functions.params_add(params.get(), "ucx_error_handling_mode", errors)) {
    return failed(code, "making parameters");
  }
  capi::Backend* backend = nullptr;
  if (const int code = functions.create_backend(engine->agent_, "UCX", params.get(), &backend)) {
    return failed(code, "opening UCX");
  }
  functions.destroy_backend(backend);  // no more than a handle of it
  return engine;
}

Engine::~Engine() {
  if (agent_ != nullptr && fork_count_ == os::fork_count()) functions_.destroy_agent(agent_);
}

Result<Bytes> Engine::metadata_of(capi::RegistrationList* list) {
  void* data = nullptr;
  std::size_t length = 0;
  BEELINE_RETURN_IF_ERROR(
      status_of(functions_.get_local_partial_md(agent_, list, &data, &length, nullptr), "describing memory"));
  const std::unique_ptr<void, void (*)(void*)> held(data, std::free);
  const auto* const begin = static_cast<const std::byte*>(data);
  return Bytes(begin, begin + length);
}

Result<Bytes> Engine::connection() {
  BEELINE_ASSIGN(const auto list, list_of(functions_, nullptr, 0));
  const std::lock_guard guard(mutex_);
  return metadata_of(list.get());
}

Result<Bytes> Engine::add(std::byte* data, std::uint64_t length) {
  BEELINE_ASSIGN(const auto list, list_of(functions_, data, length));
  const std::lock_guard guard(mutex_);
  Added& added = added_[{reinterpret_cast<std::uintptr_t>(data), length}];
  if (added.times++ > 0) return added.metadata;
  Status status = status_of(functions_.register_mem(agent_, list.get(), nullptr), "registering memory");
  if (status) {
    auto metadata = metadata_of(list.get());
    if (metadata) return added.metadata = std::move(*metadata);
    status = metadata.status();
    functions_.deregister_mem(agent_, list.get(), nullptr);
  }
  added_.erase({reinterpret_cast<std::uintptr_t>(data), length});
  return std::move(status).with_context("of " + std::to_string(length) + " bytes");
}

void Engine::remove(std::byte* data, std::uint64_t length) {
  if (fork_count_ != os::fork_count()) return;
  const auto list = list_of(functions_, data, length);
  const std::lock_guard guard(mutex_);
  const auto found = added_.find({reinterpret_cast<std::uintptr_t>(data), length});
  if (found == added_.end() || --found->second.times > 0) return;
  added_.erase(found);
  if (list) functions_.deregister_mem(agent_, list->get(), nullptr);
}

Status Engine::load(BytesView metadata, const std::string& peer) {
  char* loaded = nullptr;
  const std::lock_guard guard(mutex_);
  const int code = functions_.load_remote_md(agent_, metadata.data(), metadata.size(), &loaded);
  const std::unique_ptr<char, void (*)(void*)> name(loaded, std::free);
  BEELINE_RETURN_IF_ERROR(status_of(code, "taking a peer's metadata"));
  if (name != nullptr && peer == name.get()) return Status::ok();
  return {Code::kCorrupt, "metadata of NIXL that are another agent's"};
}

Result<Engine::Request> Engine::start(capi::Operation operation, std::span<const Pair> pairs, const std::string& peer) {
  const auto make = [this]() -> Result<Owned<capi::TransferList>> {
    capi::TransferList* made = nullptr;
    BEELINE_RETURN_IF_ERROR(status_of(functions_.create_xfer_dlist(capi::kHostMemory, &made), "making a list"));
    return Owned<capi::TransferList>(made, functions_.destroy_xfer_dlist);
  };
  BEELINE_ASSIGN(const auto local, make());
  BEELINE_ASSIGN(const auto remote, make());
  int code = capi::kSuccess;
  for (const Pair& pair : pairs) {
    const auto at = reinterpret_cast<std::uintptr_t>(pair.local);
    if (code == 0) code = functions_.xfer_dlist_add_desc(local.get(), at, pair.length, 0);
    if (code == 0) code = functions_.xfer_dlist_add_desc(remote.get(), pair.remote, pair.length, 0);
  }
  BEELINE_RETURN_IF_ERROR(status_of(code, "making a list"));
  const std::lock_guard guard(mutex_);
  capi::Request* handle = nullptr;
  code = functions_.create_xfer_req(agent_, operation, local.get(), remote.get(), peer.c_str(), &handle, nullptr);
  BEELINE_RETURN_IF_ERROR(status_of(code, "making a transfer"));
  code = functions_.post_xfer_req(agent_, handle, nullptr);
  if (code == capi::kInProgress || code == capi::kSuccess) return Request(*this, handle);
  functions_.release_xfer_req(agent_, handle);
  functions_.destroy_xfer_req(handle);
  return status_of(code, "starting a transfer");
}

Engine::Request& Engine::Request::operator=(Request&& other) noexcept {
  if (this != &other) {
    release();
    engine_ = std::exchange(other.engine_, nullptr);
    handle_ = std::exchange(other.handle_, nullptr);
  }
  return *this;
}

Result<bool> Engine::Request::look() {
  const std::lock_guard guard(engine_->mutex_);
  const int code = engine_->functions_.get_xfer_status(engine_->agent_, handle_);
  if (code == capi::kInProgress) return false;
  BEELINE_RETURN_IF_ERROR(status_of(code, "moving bytes"));
  return true;
}

void Engine::Request::release() {
  capi::Request* const handle = std::exchange(handle_, nullptr);
  if (handle == nullptr || engine_->fork_count_ != os::fork_count()) return;
  const std::lock_guard guard(engine_->mutex_);
  const int code = engine_->functions_.release_xfer_req(engine_->agent_, handle);
  if (code == capi::kSuccess) engine_->functions_.destroy_xfer_req(handle);  // else it is NIXL's, for good
}

}  // namespace beeline::transport::nixl
