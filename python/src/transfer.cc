// Agents of the transfer engine: registering tensors, fetching, mapping and filling those of others. Raw, as
// beeline.transfer uses it: tensors and references come in lists.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "agent_options.h"
#include "beeline/transfer/agent.h"
#include "beeline/transfer/batch.h"
#include "beeline/transfer/checksum.h"
#include "beeline/transfer/fetch.h"
#include "beeline/transfer/registered.h"
#include "beeline/transfer/writing.h"
#include "bindings.h"
#include "devices.h"
#include "dicts.h"
#include "incoming.h"
#include "installed_engines.h"
#include "local_tensors.h"
#include "notifications.h"
#include "python_transports.h"
#include "runner.h"
#include "waits.h"
#include "warn.h"

namespace beeline::python {
namespace {

using transfer::Descriptor;
using transfer::DType;
using transfer::RemoteTensor;
using transfer::TensorSpec;

// References and what keeps them registered, if they are this process's own.
struct TensorRefs {
  std::shared_ptr<const Descriptor> descriptor;
  std::shared_ptr<transfer::Registration> registration;
};
struct TensorRef {
  RemoteTensor remote;
  std::shared_ptr<transfer::Registration> registration;
};

// What Python holds, and whose end may wait for a plug-in or a thread that waits for the GIL.
template <typename T>
std::shared_ptr<T> ending_without_gil(std::shared_ptr<T> own) {
  if (own == nullptr) return nullptr;
  T* const held = own.get();
  return {held, [own = std::move(own)](T*) mutable {
            if (PyGILState_Check() == 0) return own.reset();
            without_gil([&] { own.reset(); });
          }};
}

// (dtype code, bits, lanes, shape)
using TensorRow = std::tuple<int, int, int, std::vector<std::int64_t>>;

// The newest version that is larger than a number: (number, references); number 0 when there is none.
using Numbered = std::pair<std::uint64_t, std::optional<TensorRefs>>;
Numbered numbered(transfer::Version version) {
  if (version.number == 0) return {0, std::nullopt};
  return {version.number, TensorRefs{std::move(version.tensors), ending_without_gil(std::move(version.copy))}};
}

class PySubscription {
 public:
  PySubscription(std::shared_ptr<transfer::Subscription> subscription, bool relays)
      : subscription_(ending_without_gil(std::move(subscription))), relays_(relays) {}

  [[nodiscard]] Numbered latest() const {
    return numbered(relays_ ? subscription_->nearest_latest() : subscription_->latest());
  }
  [[nodiscard]] Numbered newer_than(std::uint64_t number, std::optional<double> timeout_s) const {
    const auto wait = wait_for(timeout_s);
    auto version = without_gil([&] {
      return relays_ ? subscription_->nearest_newer_than(number, wait) : subscription_->newer_than(number, wait);
    });
    require(version.status(), "wait for a version");
    return numbered(std::move(*version));
  }
  [[nodiscard]] bool needs_copies() const { return relays_ && subscription_->relay()->needs_copies(); }

 private:
  std::shared_ptr<transfer::Subscription> subscription_;
  bool relays_;
};

class PyBatch {
 public:
  PyBatch(std::unique_ptr<transfer::Batch> batch, nb::list targets, const std::shared_ptr<transfer::Agent>& agent,
          std::vector<transport::Device> devices)
      : targets_(std::move(targets)),
        batch_(ending_without_gil(std::shared_ptr<transfer::Batch>(std::move(batch)))),
        agent_(agent),
        devices_(std::move(devices)) {}

  void run(std::optional<double> timeout_s) {
    const auto wait = wait_for(timeout_s);
    if (const auto agent = devices_.empty() ? nullptr : agent_.lock()) settle(*agent, devices_, wait);
    const Status status = without_gil([&] { return batch_->run(wait); });
    require(status, "fetch a batch of " + std::to_string(nb::len(targets_)) + " tensors, " +
                        std::to_string(batch_->bytes()) + " bytes");
  }
  [[nodiscard]] std::uint64_t bytes() const { return batch_->bytes(); }

