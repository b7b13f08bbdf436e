#include "beeline/transport/plugin/library.h"

#include <dlfcn.h>

#include <chrono>
#include <utility>
#include <vector>

#include "beeline/transport_plugin.h"

namespace beeline::transport::plugin {
namespace {

static_assert(BEELINE_SYSTEM == static_cast<int>(Code::kSystem) &&
              BEELINE_PEER_LOST == static_cast<int>(Code::kPeerLost));
static_assert(sizeof(beeline_run) == 72 && sizeof(beeline_memory) == 24);

// A code that a library returned, with its message.
Status status_of(std::int32_t code, beeline_failure& failure) {
  if (code == BEELINE_OK) return Status::ok();
  failure.message[sizeof failure.message - 1] = 0;
  std::string message = failure.message[0] != 0 ? failure.message : "failed without a message";
  const bool is_known = code > BEELINE_OK && code <= BEELINE_SYSTEM;
  if (!is_known) message += " (code " + std::to_string(code) + ", which is none of beeline_code)";
  return {is_known ? static_cast<Code>(code) : Code::kSystem, std::move(message)};
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

// Takes what a library writes.
class Sink {
 public:
  Sink() {
    table_.context = this;
    table_.write = [](void* context, const void* data, std::uint64_t size) {
      auto& own = *static_cast<Sink*>(context);
      own.is_too_much_ = own.is_too_much_ || size > kMaxPluginBytes - own.bytes_.size();
      const auto* begin = static_cast<const std::byte*>(data);
      if (!own.is_too_much_) own.bytes_.insert(own.bytes_.end(), begin, begin + size);
    };
  }
  Sink(const Sink&) = delete;

  [[nodiscard]] const beeline_sink* table() const { return &table_; }
  // kResourceExhausted where it wrote more than it may.
  Result<Bytes> take() && {
    if (!is_too_much_) return std::move(bytes_);
    return too_many_plugin_bytes();
  }

 private:
  beeline_sink table_{};
  Bytes bytes_;
  bool is_too_much_ = false;
};

class LibraryExposure final : public PluginExposure {
 public:
  LibraryExposure(const beeline_transport& table, void* engine, void* exposure, Bytes key)
      : PluginExposure(std::move(key)), table_(table), engine_(engine), exposure_(exposure) {}
  ~LibraryExposure() override { table_.withdraw(engine_, exposure_); }

 private:
  const beeline_transport& table_;
  void* const engine_;
  void* const exposure_;
};

class LibraryConnection final : public PluginConnection {
 public:
  LibraryConnection(const beeline_transport& table, void* engine, void* connection, std::string peer)
      : table_(table), engine_(engine), connection_(connection), peer_(std::move(peer)) {}
  ~LibraryConnection() override { table_.disconnect(engine_, connection_); }

  Status transfer(Access access, std::span<const KeyedRun> runs, const os::Wait& wait) override {
    std::vector<beeline_run> asked;
    asked.reserve(runs.size());
    for (const auto& [run, extent] : runs) {
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
    const auto code = table_.transfer(engine_, connection_, access == Access::kRead ? BEELINE_READ : BEELINE_WRITE,
                                      asked.data(), asked.size(), bound.table(), &failure);
    if (code == BEELINE_CANCELLED && bound.was_interrupted()) {
      return {Code::kInterrupted, "a signal ended a transfer with " + peer_};
    }
    return status_of(code, failure);
  }

 private:
  const beeline_transport& table_;
  void* const engine_;
  void* const connection_;
  const std::string peer_;
};

class LibraryEngine final : public PluginEngine {
 public:
  LibraryEngine(const beeline_transport& table, void* engine) : table_(table), engine_(engine) {}
  ~LibraryEngine() override { table_.close(engine_); }

  Result<Bytes> contact() override {
    Sink sink;
    beeline_failure failure{};
    BEELINE_RETURN_IF_ERROR(status_of(table_.contact(engine_, sink.table(), &failure), failure));
    return std::move(sink).take();
  }

  Result<std::unique_ptr<PluginExposure>> expose(std::byte* data, std::uint64_t length, const Device& device,
                                                 Access access) override {
    const beeline_memory memory{data, length, device.type, device.id};
    Sink sink;
    void* exposure = nullptr;
    beeline_failure failure{};
    const auto code =
        table_.expose(engine_, &memory, access == Access::kWrite ? 1 : 0, &exposure, sink.table(), &failure);
    BEELINE_RETURN_IF_ERROR(status_of(code, failure));
    auto key = std::move(sink).take();
    if (!key) {
      table_.withdraw(engine_, exposure);
      return key.status();
    }
    return std::unique_ptr<PluginExposure>(
        std::make_unique<LibraryExposure>(table_, engine_, exposure, std::move(*key)));
  }

  Result<std::unique_ptr<PluginConnection>> connect(const std::string& peer, BytesView contact,
                                                    const os::Wait& wait) override {
    void* connection = nullptr;
    const Bound bound(wait);
    beeline_failure failure{};
    const auto code =
        table_.connect(engine_, peer.c_str(), {contact.data(), contact.size()}, bound.table(), &connection, &failure);
    if (code == BEELINE_CANCELLED && bound.was_interrupted()) {
      return Status(Code::kInterrupted, "a signal ended connecting to " + peer);
    }
    BEELINE_RETURN_IF_ERROR(status_of(code, failure));
    return std::unique_ptr<PluginConnection>(std::make_unique<LibraryConnection>(table_, engine_, connection, peer));
  }

 private:
  const beeline_transport& table_;
  void* const engine_;
};

class Library final : public Plugin {
 public:
  explicit Library(const beeline_transport& table)
      : table_(table),
        traits_{.name = table.name,
                .same_host_only = (table.flags & BEELINE_SAME_HOST_ONLY) != 0,
                .writes = (table.flags & BEELINE_CAN_WRITE) != 0,
                .named_only = false,
                .device_types = table.device_types,
                .expected_gbps = table.expected_gbps} {}

  [[nodiscard]] const Traits& traits() const override { return traits_; }

  Result<std::unique_ptr<PluginEngine>> open(const std::string& agent_name) override {
    void* engine = nullptr;
    beeline_failure failure{};
    BEELINE_RETURN_IF_ERROR(status_of(table_.open(agent_name.c_str(), &engine, &failure), failure));
    if (engine == nullptr) return Status(Code::kSystem, "the engine that was opened is none");
    return std::unique_ptr<PluginEngine>(std::make_unique<LibraryEngine>(table_, engine));
  }

 private:
  const beeline_transport& table_;
  const Traits traits_;
};

}  // namespace

Result<std::shared_ptr<Plugin>> load(const std::string& library) {
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
  return std::shared_ptr<Plugin>(std::make_shared<Library>(*table));
}

}  // namespace beeline::transport::plugin
