// A path that is not of this build, whatever it is written in: a shared library with the ABI of
// beeline/transport_plugin.h, whose rules hold here as well, or what a binding makes of another language's objects.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "beeline/transport/exposures.h"

namespace beeline::transport {

// What a plug-in may write as a contact or a key.
inline constexpr std::uint64_t kMaxPluginBytes = std::uint64_t{1} << 20;
// kResourceExhausted, with the bound.
Status too_many_plugin_bytes();

// Memory that peers reach until this ends; its end returns when none does any more.
class PluginExposure {
 public:
  explicit PluginExposure(Bytes key) : key_(std::move(key)) {}
  virtual ~PluginExposure() = default;
  [[nodiscard]] const Bytes& key() const { return key_; }

 private:
  const Bytes key_;
};

// One peer. Thread-safe.
class PluginConnection {
 public:
  virtual ~PluginConnection() = default;
  // The runs are of one region and one local device. Fails as Endpoint::read() and write().
  virtual Status transfer(Access access, std::span<const KeyedRun> runs, const os::Wait& wait) = 0;
  // As Endpoint::quiet().
  virtual Status quiet(const os::Wait& /*wait*/) { return Status::ok(); }
};

// A plug-in as one agent has opened it. What it has given out ends before it. Thread-safe.
class PluginEngine {
 public:
  virtual ~PluginEngine() = default;
  virtual Result<Bytes> contact() = 0;
  virtual Result<std::unique_ptr<PluginExposure>> expose(std::byte* data, std::uint64_t length, const Device& device,
                                                         Access access) = 0;
  virtual Result<std::unique_ptr<PluginConnection>> connect(const std::string& peer, BytesView contact,
                                                            const os::Wait& wait) = 0;
  // As Exporter::count_refusals_in().
  virtual void count_refusals_in(SharedCount /*refused*/) {}
};

// Thread-safe.
class Plugin {
 public:
  struct Traits {
    std::string name;
    bool same_host_only = false;
    bool writes = false;
    bool named_only = false;         // taken only by callers who name it
    std::uint64_t device_types = 0;  // as Capabilities::device_types
    double expected_gbps = 0;
  };
  virtual ~Plugin() = default;
  [[nodiscard]] virtual const Traits& traits() const = 0;
  virtual Result<std::unique_ptr<PluginEngine>> open(const std::string& agent_name) = 0;
};

}  // namespace beeline::transport
