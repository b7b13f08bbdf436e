// References, put, get, wait, and telling event loops that objects are ready.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <poll.h>

#include <cstring>
#include <deque>
#include <mutex>
#include <unordered_map>

#include "bindings.h"
#include "call_site.h"
#include "dicts.h"

namespace beeline::python {
namespace {

constexpr std::size_t kBinarySize = 28;  // as Ray's ids

// Targets of set_target, by object.
std::unordered_map<store::ObjectId, nb::object, store::ObjectIdHash>& targets() {
  static auto* map = new std::unordered_map<store::ObjectId, nb::object, store::ObjectIdHash>;
  return *map;
}

nb::object take_target(const store::ObjectId& id) {
  const auto it = targets().find(id);
  if (it == targets().end()) return {};
  nb::object found = std::move(it->second);
  targets().erase(it);
  return found;
}

store::ObjectId id_of_binary(std::string_view binary) {
  if (binary.size() != kBinarySize) throw nb::value_error("an object id has 28 bytes");
  store::ObjectId id;
  std::memcpy(&id, binary.data(), sizeof id);
  return id;
}

memory::PublicationId publication_of(std::uint64_t number) {
  return {static_cast<std::uint32_t>(number), static_cast<std::uint32_t>(number >> 32)};
}

}  // namespace

std::string hex(std::string_view bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const char c : bytes) {
    const auto value = static_cast<unsigned char>(c);
    out += kDigits[value >> 4];
    out += kDigits[value & 15];
  }
  return out;
}

namespace {

void init_ref(Ref* self, nb::bytes binary) {
  const auto id = id_of_binary({binary.c_str(), binary.size()});
  store::Entry* entry = process().restore(id);
  if (entry == nullptr) {
    raise_error(store::ErrorKind::kObjectLost, "the object " + hex({binary.c_str(), binary.size()}) + " was freed");
  }
  new (self) Ref(*entry);
}

std::vector<store::Entry*> entries_of(nb::handle refs) {
  std::vector<store::Entry*> entries;
  entries.reserve(nb::len(refs));
  for (nb::handle ref : refs) entries.push_back(&nb::cast<Ref&>(ref).entry());
  return entries;
}

nb::list get(nb::handle refs, std::optional<double> timeout_s) {
  drop_retired_values();
  auto& running = process();
  const auto entries = entries_of(refs);
  const auto deadline = Deadline::after_seconds(timeout_s);
  const auto outcome =
      wait_with_signals(deadline, [&](Deadline slice) { return running.wait(entries, entries.size(), slice); });
  if (outcome == runtime::WaitOutcome::kTimedOut) {
    std::size_t missing = 0;
    std::string first;
    for (store::Entry* entry : entries) {
      if (running.ready(*entry)) continue;
      if (missing++ == 0) first = entry->name != nullptr ? *entry->name : std::string("an object");
    }
    if (missing > 0) {
      raise_error(store::ErrorKind::kTimeout, "get timed out after " + std::to_string(timeout_s.value_or(0)) + " s: " +
                                                  std::to_string(missing) + " of " + std::to_string(entries.size()) +
                                                  " objects are not ready, the first is the result of " + first);
    }
  }
  // A timeout of 0 asks for what is ready; bringing that here may take its time.
  const Deadline until = timeout_s && *timeout_s == 0 ? Deadline::never() : deadline;
  nb::list values;
  for (store::Entry* entry : entries) {
    const nb::object target = targets().empty() ? nb::object() : take_target(entry->id);
    try {
      values.append(value_of(*entry, target, until));
    } catch (nb::python_error& error) {
      // Who tries again means the same targets.
      if (target.is_valid() && error.matches(PyExc_TimeoutError)) targets()[entry->id] = target;
      throw;
    }
  }
  return values;
}

nb::list wait(nb::handle refs, std::size_t num_returns, std::optional<double> timeout_s) {
  auto& running = process();
  const auto entries = entries_of(refs);
  (void)wait_with_signals(Deadline::after_seconds(timeout_s),
                          [&](Deadline slice) { return running.wait(entries, num_returns, slice); });
  nb::list flags;
  for (store::Entry* entry : entries) flags.append(running.ready(*entry));
  return flags;
}

Ref* put(nb::handle value, int mode) {
  drop_retired_values();
  static const std::string* const kName = nullptr;
  const auto* site = call_site("(put object)");
  return new Ref(*process().put(to_payload(value, static_cast<runtime::Mode>(mode)), kName, site));
}

// Objects that became ready, for an event loop (through an eventfd) or a thread that waits on it.
class CompletionQueue {
 public:
  CompletionQueue() : shared_(std::make_shared<Shared>()) {
    auto event = os::make_eventfd();
    if (!event) raise_status(event.status(), "make a completion queue");
    shared_->event = std::move(event).value();
  }
  ~CompletionQueue() {
    const std::lock_guard guard(shared_->mutex);
    shared_->closed = true;
  }

