// An agent of NIXL with UCX as its back end: what of this process it reaches, and what of others.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>

#include "beeline/base/bytes.h"
#include "beeline/base/msgpack.h"
#include "beeline/base/status.h"
#include "beeline/os/fork_count.h"
#include "beeline/transport/nixl/capi.h"
#include "beeline/transport/nixl_options.h"

namespace beeline::transport::nixl {

// By what an owner's engine is found.
struct Contact {
  std::uint32_t format = kFormat;
  std::string version;     // of its NIXL, whose metadata others read; empty: unknown
  std::uint8_t reach = 0;  // NixlOptions::Reach
  std::string name;        // of its agent of NIXL
  Bytes metadata;          // NIXL's: how to connect
  MSGPACK_DEFINE_ARRAY(format, version, reach, name, metadata)

  static constexpr std::uint32_t kFormat = 1;
};

// By what an extent is reached.
struct ExtentContact {
  std::uint64_t address = 0;  // of its first byte in the owner
  Bytes metadata;             // NIXL's, of this extent alone
  MSGPACK_DEFINE_ARRAY(address, metadata)
};

// Bytes of a transfer: one run on either side.
struct Pair {
  std::byte* local = nullptr;
  std::uint64_t remote = 0;
  std::uint64_t length = 0;
};

// Thread-safe; calls wait for each other, none waits for a peer. In a child of fork() it is the parent's, and does
// nothing at its end.
class Engine {
 public:
  enum class Role : std::uint8_t {
    kOwner,   // peers reach its memory: a thread of NIXL answers them
    kReader,  // reaches others': moves on when it is asked for how far it has come
  };
  // kUnsupported where NIXL's agent or UCX does not open.
  static Result<std::unique_ptr<Engine>> open(const capi::Functions& functions, NixlOptions::Reach reach, Role role);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  [[nodiscard]] const std::string& name() const { return name_; }
  // NIXL's metadata by which peers connect.
  Result<Bytes> connection();

  // Registers memory, and gives the metadata by which peers reach it. The same memory may be added several times; it is
  // registered until it was removed as often.
  Result<Bytes> add(std::byte* data, std::uint64_t length);
  void remove(std::byte* data, std::uint64_t length);

  // Takes a peer's metadata. kCorrupt for those that are none, or are another peer's.
  Status load(BytesView metadata, const std::string& peer);

  // A transfer of some pairs. Outlived by the engine.
  class Request {
   public:
    Request() = default;
    Request(Request&& other) noexcept
        : engine_(std::exchange(other.engine_, nullptr)), handle_(std::exchange(other.handle_, nullptr)) {}
    Request& operator=(Request&& other) noexcept;
    ~Request() { release(); }

    [[nodiscard]] bool is_live() const { return handle_ != nullptr; }
    // Moves on, and says whether it is done. kSystem, or kPeerLost where the engine has lost its peer: then what of it
    // was under way may still move until the engine ends.
    Result<bool> look();
    // Lets go of it. NIXL does not stop what is under way: whoever lets go before it is done keeps the local memory
    // until the engine has ended.
    void release();

   private:
    friend class Engine;
    Request(Engine& engine, capi::Request* handle) : engine_(&engine), handle_(handle) {}
    Engine* engine_ = nullptr;
    capi::Request* handle_ = nullptr;
  };
  // Of memory that was added here, and of the peer's that was loaded.
  Result<Request> start(capi::Operation operation, std::span<const Pair> pairs, const std::string& peer);

 private:
  struct Added {
    std::uint64_t times = 0;
    Bytes metadata;
  };

  explicit Engine(const capi::Functions& functions) : functions_(functions) {}
  Result<Bytes> metadata_of(capi::RegistrationList* list);  // needs mutex_

  const capi::Functions& functions_;
  const std::uint64_t fork_count_ = os::fork_count();
  std::string name_;
  std::mutex mutex_;
  capi::Agent* agent_ = nullptr;                                     // needs mutex_, as NIXL's agent does
  std::map<std::pair<std::uintptr_t, std::uint64_t>, Added> added_;  // needs mutex_; by address and length
};

}  // namespace beeline::transport::nixl
