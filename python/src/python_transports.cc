#include "python_transports.h"

#include <nanobind/stl/string.h>

#include <atomic>
#include <limits>
#include <optional>
#include <thread>
#include <utility>

#include "beeline/os/fork_count.h"
#include "bindings.h"
#include "waits.h"

namespace beeline::python {
namespace {

using transport::Access;
using transport::Device;
using transport::KeyedRun;

// Threads that are in the interpreter, or about to be; whether none may enter any more. Both sequentially consistent:
// who enters counts itself and then looks, who ends it says so and then counts.
std::atomic<int> inside{0};
std::atomic<bool> is_ending{false};

// A thread's stay in the interpreter, from before it takes the GIL. One that asks for the GIL of an interpreter that
// ends is itself ended, in the midst of the core.
class Stay {
 public:
  Stay() {
    ++inside;
    if (!is_ending && Py_IsInitialized() != 0) acquired_.emplace();
  }
  ~Stay() {
    acquired_.reset();
    --inside;
  }
  Stay(const Stay&) = delete;
  [[nodiscard]] bool has_gil() const { return acquired_.has_value(); }

 private:
  std::optional<nb::gil_scoped_acquire> acquired_;
};

// A reference that any thread may let go of.
class Held {
 public:
  explicit Held(nb::object object) : object_(std::move(object)) {}
  ~Held() {
    const Stay stay;
    if (!stay.has_gil()) {
      (void)object_.release();
      return;
    }
    const nb::error_scope kept;
    object_.reset();
  }
  Held(const Held&) = delete;
  [[nodiscard]] const nb::object& get() const { return object_; }

 private:
  nb::object object_;
};

// What the exceptions of beeline.exceptions mean; all others are kSystem.
constexpr std::pair<const char*, Code> kCodesOfExceptions[] = {
    {"TransferTimeoutError", Code::kDeadlineExceeded},
    {"TransferCancelledError", Code::kCancelled},
    {"PeerLostError", Code::kPeerLost},
    {"StaleReferenceError", Code::kStale},
    {"TornReadError", Code::kTorn},
    {"ObjectStoreFullError", Code::kResourceExhausted},
    {"TransportUnavailableError", Code::kUnsupported},
};

std::string text_of_error(const nb::python_error& error) {
  try {
    return nb::cast<std::string>(nb::str(error.value()));
  } catch (const std::exception&) {
    return "(its text could not be had)";
  }
}

Status status_of(nb::python_error& error) {
  // What a signal's handler raised goes on in the thread that waits.
  if (!error.matches(PyExc_Exception)) {
    error.restore();
    return {Code::kInterrupted, "an exception that is no error ended it"};
  }
  const auto exceptions = nb::module_::import_("beeline.exceptions");
  for (const auto& [name, code] : kCodesOfExceptions) {
    const nb::object type = exceptions.attr(name);
    if (error.matches(type)) return {code, text_of_error(error)};
  }
  return {Code::kSystem, nb::cast<std::string>(error.type().attr("__name__")) + ": " + text_of_error(error)};
}

// What `call` gives, which runs with the GIL: a Status, or a Result.
template <typename Call>
auto in_python(Call&& call) -> decltype(call()) {
  const Stay stay;
  if (!stay.has_gil()) return Status(Code::kUnsupported, "the interpreter is ending");
  try {
    try {
      return call();
    } catch (nb::python_error& error) {
      return status_of(error);
    }
  } catch (const std::exception& error) {
    return Status(Code::kSystem, std::string("a transport in Python gave what it may not: ") + error.what());
  }
}

// A call whose failure nobody can be told of: it goes to sys.unraisablehook.
template <typename Call>
void end_in_python(const char* what, Call&& call) {
  const Stay stay;
  if (!stay.has_gil()) return;
  const nb::error_scope kept;
  try {
    call();
  } catch (nb::python_error& error) {
    error.discard_as_unraisable(what);
  } catch (const std::exception&) {
    // A cast that failed: there is nothing to do.
  }
}

nb::bytes bytes_of(BytesView bytes) {
  return nb::bytes(bytes.data(), bytes.size());
}

Result<Bytes> written(const nb::object& object) {
  if (!nb::isinstance<nb::bytes>(object)) return Status(Code::kSystem, "a contact or a key that is no bytes");
  const auto bytes = nb::cast<nb::bytes>(object);
  if (bytes.size() > transport::kMaxPluginBytes) return transport::too_many_plugin_bytes();
  const BytesView view = as_bytes({bytes.c_str(), bytes.size()});
  return Bytes(view.begin(), view.end());
}

nb::object view_of_memory(std::byte* data, std::uint64_t length, const Device& device, bool may_write) {
  if (!device.is_host()) throw nb::value_error("a view of memory that is not the host's");
  PyObject* const view = PyMemoryView_FromMemory(reinterpret_cast<char*>(data), static_cast<Py_ssize_t>(length),
                                                 may_write ? PyBUF_WRITE : PyBUF_READ);
  if (view == nullptr) throw nb::python_error();
  return nb::steal(view);
}

// What Python sees of a call's arguments.

struct PyMemory {
  std::byte* data;
  std::uint64_t length;
  Device device;
  bool may_write;
};

struct PyRun {
  transport::Run run;
  nb::bytes key;
  bool may_write;
};

// Its end comes with that of the call.
struct PyWait {
  const os::Wait* wait;

