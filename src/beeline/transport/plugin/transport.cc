#include "beeline/transport/plugin/transport.h"

#include <dlfcn.h>

#include <chrono>
#include <mutex>
#include <utility>
#include <vector>

#include "beeline/os/fork_count.h"
#include "beeline/transport/exposures.h"
#include "beeline/transport_plugin.h"

namespace beeline::transport::plugin {
namespace {

static_assert(BEELINE_SYSTEM == static_cast<int>(Code::kSystem) &&
              BEELINE_PEER_LOST == static_cast<int>(Code::kPeerLost));
static_assert(sizeof(beeline_run) == 72 && sizeof(beeline_memory) == 24);

// A code that a library returned, with its message.
Status status_of(std::int32_t code, beeline_failure& failure, const std::string& what) {
  if (code == BEELINE_OK) return Status::ok();
  failure.message[sizeof failure.message - 1] = 0;
  std::string message = failure.message[0] != 0 ? failure.message : "failed without a message";
  const bool is_known = code > BEELINE_OK && code <= BEELINE_SYSTEM;
  if (!is_known) message += " (code " + std::to_string(code) + ", which is none of beeline_code)";
  return Status(is_known ? static_cast<Code>(code) : Code::kSystem, std::move(message)).with_context(what);
}

// A wait as a library asks for it.
class Bound {
 public:
  explicit Bound(const os::Wait& wait) : wait_(wait) {
    table_.context = this;
    table_.left_ns = [](void* context) -> std::int64_t {
      return static_cast<const Bound*>(context)->wait_.deadline.left().count();
    };
    table_.check = [](void* context) { return static_cast<Bound*>(context)->check(); };
  }
  Bound(const Bound&) = delete;

  [[nodiscard]] const beeline_wait* table() const { return &table_; }
  [[nodiscard]] bool was_interrupted() const { return was_interrupted_; }

 private:
  // Whether a signal came cannot be seen here, and asking what its handler did may wait for the GIL: now and then.
  static constexpr auto kAskEvery = std::chrono::milliseconds(100);

  std::int32_t check() {
    if (const auto now = Clock::now(); now - asked_at_ >= kAskEvery) {
      asked_at_ = now;
      was_interrupted_ = was_interrupted_ || wait_.is_interrupted();
    }
    return was_interrupted_ ? BEELINE_CANCELLED : static_cast<std::int32_t>(wait_.check().code());
  }

  const os::Wait& wait_;
  beeline_wait table_{};
  Clock::time_point asked_at_ = Clock::now();
  bool was_interrupted_ = false;
};

// What a library may write.
constexpr std::uint64_t kMaxSinkBytes = std::uint64_t{1} << 20;

// Takes what a library writes.
class Sink {
 public:
  Sink() {
    table_.context = this;
    table_.write = [](void* context, const void* data, std::uint64_t size) {
      auto& own = *static_cast<Sink*>(context);
      own.is_too_much_ = own.is_too_much_ || size > kMaxSinkBytes - own.bytes_.size();
      const auto* begin = static_cast<const std::byte*>(data);
      if (!own.is_too_much_) own.bytes_.insert(own.bytes_.end(), begin, begin + size);
    };
  }
  Sink(const Sink&) = delete;

  [[nodiscard]] const beeline_sink* table() const { return &table_; }
  // kResourceExhausted where it wrote more than it may.
  Result<Bytes> take() && {
    if (!is_too_much_) return std::move(bytes_);
    return Status(Code::kResourceExhausted,
                  "the plug-in wrote more than " + std::to_string(kMaxSinkBytes) + " bytes as a contact or a key");
  }

 private:
  beeline_sink table_{};
  Bytes bytes_;
  bool is_too_much_ = false;
};

// A library's engine, opened when something first needs it, and all that was exposed by it. Thread-safe.
class Engine final : public Exporter, public std::enable_shared_from_this<Engine> {
 public:
  Engine(const beeline_transport& table, std::string agent_name) : table_(table), agent_name_(std::move(agent_name)) {}

  [[nodiscard]] const beeline_transport& table() const { return table_; }