 private:
  nb::list targets_;  // what owns the memory that is borrowed
  std::shared_ptr<transfer::Batch> batch_;
  std::weak_ptr<transfer::Agent> agent_;    // whose end a batch does not hold up
  std::vector<transport::Device> devices_;  // that the targets lie on
};

// Writes in place, from their beginning on.
struct PyWriting {
  std::shared_ptr<void> until_it_ends;

  void end() {
    without_gil([&] { until_it_ends.reset(); });
  }
};

class PyAgent {
 public:
  PyAgent(const std::string& name, const std::string& folder, bool share_memory, const std::optional<std::string>& tcp,
          const std::string& advertise, const std::string& token, const std::optional<TlsRow>& tls,
          std::vector<std::string> plugins, std::uint64_t quota_bytes, std::string ucx_library,
          std::string nccl_library, const std::pair<std::string, int>& nixl, const std::vector<FaultRow>& faults,
          const std::vector<TransportRow>& transports) {
    transfer::Agent::Options options;
    options.name = name;
    options.folder = folder;
    options.share_memory = share_memory;
    options.advertise = advertise;
    options.token = token;
    if (tls) options.tls = tls_of(*tls);
    options.plugins = std::move(plugins);
    options.plugin_objects = plugins_of(transports);
    options.ucx_library = std::move(ucx_library);
    options.nccl_library = std::move(nccl_library);
    options.nixl = nixl_of(nixl);
    options.warn = warn;
    for (const FaultRow& row : faults) options.faults.push_back(fault_of(row));
    if (runtime::Process* running = process_or_null()) {
      if (quota_bytes > 0) {
        throw nb::value_error(
            "quota_bytes: this process has a session, whose arena its agents use: init(object_store_memory=...)");
      }
      options.arena = running->arena();
    }
    auto opened = [&]() -> Result<std::shared_ptr<transfer::Agent>> {
      if (tcp) {
        BEELINE_ASSIGN(options.tcp, os::TcpAddress::parse(*tcp));
      }
      if (quota_bytes > 0) {
        BEELINE_ASSIGN(options.arena, memory::Arena::open_with_quota(quota_bytes));
      }
      return without_gil([&] { return transfer::Agent::open(std::move(options)); });
    }();
    require(opened.status(), "open an agent");
    // Its end waits for its threads, and those may wait for the GIL.
    agent_ = std::shared_ptr<transfer::Agent>(opened->get(), [own = *opened](transfer::Agent*) mutable {
      if (PyGILState_Check() == 0) return own.reset();
      without_gil([&] { own.reset(); });
    });
    opened->reset();
  }
  ~PyAgent() { close(); }
  PyAgent(const PyAgent&) = delete;

  void close() { agent_.reset(); }

  [[nodiscard]] std::string address() const { return agent()->address().text(); }

  TensorRefs add(const nb::list& tensors, std::vector<std::string> names, bool with_checksums,
                 std::optional<std::uintptr_t> stream, const std::string& path) {
    const auto own = agent();
    auto schema = std::make_shared<transfer::Schema>();
    schema->tensors.reserve(nb::len(tensors));  // sources point there
    std::vector<transfer::Source> sources;
    sources.reserve(nb::len(tensors));
    nb::list kept;
    for (const nb::handle tensor : tensors) {
      Described described = describe(tensor, false);
      const TensorSpec& spec = schema->tensors.emplace_back(std::move(described.spec));
      sources.push_back({&spec, described.data, described.device});
      if (!described.device.is_host()) {
        require(own->check({described.data, spec.bytes(), described.device}), "register " + transfer::text_of(spec));
      }
      if (!transfer::is_pinned(*own->arena(), sources.back())) kept.append(owner_of(tensor));
    }
    auto registered = transfer::register_tensors(*own->regions(), own->address().text(), std::move(schema), sources,
                                                 std::move(names), keep(std::move(kept)), with_checksums);
    require(registered.status(), "register " + std::to_string(sources.size()) + " tensors");
    TensorRefs refs{std::move(registered->tensors), ending_without_gil(std::move(registered->registration))};
    announce(refs, stream);
    if (!path.empty()) give_keys(refs, path);
    return refs;
  }

