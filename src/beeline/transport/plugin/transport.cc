#include "beeline/transport/plugin/transport.h"

#include <mutex>
#include <utility>
#include <vector>

#include "beeline/os/fork_count.h"

namespace beeline::transport {

Status too_many_plugin_bytes() {
  return {Code::kResourceExhausted,
          "the plug-in wrote more than " + std::to_string(kMaxPluginBytes) + " bytes as a contact or a key"};
}

namespace plugin {
namespace {

// In a child of fork() what a plug-in has made is the parent's.
struct UnlessForked {
  std::uint64_t fork_count = os::fork_count();
  template <typename T>
  void operator()(T* own) const {
    if (fork_count == os::fork_count()) delete own;
  }
};
using Connection = std::unique_ptr<PluginConnection, UnlessForked>;

// A plug-in, opened when something first needs it, and all that was exposed by it. Thread-safe.
class Engine final : public Exporter {
 public:
  Engine(std::shared_ptr<Plugin> plugin, std::string agent_name)
      : plugin_(std::move(plugin)), agent_name_(std::move(agent_name)) {}

  [[nodiscard]] const Plugin::Traits& traits() const { return plugin_->traits(); }

  Result<PluginEngine*> open() {
    const std::lock_guard guard(mutex_);
    if (engine_ == nullptr) {
      auto opened = plugin_->open(agent_name_);
      BEELINE_RETURN_IF_ERROR(opened.status().with_context("while opening an engine"));
      engine_ = {opened->release(), UnlessForked()};
      if (refused_ != nullptr) engine_->count_refusals_in(refused_);
    }
    return engine_.get();
  }

  Result<Bytes> contact() override {
    BEELINE_ASSIGN(PluginEngine* const engine, open());
    auto contact = engine->contact();
    if (!contact) return contact.status().with_context("while asking an engine for its contact");
    return contact;
  }

  Result<Bytes> key(memory::PublicationId id, const RegionSource::Held& held, Access access) override {
    const auto& device = held.device;
    if ((traits().device_types >> static_cast<unsigned>(device.type) & 1) == 0) {
      return Status(Code::kUnsupported, "it does not reach memory of device type " + std::to_string(device.type));
    }
    if (access == Access::kWrite && !traits().writes) return Status(Code::kUnsupported, "it does not write");
    BEELINE_ASSIGN(PluginEngine* const engine, open());
    return exposures_.key(id, held, access, [&](std::byte* data, std::uint64_t length) -> Result<Exposures::Exposed> {
      auto exposed = engine->expose(data, length, device, access);
      if (!exposed) return exposed.status().with_context("while exposing " + std::to_string(length) + " bytes");
      Bytes key = (*exposed)->key();
      return Exposures::Exposed{std::shared_ptr<void>(exposed->release(), UnlessForked()), std::move(key)};
    });
  }

  void withdraw(memory::PublicationId id) override { exposures_.withdraw(id); }

  void count_refusals_in(SharedCount refused) override {
    const std::lock_guard guard(mutex_);
    refused_ = std::move(refused);
  }

 private:
  const std::shared_ptr<Plugin> plugin_;
  const std::string agent_name_;
  std::mutex mutex_;
  SharedCount refused_;                   // needs mutex_
  std::shared_ptr<PluginEngine> engine_;  // needs mutex_ until it is set
  Exposures exposures_;                   // below the engine: ends before it does
};

class PluginEndpoint final : public Endpoint {
 public:
  PluginEndpoint(std::shared_ptr<Engine> own, std::unique_ptr<PluginConnection> connection, const PeerFacts& peer)
      : own_(std::move(own)), connection_(connection.release()), keys_(*peer.owner, own_->traits().name) {}

  Status read(std::span<const Run> runs, const os::Wait& wait) override { return transfer(runs, Access::kRead, wait); }
  Status write(std::span<const Run> runs, const os::Wait& wait) override {
    return transfer(runs, Access::kWrite, wait);
  }
  Status quiet(const os::Wait& wait) override { return connection_->quiet(wait); }

 private:
  Status transfer(std::span<const Run> runs, Access access, const os::Wait& wait) {
    std::vector<KeyedRun> pieces;
    std::vector<std::shared_ptr<const Keys::Extents>> kept;
    const auto open = [](const ExtentKey& /*extent*/) -> Result<std::shared_ptr<void>> {
      return std::shared_ptr<void>();
    };
    BEELINE_RETURN_IF_ERROR(keys_.append_pieces(runs, access, open, wait, pieces, kept));
    return connection_->transfer(access, pieces, wait)
        .with_context("while moving " + std::to_string(bytes_of(runs)) + " bytes");
  }

  const std::shared_ptr<Engine> own_;
  const Connection connection_;
  Keys keys_;
};

class PluginTransport final : public Transport {
 public:
  PluginTransport(std::shared_ptr<Plugin> plugin, const std::string& agent_name)
      : engine_(std::make_shared<Engine>(std::move(plugin), agent_name)),
        capabilities_{.same_host_only = engine_->traits().same_host_only,
                      .arena_only = false,
                      .maps = false,
                      .writes = engine_->traits().writes,
                      .named_only = engine_->traits().named_only,
                      .device_types = engine_->traits().device_types,
                      .expected_gbps = engine_->traits().expected_gbps} {}

  [[nodiscard]] std::string_view name() const override { return engine_->traits().name; }
  [[nodiscard]] const Capabilities& capabilities() const override { return capabilities_; }
  [[nodiscard]] Exporter* exporter() const override { return engine_.get(); }

  [[nodiscard]] Status reaches(const PeerFacts& peer, const Region& region) const override {
    if (capabilities_.same_host_only && !peer.same_host()) return {Code::kUnsupported, "the peer is not on this host"};
    if (capabilities_.serves(region.device)) return Status::ok();
    return {Code::kUnsupported, "it does not reach memory of device type " + std::to_string(region.device.type)};
  }

  Result<std::unique_ptr<Endpoint>> connect(const PeerFacts& peer, const os::Wait& wait) const override {
    BEELINE_ASSIGN(PluginEngine* const engine, engine_->open());
    BEELINE_ASSIGN(const Bytes contact, peer.owner->contact(name(), wait));
    auto connection = engine->connect(peer.name, contact, wait);
    if (!connection) return connection.status().with_context("while connecting");
    return std::unique_ptr<Endpoint>(std::make_unique<PluginEndpoint>(engine_, std::move(*connection), peer));
  }

 private:
  std::shared_ptr<Engine> engine_;
  Capabilities capabilities_;
};

}  // namespace

std::unique_ptr<Transport> make(std::shared_ptr<Plugin> plugin, const std::string& agent_name) {
  return std::make_unique<PluginTransport>(std::move(plugin), agent_name);
}

}  // namespace plugin
}  // namespace beeline::transport