  Result<void*> open() {
    const std::lock_guard guard(mutex_);
    if (engine_ != nullptr) return engine_.get();
    beeline_failure failure{};
    void* opened = nullptr;
    BEELINE_RETURN_IF_ERROR(
        status_of(table_.open(agent_name_.c_str(), &opened, &failure), failure, "while opening an engine"));
    if (opened == nullptr) return Status(Code::kSystem, "the engine that was opened is none");
    engine_ = {opened, [this](void* engine) {
                 // In a child of fork() it is the parent's.
                 if (fork_count_ == os::fork_count()) table_.close(engine);
               }};
    return opened;
  }

  Result<Bytes> contact() override {
    BEELINE_ASSIGN(void* const engine, open());
    Sink sink;
    beeline_failure failure{};
    BEELINE_RETURN_IF_ERROR(
        status_of(table_.contact(engine, sink.table(), &failure), failure, "while asking an engine for its contact"));
    return std::move(sink).take();
  }

  Result<Bytes> key(memory::PublicationId id, const RegionSource::Held& held, Access access) override {
    const auto& device = held.device;
    if ((table_.device_types >> static_cast<unsigned>(device.type) & 1) == 0) {
      return Status(Code::kUnsupported, "it does not reach memory of device type " + std::to_string(device.type));
    }
    if (access == Access::kWrite && (table_.flags & BEELINE_CAN_WRITE) == 0) {
      return Status(Code::kUnsupported, "it does not write");
    }
    BEELINE_ASSIGN(void* const engine, open());
    return exposures_.key(id, held, access, [&](std::byte* data, std::uint64_t length) -> Result<Exposures::Exposed> {
      const beeline_memory memory{data, length, device.type, device.id};
      Exposures::Exposed exposed;
      Sink sink;
      void* exposure = nullptr;
      beeline_failure failure{};
      const auto code =
          table_.expose(engine, &memory, access == Access::kWrite ? 1 : 0, &exposure, sink.table(), &failure);
      BEELINE_RETURN_IF_ERROR(status_of(code, failure, "while exposing " + std::to_string(length) + " bytes"));
      exposed.handle = {exposure, [this, engine](void* handle) {
                          if (fork_count_ == os::fork_count()) table_.withdraw(engine, handle);
                        }};
      BEELINE_ASSIGN(exposed.key, std::move(sink).take());
      return exposed;
    });
  }

  void withdraw(memory::PublicationId id) override { exposures_.withdraw(id); }

 private:
  const beeline_transport& table_;
  const std::string agent_name_;
  const std::uint64_t fork_count_ = os::fork_count();
  std::mutex mutex_;
  std::shared_ptr<void> engine_;  // needs mutex_ until it is set
  Exposures exposures_;           // below the engine: ends before it does
};

class PluginEndpoint final : public Endpoint {
 public:
  PluginEndpoint(std::shared_ptr<Engine> own, void* engine, void* connection, const PeerFacts& peer)
      : own_(std::move(own)),
        engine_(engine),
        connection_(connection),
        peer_name_(peer.name),
        keys_(*peer.owner, own_->table().name) {}
  ~PluginEndpoint() override {
    if (fork_count_ == os::fork_count()) own_->table().disconnect(engine_, connection_);
  }

  Status read(std::span<const Run> runs, const os::Wait& wait) override {
    return transfer(runs, Access::kRead, BEELINE_READ, wait);
  }
  Status write(std::span<const Run> runs, const os::Wait& wait) override {
    return transfer(runs, Access::kWrite, BEELINE_WRITE, wait);
  }

 private:
  Status transfer(std::span<const Run> runs, Access access, std::int32_t operation, const os::Wait& wait) {
    std::vector<KeyedRun> pieces;
    std::vector<std::shared_ptr<const Keys::Extents>> kept;
    const auto open = [](const ExtentKey& /*extent*/) -> Result<std::shared_ptr<void>> {
      return std::shared_ptr<void>();
    };
    BEELINE_RETURN_IF_ERROR(keys_.append_pieces(runs, access, open, wait, pieces, kept));
    std::vector<beeline_run> asked;
    asked.reserve(pieces.size());
    for (const auto& [run, extent] : pieces) {
      asked.push_back({{extent->key.data(), extent->key.size()},
                       run.offset,
                       run.local,
                       run.length,
                       run.count,
                       run.stride,
                       run.local_stride,
                       run.local_device.type,
                       run.local_device.id});
    }
    const Bound bound(wait);
    beeline_failure failure{};
    const auto code =
        own_->table().transfer(engine_, connection_, operation, asked.data(), asked.size(), bound.table(), &failure);
    if (code == BEELINE_CANCELLED && bound.was_interrupted()) {
      return {Code::kInterrupted, "a signal ended a transfer with " + peer_name_};
    }
    return status_of(code, failure, "while moving " + std::to_string(bytes_of(runs)) + " bytes");
  }