  // Whoever reads by that path need not ask for them.
  void give_keys(TensorRefs& refs, const std::string& path) {
    auto keys = without_gil([&, own = agent()] { return own->keys(refs.descriptor->regions, path); });
    require(keys.status(), "register tensors for the path \"" + path + "\"");
    auto given = std::make_shared<transfer::Descriptor>(*refs.descriptor);
    given->keys = std::move(*keys);
    refs.descriptor = std::move(given);
  }

  // What a stream holds by now comes before what peers read from now on; without one, torch's current stream.
  void announce(const TensorRefs& refs, std::optional<std::uintptr_t> stream) {
    if (refs.registration == nullptr) return;  // its owner's devices
    for (const auto& region : refs.descriptor->regions) {
      if (region.device.is_host()) continue;
      const std::uintptr_t named = stream ? *stream : current_stream(region.device);
      require(without_gil([&, own = agent()] { return own->announce(region.device, named); }), "register tensors");
    }
  }

  // A row-major tensor in the arena; its content is undefined.
  nb::object empty(const TensorRow& row) const {
    const auto& [code, bits, lanes, shape] = row;
    const TensorSpec spec{dtype_of({code, bits, lanes}), shape, {}};
    require(transfer::check(spec), "make a tensor");
    return make_tensor(agent()->arena(), spec, 1).first;
  }

  // As what a fetch of that tensor fills in the host's memory.
  nb::object make(const TensorRef& ref, const DTypeRow& dtype) const {
    const TensorSpec& remote = ref.remote.spec;
    return make_tensor(agent()->arena(), {dtype_of(dtype), remote.shape, transfer::preserved_strides(remote)}).first;
  }

  // The device of a tensor of another agent as this process numbers it: (type, id), as DLPack's.
  std::pair<int, int> device_here(const TensorRef& ref, std::optional<double> timeout_s) {
    const auto wait = wait_for(timeout_s);
    const auto found = peer(ref.remote.descriptor->owner, wait);
    const auto device = without_gil([&] { return found->here(ref.remote.home(), wait); });
    require(device.status(), "find the device of a tensor of agent \"" + found->address().name + "\"");
    return {device->type, device->id};
  }

  PyWriting begin_write(const TensorRefs& refs, std::optional<double> timeout_s) {
    const auto wait = wait_for(timeout_s);
    auto begun = without_gil(
        [&, own = agent()] { return transfer::begin_write(*own, *refs.descriptor, refs.registration, wait); });
    require(begun.status(), "begin to write");
    return PyWriting{std::move(*begun)};
  }

  void grant(const TensorRefs& refs, const std::string& to) {
    const auto parsed = transfer::Address::parse(to);
    require(parsed.status(), "grant");
    for (const auto& region : refs.descriptor->regions) {
      require(agent()->regions()->grant(region.id, parsed->id), "grant " + parsed->name + " the right to write");
    }
  }

  std::uint64_t publish(const std::string& name, const nb::list& tensors, std::vector<std::string> names,
                        std::uint64_t number, std::size_t keep, bool with_checksums, bool single, std::size_t fan_out) {
    std::vector<Described> described;
    for (const nb::handle tensor : tensors) described.push_back(describe(tensor, false));
    std::vector<transfer::Source> sources;
    for (const auto& each : described) sources.push_back({&each.spec, each.data, each.device});
    auto published = without_gil([&, own = agent()]() -> Result<std::uint64_t> {
      BEELINE_ASSIGN(auto snapshot, transfer::take_snapshot(*own->arena(), *own->regions(), own->address().text(),
                                                            sources, std::move(names), with_checksums, single));
      return own->publish(name, number, std::move(snapshot), keep, fan_out);
    });
    require(published.status(), "publish \"" + name + "\"");
    return *published;
  }