  [[nodiscard]] const os::Wait& now() const {
    if (wait == nullptr) throw nb::value_error("the call that this wait bounds has ended");
    return *wait;
  }
};

class WaitOfCall {
 public:
  explicit WaitOfCall(const os::Wait& wait) : own_(nb::cast(PyWait{&wait})) {}
  ~WaitOfCall() { nb::cast<PyWait&>(own_).wait = nullptr; }
  WaitOfCall(const WaitOfCall&) = delete;
  [[nodiscard]] const nb::object& get() const { return own_; }

 private:
  nb::object own_;
};

class PythonExposure final : public transport::PluginExposure {
 public:
  PythonExposure(std::shared_ptr<Held> transport, std::shared_ptr<Held> engine, nb::object exposure, Bytes key)
      : PluginExposure(std::move(key)),
        transport_(std::move(transport)),
        engine_(std::move(engine)),
        exposure_(std::move(exposure)) {}
  ~PythonExposure() override {
    end_in_python("withdraw", [&] { transport_->get().attr("withdraw")(engine_->get(), exposure_.get()); });
  }

 private:
  const std::shared_ptr<Held> transport_, engine_;
  const Held exposure_;
};

class PythonConnection final : public transport::PluginConnection {
 public:
  PythonConnection(std::shared_ptr<Held> transport, std::shared_ptr<Held> engine, nb::object connection)
      : transport_(std::move(transport)), engine_(std::move(engine)), connection_(std::move(connection)) {}
  ~PythonConnection() override {
    end_in_python("disconnect", [&] { transport_->get().attr("disconnect")(engine_->get(), connection_.get()); });
  }

  Status transfer(Access access, std::span<const KeyedRun> runs, const os::Wait& wait) override {
    return in_python([&] {
      nb::list asked;
      for (const auto& [run, extent] : runs) {
        asked.append(nb::cast(PyRun{run, bytes_of(extent->key), access == Access::kRead}));
      }
      const WaitOfCall bound(wait);
      const char* const operation = access == Access::kRead ? "read" : "write";
      transport_->get().attr("transfer")(engine_->get(), connection_.get(), operation, asked, bound.get());
      return Status::ok();
    });
  }

  Status quiet(const os::Wait& wait) override {
    return in_python([&] {
      if (!nb::hasattr(transport_->get(), "quiet")) return Status::ok();
      const WaitOfCall bound(wait);
      transport_->get().attr("quiet")(engine_->get(), connection_.get(), bound.get());
      return Status::ok();
    });
  }

 private:
  const std::shared_ptr<Held> transport_, engine_;
  const Held connection_;
};

class PythonEngine final : public transport::PluginEngine {
 public:
  PythonEngine(std::shared_ptr<Held> transport, nb::object engine)
      : transport_(std::move(transport)), engine_(std::make_shared<Held>(std::move(engine))) {}
  ~PythonEngine() override {
    end_in_python("close", [&] { transport_->get().attr("close")(engine_->get()); });
  }

  Result<Bytes> contact() override {
    return in_python([&] { return written(transport_->get().attr("contact")(engine_->get())); });
  }

  Result<std::unique_ptr<transport::PluginExposure>> expose(std::byte* data, std::uint64_t length, const Device& device,
                                                            Access access) override {
    using Exposed = Result<std::unique_ptr<transport::PluginExposure>>;
    return in_python([&]() -> Exposed {
      const bool may_write = access == Access::kWrite;
      const auto given = nb::cast<nb::tuple>(transport_->get().attr("expose")(
          engine_->get(), nb::cast(PyMemory{data, length, device, may_write}), may_write));
      if (given.size() != 2) return Status(Code::kSystem, "expose() gives (exposure, key)");
      nb::object exposure = given[0];
      auto key = written(given[1]);
      if (!key) {
        transport_->get().attr("withdraw")(engine_->get(), exposure);
        return key.status();
      }
      return std::unique_ptr<transport::PluginExposure>(
          std::make_unique<PythonExposure>(transport_, engine_, std::move(exposure), std::move(*key)));
    });
  }