  const std::shared_ptr<Engine> own_;
  void* const engine_;
  void* const connection_;
  const std::string peer_name_;
  const std::uint64_t fork_count_ = os::fork_count();
  Keys keys_;
};

class PluginTransport final : public Transport {
 public:
  PluginTransport(const beeline_transport& table, const std::string& agent_name)
      : engine_(std::make_shared<Engine>(table, agent_name)),
        capabilities_{.same_host_only = (table.flags & BEELINE_SAME_HOST_ONLY) != 0,
                      .arena_only = false,
                      .maps = false,
                      .writes = (table.flags & BEELINE_CAN_WRITE) != 0,
                      .device_types = table.device_types,
                      .expected_gbps = table.expected_gbps} {}

  [[nodiscard]] std::string_view name() const override { return engine_->table().name; }
  [[nodiscard]] const Capabilities& capabilities() const override { return capabilities_; }
  [[nodiscard]] Exporter* exporter() const override { return engine_.get(); }

  [[nodiscard]] Status reaches(const PeerFacts& peer, const Region& region) const override {
    if (capabilities_.same_host_only && !peer.same_host()) return {Code::kUnsupported, "the peer is not on this host"};
    if (capabilities_.serves(region.device)) return Status::ok();
    return {Code::kUnsupported, "it does not reach memory of device type " + std::to_string(region.device.type)};
  }

  Result<std::unique_ptr<Endpoint>> connect(const PeerFacts& peer, const os::Wait& wait) const override {
    BEELINE_ASSIGN(void* const engine, engine_->open());
    BEELINE_ASSIGN(const Bytes contact, peer.owner->contact(name(), wait));
    void* connection = nullptr;
    const Bound bound(wait);
    beeline_failure failure{};
    const auto code = engine_->table().connect(engine, peer.name.c_str(), {contact.data(), contact.size()},
                                               bound.table(), &connection, &failure);
    if (code == BEELINE_CANCELLED && bound.was_interrupted()) {
      return Status(Code::kInterrupted, "a signal ended connecting to " + peer.name);
    }
    BEELINE_RETURN_IF_ERROR(status_of(code, failure, "while connecting"));
    return std::unique_ptr<Endpoint>(std::make_unique<PluginEndpoint>(engine_, engine, connection, peer));
  }

 private:
  std::shared_ptr<Engine> engine_;
  Capabilities capabilities_;
};

}  // namespace

Result<std::unique_ptr<Transport>> load(const std::string& library, const std::string& agent_name) {
  // Never closed: threads of its own may run on.
  void* const handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  const auto failed = [&](Code code, const std::string& why) {
    return Status(code, "transport plug-in " + library + ": " + why);
  };
  if (handle == nullptr) return Status(Code::kUnsupported, std::string("transport plug-in ") + ::dlerror());
  const auto entry = reinterpret_cast<const beeline_transport* (*)()>(::dlsym(handle, "beeline_transport_plugin"));
  if (entry == nullptr) {
    return failed(Code::kUnsupported, "it exports no beeline_transport_plugin(): see beeline/transport_plugin.h");
  }
  const beeline_transport* const table = entry();
  if (table == nullptr || table->abi != BEELINE_TRANSPORT_ABI || table->size != sizeof(beeline_transport)) {
    return failed(Code::kUnsupported, "it was built for another ABI than " + std::to_string(BEELINE_TRANSPORT_ABI) +
                                          ": build it with this release's beeline/transport_plugin.h");
  }
  const bool is_complete = table->name != nullptr && table->name[0] != 0 && table->open && table->close &&
                           table->contact && table->expose && table->withdraw && table->connect && table->disconnect &&
                           table->transfer;
  if (!is_complete) return failed(Code::kInvalidArgument, "its table lacks a name or a function");
  return std::unique_ptr<Transport>(std::make_unique<PluginTransport>(*table, agent_name));
}

}  // namespace beeline::transport::plugin