  void withdraw(const std::string& name) {
    without_gil([&, own = agent()] { own->withdraw(name); });
  }

  PySubscription subscribe(const std::string& address, const std::string& name, bool relays,
                           std::optional<double> timeout_s) {
    const auto wait = wait_for(timeout_s);
    auto subscription = without_gil([&, own = agent()] { return own->subscribe(address, name, wait, relays); });
    require(subscription.status(), "subscribe to \"" + name + "\"");
    return {std::move(*subscription), relays};
  }

  void connect(const std::string& address, std::optional<double> timeout_s) { peer(address, wait_for(timeout_s)); }

  // Fills `targets`, or new tensors where there are none; (values, scales) for each that is quantised.
  nb::list fetch(const std::vector<const TensorRef*>& refs, std::optional<nb::list> targets, const DTypeRows& dtypes,
                 const BlockRow& block, const std::string& path, double min_gbps, bool verify,
                 std::optional<double> timeout_s, const os::Cancellation* cancellation) {
    const auto wait = wait_for(timeout_s, cancellation);
    const Incoming incoming = make_incoming(refs, targets, dtypes, block);
    settle(*agent(), devices_of(incoming.copies), wait);
    move(incoming.copies, {path, min_gbps, verify}, wait, "fetch", transfer::fetch);
    return incoming.tensors;
  }

  PyBatch prepare(const std::vector<const TensorRef*>& refs, nb::list targets, const DTypeRows& dtypes,
                  const BlockRow& block, const std::string& path, double min_gbps, std::optional<double> timeout_s) {
    const auto wait = wait_for(timeout_s);
    if (refs.empty()) throw nb::value_error("a batch of no tensors");
    const Incoming incoming = make_incoming(refs, std::move(targets), dtypes, block);
    const auto& copies = incoming.copies;
    const auto found = peer_of(copies, wait);
    auto prepared = without_gil([&] { return transfer::Batch::prepare(found, copies, {path, min_gbps}, wait); });
    require(prepared.status(), "prepare a batch of " + std::to_string(copies.size()) + " tensors");
    return {std::move(*prepared), incoming.kept, agent(), devices_of(copies)};
  }

  // Tells the owner of the tensors, once they are there, what `notification` says under its topic.
  void push(const std::vector<const TensorRef*>& refs, const nb::list& sources, const std::string& path,
            double min_gbps, const std::optional<std::pair<std::string, nb::bytes>>& notification,
            std::optional<double> timeout_s, const os::Cancellation* cancellation) {
    const auto wait = wait_for(timeout_s, cancellation);
    require_as_many(refs.size(), sources);
    if (notification && refs.empty()) throw nb::value_error("nothing is pushed: whom to notify is not known");
    std::vector<transfer::Copy> copies;
    nb::list kept;  // while the GIL is not held
    for (std::size_t i = 0; i < refs.size(); ++i) {
      kept.append(owner_of(sources[i]));
      copies.push_back(
          {&refs[i]->remote, local_of(sources[i], refs[i]->remote.spec, "the remote one is", transfer::Use::kRead)});
    }
    settle(*agent(), devices_of(copies), wait);
    move(copies, {path, min_gbps}, wait, "push", transfer::push);
    if (notification) tell(*peer_of(copies, wait), notification->first, notification->second, wait);
  }

  void notify(const std::string& address, const std::string& topic, const nb::bytes& payload,
              std::optional<double> timeout_s) {
    const auto wait = wait_for(timeout_s);
    tell(*peer(address, wait), topic, payload, wait);
  }