  [[nodiscard]] int fileno() const { return shared_->event.get(); }

  void add(const Ref& ref, nb::handle token) {
    auto& running = process();
    running.add_hold(ref.entry());
    auto* pending = new Pending;
    pending->home = &running;
    pending->queue = shared_;
    pending->token = token.inc_ref().ptr();
    pending->entry = &ref.entry();
    running.watch(ref.entry(), *pending);
  }

  nb::list drain() {
    std::deque<Pending*> ready;
    {
      const std::lock_guard guard(shared_->mutex);
      ready.swap(shared_->ready);
      os::drain_eventfd(shared_->event.get());
    }
    nb::list tokens;
    for (Pending* pending : ready) {
      tokens.append(nb::steal(pending->token));
      // One of a session that has ended goes with it.
      if (pending->home == process_or_null()) pending->home->drop_hold(*pending->entry);
      delete pending;
    }
    return tokens;
  }

  bool wait(std::optional<double> timeout_s) {
    pollfd event{shared_->event.get(), POLLIN, 0};
    const int timeout_ms = timeout_s ? static_cast<int>(*timeout_s * 1000) : -1;
    nb::gil_scoped_release released;
    return ::poll(&event, 1, timeout_ms) > 0;
  }

 private:
  struct Pending;
  struct Shared {
    std::mutex mutex;
    std::deque<Pending*> ready;
    os::Fd event;
    bool closed = false;
  };
  struct Pending final : store::Watcher {
    std::shared_ptr<Shared> queue;
    PyObject* token = nullptr;
    runtime::Process* home = nullptr;
    store::Entry* entry = nullptr;
    // With the state lock held: no Python here. After the queue closed the token is leaked, not touched.
    void on_ready(store::Entry&) override {
      const std::lock_guard guard(queue->mutex);
      if (queue->closed) return;
      queue->ready.push_back(this);
      os::signal_eventfd(queue->event.get());
    }
  };
  std::shared_ptr<Shared> shared_;
};

}  // namespace

std::string binary_of(const store::ObjectId& id) {
  return binary_of(id, process_or_null() != nullptr ? process().registered().session_name : std::string());
}

std::string binary_of(const store::ObjectId& id, const std::string& session) {
  std::string out(kBinarySize, '\0');
  std::memcpy(out.data(), &id, sizeof id);
  const auto tag = std::hash<std::string>{}(session);
  std::memcpy(out.data() + sizeof id, &tag, sizeof tag);
  return out;
}