  Result<std::unique_ptr<transport::PluginConnection>> connect(const std::string& peer, BytesView contact,
                                                               const os::Wait& wait) override {
    return in_python([&]() -> Result<std::unique_ptr<transport::PluginConnection>> {
      const WaitOfCall bound(wait);
      nb::object connection = transport_->get().attr("connect")(engine_->get(), peer, bytes_of(contact), bound.get());
      return std::unique_ptr<transport::PluginConnection>(
          std::make_unique<PythonConnection>(transport_, engine_, std::move(connection)));
    });
  }

  void count_refusals_in(transport::SharedCount refused) override {
    end_in_python("count_refusals", [&] {
      if (!nb::hasattr(transport_->get(), "count_refusals")) return;
      const auto count = [refused = std::move(refused)] { refused->fetch_add(1, std::memory_order_relaxed); };
      transport_->get().attr("count_refusals")(engine_->get(), nb::cpp_function(count));
    });
  }

 private:
  const std::shared_ptr<Held> transport_, engine_;
};

class PythonPlugin final : public transport::Plugin {
 public:
  explicit PythonPlugin(const TransportRow& row) : transport_(std::make_shared<Held>(std::get<0>(row))) {
    std::tie(std::ignore, traits_.name, traits_.same_host_only, traits_.writes, traits_.named_only,
             traits_.device_types, traits_.expected_gbps) = row;
  }

  [[nodiscard]] const Traits& traits() const override { return traits_; }

  Result<std::unique_ptr<transport::PluginEngine>> open(const std::string& agent_name) override {
    return in_python([&]() -> Result<std::unique_ptr<transport::PluginEngine>> {
      nb::object engine = transport_->get().attr("open")(agent_name);
      return std::unique_ptr<transport::PluginEngine>(std::make_unique<PythonEngine>(transport_, std::move(engine)));
    });
  }

 private:
  const std::shared_ptr<Held> transport_;
  Traits traits_;
};

// From here on no other thread enters the interpreter; waits for those that are there, but not for ever.
void end_python_transports(std::uint64_t fork_count) {
  is_ending = true;
  // In a child of fork() the others are not there.
  if (fork_count != os::fork_count()) return;
  without_gil([] {
    const auto until = Deadline::after(std::chrono::seconds(2));
    while (inside > 0 && !until.passed()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
}

}  // namespace

std::vector<std::shared_ptr<transport::Plugin>> plugins_of(const std::vector<TransportRow>& transports) {
  std::vector<std::shared_ptr<transport::Plugin>> plugins;
  for (const TransportRow& row : transports) plugins.push_back(std::make_shared<PythonPlugin>(row));
  return plugins;
}

void bind_python_transports(nb::module_& m) {
  const auto fork_count = os::fork_count();
  m.def("end_python_transports", [fork_count] { end_python_transports(fork_count); });
  const auto address = [](const std::byte* data) { return reinterpret_cast<std::uintptr_t>(data); };
  nb::class_<PyMemory>(m, "TransportMemory")
      .def_prop_ro("address", [address](const PyMemory& memory) { return address(memory.data); })
      .def_ro("length", &PyMemory::length)
      .def_prop_ro("device_type", [](const PyMemory& memory) { return memory.device.type; })
      .def_prop_ro("device_id", [](const PyMemory& memory) { return memory.device.id; })
      .def("view", [](const PyMemory& memory) {
        return view_of_memory(memory.data, memory.length, memory.device, memory.may_write);
      });
  nb::class_<PyRun>(m, "TransportRun")
      .def_ro("key", &PyRun::key)
      .def_prop_ro("offset", [](const PyRun& run) { return run.run.offset; })
      .def_prop_ro("local", [address](const PyRun& run) { return address(run.run.local); })
      .def_prop_ro("length", [](const PyRun& run) { return run.run.length; })
      .def_prop_ro("count", [](const PyRun& run) { return run.run.count; })
      .def_prop_ro("stride", [](const PyRun& run) { return run.run.stride; })
      .def_prop_ro("local_stride", [](const PyRun& run) { return run.run.local_stride; })
      .def_prop_ro("local_device_type", [](const PyRun& run) { return run.run.local_device.type; })
      .def_prop_ro("local_device_id", [](const PyRun& run) { return run.run.local_device.id; })
      .def("view", [](const PyRun& run) {
        const auto& own = run.run;
        const std::uint64_t reach = (own.count - 1) * own.local_stride + own.length;
        return view_of_memory(own.local, reach, own.local_device, run.may_write);
      });
  nb::class_<PyWait>(m, "TransportWait")
      .def("left_s",
           [](const PyWait& own) {
             const Deadline& deadline = own.now().deadline;
             if (deadline.is_never()) return std::numeric_limits<double>::infinity();
             return std::chrono::duration<double>(deadline.left()).count();
           })
      .def("check", [](const PyWait& own) { require(own.now().check(), "move bytes"); });
}

}  // namespace beeline::python