  [[nodiscard]] PyNotifications notifications(const std::string& topic, std::size_t limit, bool drops_oldest) {
    using WhenFull = transfer::Notifications::WhenFull;
    const auto when_full = drops_oldest ? WhenFull::kDropOldest : WhenFull::kRefuse;
    auto taken = without_gil([&, own = agent()] { return own->notifications(topic, limit, when_full); });
    require(taken.status(), "take notifications");
    return PyNotifications(std::move(*taken));
  }

  nb::list map(const std::vector<const TensorRef*>& refs, std::optional<double> timeout_s) {
    const auto wait = wait_for(timeout_s);
    nb::list out;
    for (const TensorRef* ref : refs) {
      const RemoteTensor& remote = ref->remote;
      if (std::ranges::any_of(remote.spec.strides, [](std::int64_t stride) { return stride < 0; })) {
        raise_status({Code::kUnsupported, "torch has no tensors that run backwards; fetch() copies it"}, "map a tensor",
                     Work::kAgent);
      }
      if (remote.spec.elements() == 0) {
        out.append(make_tensor(agent()->arena(), {remote.spec.dtype, remote.spec.shape, {}}).first);
        continue;
      }
      const auto found = peer(remote.descriptor->owner, wait);
      const auto extent = transfer::extent_of(remote.spec);
      const auto start = remote.offset + static_cast<std::uint64_t>(extent.first);
      auto mapped = without_gil([&] {
        return found->map(remote.home(), start, static_cast<std::uint64_t>(extent.end - extent.first), wait);
      });
      require(mapped.status(), "map a tensor of agent \"" + found->address().name + "\"");
      const DType& dtype = remote.spec.dtype;
      // The end of one on a device waits for the device.
      auto lease = mapped->device.is_host() ? std::move(mapped->lease) : ending_without_gil(std::move(mapped->lease));
      out.append(import_tensor({dtype.code, dtype.bits, dtype.lanes}, remote.spec.shape, remote.spec.strides,
                               mapped->data - extent.first, std::move(lease), mapped->device));
    }
    return out;
  }

  // Of a fetch, or a push, with memory of that device (DLPack's type and number) of this process.
  nb::dict explain(const TensorRef& ref, const std::string& path, double min_gbps, bool is_push,
                   std::pair<int, int> device, std::optional<double> timeout_s) {
    const auto found = peer(ref.remote.descriptor->owner, wait_for(timeout_s));
    const auto direction = is_push ? transfer::Paths::Direction::kWrite : transfer::Paths::Direction::kRead;
    return describe_paths(found->explain(ref.remote.home(), ref.remote.spec.bytes(), {path, min_gbps}, direction,
                                         {device.first, device.second}));
  }

  // The same for memory that need not be registered: as much of it, in the agent's arena or elsewhere. Each path that
  // would do is connected.
  nb::dict paths_to(const std::string& address, std::uint64_t nbytes, bool in_arena, std::optional<double> timeout_s) {
    const auto wait = wait_for(timeout_s);
    const auto found = peer(address, wait);
    transport::Region region;
    region.length = 1;
    if (in_arena) region.arena_offset = 0;
    without_gil([&] { found->paths().probe(region, wait); });
    return describe_paths(found->explain(region, nbytes, {}));
  }

  static nb::dict describe_paths(const transfer::Explanation& explanation) {
    nb::list candidates;
    for (const auto& candidate : explanation.candidates) {
      candidates.append(dict_of("path", candidate.path, "usable", candidate.usable, "reason", candidate.reason, "gbps",
                                candidate.gbps, "measured", candidate.measured));
    }
    return dict_of("candidates", candidates, "chosen", explanation.chosen, "failovers", explanation.failovers);
  }