void bind_objects(nb::module_& m) {
  nb::class_<Ref>(m, "ObjectRef", nb::dynamic_attr(), nb::is_weak_referenceable())
      .def("__init__", &init_ref, nb::arg("binary"))
      .def("binary",
           [](const Ref& ref) {
             const auto binary = binary_of(ref.id());
             return nb::bytes(binary.data(), binary.size());
           })
      .def("hex", [](const Ref& ref) { return hex(binary_of(ref.id())); })
      .def("is_nil", [](const Ref& ref) { return ref.id().is_nil(); })
      .def("owner_index", [](const Ref& ref) { return ref.id().owner; })
      .def("task_name", &Ref::name)
      .def("__hash__", [](const Ref& ref) { return static_cast<Py_ssize_t>(store::ObjectIdHash{}(ref.id()) >> 1); })
      .def("__eq__",
           [](const Ref& a, nb::handle b) { return nb::isinstance<Ref>(b) && nb::cast<Ref&>(b).id() == a.id(); })
      .def("__repr__", [](const Ref& ref) { return "ObjectRef(" + hex(binary_of(ref.id())) + ")"; })
      .def("__reduce__", [](const Ref& ref) {
        // Pickled by the program itself: nobody tells when the last such copy is gone, so the object stays for good.
        process().add_hold(ref.entry());
        const auto binary = binary_of(ref.id());
        return nb::make_tuple(nb::type<Ref>(), nb::make_tuple(nb::bytes(binary.data(), binary.size())));
      });
  m.def("put", &put, nb::arg("value").none(), nb::arg("mode"), nb::rv_policy::take_ownership);
  m.def("get", &get, nb::arg("refs"), nb::arg("timeout_s").none());
  m.def("wait", &wait, nb::arg("refs"), nb::arg("num_returns"), nb::arg("timeout_s").none());
  m.def("ready", [](const Ref& ref) { return process().ready(ref.entry()); });
  m.def("set_target", [](const Ref& ref, nb::object value) { targets()[ref.id()] = std::move(value); });
  m.def("holds_overlapping", [](std::uintptr_t address, std::size_t size) {
    return process().publications_of(reinterpret_cast<const void*>(address), size);
  });
  m.def(
      "wait_unpublished",
      [](std::uintptr_t address, std::size_t size, std::optional<double> timeout_s) {
        auto& running = process();
        drop_retired_values();
        return wait_with_signals(Deadline::after_seconds(timeout_s), [&](Deadline slice) {
                 return running.wait_unpublished(reinterpret_cast<const void*>(address), size, slice);
               }) == runtime::WaitOutcome::kDone;
      },
      nb::arg("address"), nb::arg("nbytes"), nb::arg("timeout_s").none());
  m.def("is_shareable", [](std::uintptr_t address, std::size_t size) {
    return process().is_shareable(reinterpret_cast<const void*>(address), size);
  });
  m.def("publication_readers", [](std::uint64_t publication) {
    const auto readers = process().readers_of(publication_of(publication));
    return readers ? static_cast<long>(*readers) : -1;
  });
  m.def("mark_mutated", [](std::uint64_t publication) { process().mark_mutated(publication_of(publication)); });
  m.def("transfer_stats", [] {
    const auto stats = process().transfer_stats();
    return dict_of("inline_objects", stats.inline_objects, "inline_bytes", stats.inline_bytes, "mapped_objects",
                   stats.mapped_objects, "mapped_bytes", stats.mapped_bytes, "copied_objects", stats.copied_objects,
                   "copied_bytes", stats.copied_bytes, "fetched_objects", stats.fetched_objects, "fetched_bytes",
                   stats.fetched_bytes, "rehomed_objects", stats.rehomed_objects, "lost_objects", stats.lost_objects,
                   "remade_calls", stats.remade_calls, "spilled_objects", stats.spilled_objects, "spilled_bytes",
                   stats.spilled_bytes, "restored_objects", stats.restored_objects, "restored_bytes",
                   stats.restored_bytes, "spill_stalled_s", static_cast<double>(stats.spill_stalled_ns) / 1e9,
                   "publications", stats.publications);
  });
  nb::class_<CompletionQueue>(m, "CompletionQueue")
      .def(nb::init<>())
      .def("fileno", &CompletionQueue::fileno)
      .def("add", &CompletionQueue::add)
      .def("drain", &CompletionQueue::drain)
      .def("wait", &CompletionQueue::wait, nb::arg("timeout_s").none());
}

}  // namespace beeline::python