  nb::dict stats() const {
    const auto own = agent();
    const auto [agents, regions] = without_gil([&] { return std::pair(own->stats(), own->regions()->stats()); });
    return dict_of("peers", agents.peers, "visitors", agents.visitors, "refused", agents.refused, "faults",
                   agents.faults, "relays", agents.relays, "reparented", agents.reparented, "overdue", agents.overdue,
                   "parents_lost", agents.parents_lost, "copies_through_host", agents.copies_through_host,
                   "registrations", regions.registrations, "registrations_reused", regions.reused,
                   "registrations_waiting", regions.waiting);
  }

  // The file of its counters, and why there is none.
  [[nodiscard]] std::pair<std::string, std::string> counters() const {
    auto agents = without_gil([own = agent()] { return own->stats(); });
    return {std::move(agents.counters), std::move(agents.uncounted)};
  }

 private:
  // Taken with the GIL, and held while it is used: another thread may close it.
  [[nodiscard]] std::shared_ptr<transfer::Agent> agent() const {
    if (agent_ == nullptr) throw nb::value_error("the agent was closed");
    return agent_;
  }

  std::shared_ptr<transfer::Peer> peer(const std::string& address, const os::Wait& wait) {
    auto found = without_gil([&, own = agent()] { return own->peer(address, wait); });
    require(found.status(), "connect");
    return std::move(*found);
  }

  std::shared_ptr<transfer::Peer> peer_of(const std::vector<transfer::Copy>& copies, const os::Wait& wait) {
    require(transfer::check_one_owner(copies), "transfer");
    return peer(copies.front().remote->descriptor->owner, wait);
  }

  template <typename Operation>
  void move(const std::vector<transfer::Copy>& copies, const transfer::Requirement& requirement, const os::Wait& wait,
            const char* what, Operation&& operation) {
    if (copies.empty()) return;
    const auto found = peer_of(copies, wait);
    const Status status = without_gil([&] { return operation(*found, copies, requirement, wait); });
    if (status) return;
    require(status, std::string(what) + " " + transfer::text_of(copies) + ", agent \"" + found->address().name + "\"");
  }

  [[nodiscard]] Incoming make_incoming(const std::vector<const TensorRef*>& refs,
                                       const std::optional<nb::list>& targets, const DTypeRows& dtypes,
                                       const BlockRow& block) const {
    std::vector<const RemoteTensor*> remotes;
    for (const TensorRef* ref : refs) remotes.push_back(&ref->remote);
    return incoming_of(agent()->arena(), remotes, targets, dtypes, block);
  }

  std::shared_ptr<transfer::Agent> agent_;
};

nb::bytes to_bytes(const Bytes& bytes) {
  return nb::bytes(bytes.data(), bytes.size());
}

// (dtype code, bits, lanes, shape, strides, region, offset)
using Row =
    std::tuple<int, int, int, std::vector<std::int64_t>, std::vector<std::int64_t>, std::uint32_t, std::uint64_t>;
// (slot, generation, length, address, arena offset or -1, device type, device id)
using RegionRow = std::tuple<std::uint32_t, std::uint32_t, std::uint64_t, std::uint64_t, std::int64_t, int, int>;

Row row_of(const RemoteTensor& remote) {
  const auto& [dtype, shape, strides] = remote.spec;
  return {dtype.code, dtype.bits, dtype.lanes, shape, strides, remote.region, remote.offset};
}

TensorRefs decoded(Result<Descriptor> descriptor) {
  require(descriptor.status(), "read references to tensors");
  return {std::make_shared<const Descriptor>(std::move(*descriptor)), nullptr};
}

}  // namespace

void bind_transfer(nb::module_& m) {
  bind_notifications(m);
  bind_runner(m);
  m.def("any_on_cuda", [](const std::vector<const TensorRef*>& refs) {
    return std::ranges::any_of(
        refs, [](const TensorRef* ref) { return ref->remote.home().device.type == transport::Device::kCuda; });
  });
  nb::class_<TensorRef>(m, "TensorRef")
      .def_prop_ro("owner", [](const TensorRef& ref) { return ref.remote.descriptor->owner; })
      .def("row", [](const TensorRef& ref) { return row_of(ref.remote); })
      .def("new_strides",
           [](const TensorRef& ref) {
             const TensorSpec& spec = ref.remote.spec;
             return TensorSpec{spec.dtype, spec.shape, transfer::preserved_strides(spec)}.strides_or_dense();
           })
      .def_prop_ro("shape", [](const TensorRef& ref) { return ref.remote.spec.shape; })
      .def_prop_ro("nbytes", [](const TensorRef& ref) { return ref.remote.spec.bytes(); })
      .def_prop_ro("device",
                   [](const TensorRef& ref) {
                     const auto& device = ref.remote.home().device;
                     return std::pair(device.type, device.id);
                   })
      .def("part",
           [](const TensorRef& ref, const std::vector<std::tuple<std::int64_t, std::int64_t, std::int64_t>>& pieces,
              const std::vector<std::size_t>& dropped) {
             std::vector<transfer::Slice> slices;
             for (const auto& [start, step, count] : pieces) slices.push_back({start, step, count});
             auto part = ref.remote.part(slices);
             require(part.status(), "take a part of a tensor");
             for (auto at = dropped.rbegin(); at != dropped.rend(); ++at) {
               auto& [dtype, shape, strides] = part->spec;
               shape.erase(shape.begin() + static_cast<std::ptrdiff_t>(*at));
               strides.erase(strides.begin() + static_cast<std::ptrdiff_t>(*at));
             }
             return TensorRef{std::move(*part), ref.registration};
           })
      .def("alone", [](const TensorRef& ref) {
        auto descriptor = std::make_shared<const Descriptor>(ref.remote.alone());
        return TensorRefs{std::move(descriptor), ref.registration};
      });
  nb::class_<TensorRefs>(m, "TensorRefs")
      .def_prop_ro("owner", [](const TensorRefs& refs) { return refs.descriptor->owner; })
      .def_prop_ro("names", [](const TensorRefs& refs) { return refs.descriptor->names; })
      .def_prop_ro("checksums", [](const TensorRefs& refs) { return refs.descriptor->checksums; })
      .def_prop_ro("single", [](const TensorRefs& refs) { return refs.descriptor->single; })
      .def("__len__", [](const TensorRefs& refs) { return refs.descriptor->places.size(); })
      .def("at",
           [](const TensorRefs& refs, std::size_t index) {
             if (index >= refs.descriptor->places.size()) throw nb::index_error("no such tensor");
             return TensorRef{RemoteTensor::whole(refs.descriptor, index), refs.registration};
           })
      .def("encode",
           [](const TensorRefs& refs, bool with_schema) {
             return to_bytes(
                 refs.descriptor->encode(with_schema ? Descriptor::With::kSchema : Descriptor::With::kSchemaHash));
           })
      .def_static("decode",
                  [](const nb::bytes& bytes) {
                    return decoded(Descriptor::decode(as_bytes(std::string_view(bytes.c_str(), bytes.size()))));
                  })
      .def("regions",
           [](const TensorRefs& refs) {
             std::vector<RegionRow> rows;
             for (const auto& region : refs.descriptor->regions) {
               rows.emplace_back(region.id.slot, region.id.generation, region.length, region.address,
                                 static_cast<std::int64_t>(region.arena_offset), region.device.type, region.device.id);
             }
             return rows;
           })
      .def("to_json", [](const TensorRefs& refs) { return refs.descriptor->to_json(); })
      .def_static("from_json", [](const std::string& text) { return decoded(Descriptor::from_json(text)); });
  nb::class_<PyBatch>(m, "Batch")
      .def("run", &PyBatch::run, nb::arg("timeout_s").none())
      .def_prop_ro("nbytes", &PyBatch::bytes);
  nb::class_<PySubscription>(m, "Subscription")
      .def("latest", &PySubscription::latest)
      .def("newer_than", &PySubscription::newer_than, nb::arg("number"), nb::arg("timeout_s").none())
      .def_prop_ro("needs_copies", &PySubscription::needs_copies);
  nb::class_<PyWriting>(m, "Writing").def("end", &PyWriting::end);
  nb::class_<PyAgent>(m, "Agent")
      .def(nb::init<const std::string&, const std::string&, bool, const std::optional<std::string>&, const std::string&,
                    const std::string&, const std::optional<TlsRow>&, std::vector<std::string>, std::uint64_t,
                    std::string, std::string, const std::pair<std::string, int>&, const std::vector<FaultRow>&,
                    const std::vector<TransportRow>&>(),
           nb::arg("name"), nb::arg("folder"), nb::arg("share_memory"), nb::arg("tcp").none(), nb::arg("advertise"),
           nb::arg("token"), nb::arg("tls").none(), nb::arg("plugins"), nb::arg("quota_bytes"), nb::arg("ucx_library"),
           nb::arg("nccl_library"), nb::arg("nixl"), nb::arg("faults"), nb::arg("transports"))
      .def("close", &PyAgent::close)
      .def_prop_ro("address", &PyAgent::address)
      .def("add", &PyAgent::add, nb::arg("tensors"), nb::arg("names"), nb::arg("with_checksums"),
           nb::arg("stream").none(), nb::arg("path"))
      .def("announce", &PyAgent::announce, nb::arg("refs"), nb::arg("stream").none())
      .def("empty", &PyAgent::empty)
      .def("make", &PyAgent::make)
      .def("device_here", &PyAgent::device_here, nb::arg("ref"), nb::arg("timeout_s").none())
      .def("begin_write", &PyAgent::begin_write, nb::arg("refs"), nb::arg("timeout_s").none())
      .def("grant", &PyAgent::grant)
      .def("publish", &PyAgent::publish)
      .def("withdraw", &PyAgent::withdraw)
      .def("subscribe", &PyAgent::subscribe, nb::arg("address"), nb::arg("name"), nb::arg("relays"),
           nb::arg("timeout_s").none())
      .def("connect", &PyAgent::connect, nb::arg("address"), nb::arg("timeout_s").none())
      .def("fetch", &PyAgent::fetch, nb::arg("refs"), nb::arg("targets").none(), nb::arg("dtypes").none(),
           nb::arg("block").none(), nb::arg("path"), nb::arg("min_gbps"), nb::arg("verify"),
           nb::arg("timeout_s").none(), nb::arg("cancellation").none())
      .def("prepare", &PyAgent::prepare, nb::arg("refs"), nb::arg("targets"), nb::arg("dtypes").none(),
           nb::arg("block").none(), nb::arg("path"), nb::arg("min_gbps"), nb::arg("timeout_s").none())
      .def("push", &PyAgent::push, nb::arg("refs"), nb::arg("sources"), nb::arg("path"), nb::arg("min_gbps"),
           nb::arg("notification").none(), nb::arg("timeout_s").none(), nb::arg("cancellation").none())
      .def("notify", &PyAgent::notify, nb::arg("address"), nb::arg("topic"), nb::arg("payload"),
           nb::arg("timeout_s").none())
      .def("notifications", &PyAgent::notifications, nb::arg("topic"), nb::arg("limit"), nb::arg("drops_oldest"))
      .def("map", &PyAgent::map, nb::arg("refs"), nb::arg("timeout_s").none())
      .def("explain", &PyAgent::explain, nb::arg("ref"), nb::arg("path"), nb::arg("min_gbps"), nb::arg("is_push"),
           nb::arg("device"), nb::arg("timeout_s").none())
      .def("paths_to", &PyAgent::paths_to, nb::arg("address"), nb::arg("nbytes"), nb::arg("in_arena"),
           nb::arg("timeout_s").none())
      .def("counters", &PyAgent::counters)
      .def("stats", &PyAgent::stats);
}

}  // namespace beeline::python
