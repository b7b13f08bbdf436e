// Sessions: starting, joining and leaving one.
#include "session.h"

#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <optional>

#include "beeline/os/fork_count.h"
#include "beeline/os/process_limits.h"
#include "dicts.h"
#include "metrics.h"
#include "values.h"

namespace beeline::python {
namespace {

runtime::Process* the_process = nullptr;
std::uint64_t process_forks = 0;  // os::fork_count() of the process that started it: a child of fork() has none
nb::object the_hooks;

std::vector<std::string> strings(nb::handle list) {
  return nb::cast<std::vector<std::string>>(list);
}

Bytes to_bytes(nb::handle object) {
  const auto bytes = nb::cast<nb::bytes>(object);
  const auto* data = reinterpret_cast<const std::byte*>(bytes.c_str());
  return {data, data + bytes.size()};
}

nb::dict session_facts(const runtime::Process& process) {
  const auto& registered = process.registered();
  return dict_of("session_name", registered.session_name, "session_dir", registered.session_dir, "process_index",
                 registered.index, "job", registered.job, "pid", process.daemon_pid(), "config",
                 nb::bytes(registered.config.data(), registered.config.size()));
}

// A wait for the daemon ends when a handler raises, as it does at Ctrl-C.
void heed_signals(runtime::Process& process) {
  process.on_signal = [] {
    const nb::gil_scoped_acquire acquired;
    return PyErr_CheckSignals() != 0;
  };
}

runtime::LaunchOptions launch_options(const nb::dict& options) {
  runtime::LaunchOptions launch;
  launch.daemon_path = nb::cast<std::string>(options["beelined"]);
  launch.resources = nb::cast<std::map<std::string, double>>(options["resources"]);
  launch.zygote_command = strings(options["zygote_command"]);
  launch.zygote_env = nb::cast<std::map<std::string, std::string>>(options["zygote_env"]);
  launch.config = to_bytes(options["config"]);
  launch.log_to_driver = nb::cast<bool>(options["log_to_driver"]);
  launch.spill_dir = nb::cast<std::string>(options["spill_dir"]);
  launch.labels = nb::cast<std::map<std::string, std::string>>(options["labels"]);
  launch.virtual_nodes = nb::cast<bool>(options["virtual_nodes"]);
  launch.prestart = nb::cast<std::uint32_t>(options["prestart"]);
  launch.prestart_env = nb::cast<std::map<std::string, std::string>>(options["prestart_env"]);
  launch.venv_command = strings(options["venv_command"]);
  return launch;
}

// This process is the driver of a session from here on.
nb::dict adopt(std::unique_ptr<runtime::Process> started) {
  the_process = started.release();
  process_forks = os::fork_count();
  watch_publications(*the_process);
  the_process->collect = collection_of;
  heed_signals(*the_process);
  expose_metrics();
  return session_facts(*the_process);
}

nb::dict start_session(const nb::dict& options) {
  if (process_or_null() != nullptr) throw nb::value_error("a session runs already in this process");
  auto launch = launch_options(options);
  memory::Arena::Options arena;
  arena.capacity_bytes = nb::cast<std::uint64_t>(options["arena_capacity_bytes"]);
  arena.quota_bytes = nb::cast<std::uint64_t>(options["arena_quota_bytes"]);
  auto started = [&] {
    nb::gil_scoped_release released;
    return runtime::Process::launch(std::move(launch), arena);
  }();
  if (!started) raise_status(started.status(), "init");
  return adopt(std::move(started).value());
}

std::string start_lasting_session(const nb::dict& options) {
  auto launch = launch_options(options);
  launch.lasting = true;
  auto started = [&] {
    nb::gil_scoped_release released;
    return runtime::launch_session(std::move(launch));
  }();
  if (!started) raise_status(started.status(), "start");
  return started.value().registered.session_dir;
}

nb::dict join_as_driver(const std::string& session_dir, const nb::bytes& config, bool wants_logs,
                        std::uint64_t quota_bytes) {
  if (process_or_null() != nullptr) throw nb::value_error("a session runs already in this process");
  Bytes job = to_bytes(config);
  memory::Arena::Options arena;
  arena.quota_bytes = quota_bytes;
  auto joined = [&] {
    nb::gil_scoped_release released;
    return runtime::Process::join_as_driver(session_dir, std::move(job), wants_logs, arena);
  }();
  if (!joined) raise_status(joined.status(), "join the session in " + session_dir);
  return adopt(std::move(joined).value());
}

nb::dict join_session(const std::string& session_dir, std::uint64_t fork_token, std::uint64_t capacity_bytes,
                      std::uint64_t quota_bytes) {
  auto joined = [&] {
    nb::gil_scoped_release released;
    return runtime::Process::join_as_worker(
        session_dir, fork_token, [&](BytesView) { return memory::Arena::Options{capacity_bytes, quota_bytes}; });
  }();
  if (!joined) raise_status(joined.status(), "join the session in " + session_dir);
  the_process = std::move(joined).value().release();
  process_forks = os::fork_count();
  the_process->collect = collection_of;
  heed_signals(*the_process);
  return session_facts(*the_process);
}

void stop() {
  runtime::Process* leaving = process_or_null();
  if (leaving == nullptr) return;
  hide_metrics();
  {
    nb::gil_scoped_release released;
    leaving->stop();
    if (leaving->has_launched()) {
      (void)runtime::wait_session_end(leaving->daemon_pid(), Deadline::after(std::chrono::seconds(3)));
    }
  }
  // References that outlive the session still point into it: its memory stays.
  the_process = nullptr;
  drop_retired_values();
}

}  // namespace

bool on_main_thread() {
  // Asked of the kernel once per thread and fork: the thread that forks is its child's main one.
  struct Answer {
    std::uint64_t forks;
    bool yes;
  };
  thread_local std::optional<Answer> known;
  if (const auto forks = os::fork_count(); !known || known->forks != forks) {
    known = Answer{forks, ::getpid() == static_cast<pid_t>(::gettid())};
  }
  return known->yes;
}

runtime::Process* process_or_null() {
  return the_process != nullptr && process_forks == os::fork_count() ? the_process : nullptr;
}

runtime::Process& process() {
  runtime::Process* running = process_or_null();
  if (running == nullptr) {
    raise_error(store::ErrorKind::kSessionLost,
                the_process != nullptr && process_forks != os::fork_count()
                    ? "this process was made by fork(): it has no part in its parent's session. Use Beeline in the "
                      "parent, or start a fresh interpreter (multiprocessing's spawn method)"
                    : "no session runs: call init() first");
  }
  return *running;
}

void require_session(const runtime::Process* home, const char* what) {
  if (home == &process()) return;
  raise_error(store::ErrorKind::kSessionLost,
              std::string(what) + " belongs to a session of this process that has ended (shutdown was called)");
}

void set_hooks(nb::object hooks) {
  the_hooks = std::move(hooks);
}

nb::object hook(const char* name) {
  if (!the_hooks.is_valid()) throw std::runtime_error("set_hooks() was not called");
  return nb::object(the_hooks.attr(name));
}

void raise_error(store::ErrorKind kind, const std::string& message, std::uint64_t actor, const std::string& name,
                 std::string_view payload) {
  nb::object exception =
      hook("make_error")(static_cast<int>(kind), message, nb::bytes(payload.data(), payload.size()), actor, name);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
  throw nb::python_error();
}

nb::object make_exception(const store::Payload& failure) {
  const auto& what = *failure.failure;
  return hook("make_error")(static_cast<int>(what.kind), what.message,
                            nb::bytes(failure.skeleton.data(), failure.skeleton.size()), what.actor, what.name);
}

namespace {

// The one place where codes become kinds of exceptions (python/beeline/api/errors.py: kinds become classes).
struct Meaning {
  Code code;
  store::ErrorKind of_runtime;
  store::ErrorKind of_transfer;
  store::ErrorKind of_agent;
};
using Kind = store::ErrorKind;
constexpr Meaning kMeanings[] = {
    {Code::kInvalidArgument, Kind::kInvalid, Kind::kInvalid, Kind::kInvalid},
    {Code::kNotFound, Kind::kInvalid, Kind::kInvalid, Kind::kStaleReference},
    {Code::kAlreadyExists, Kind::kInvalid, Kind::kInvalid, Kind::kInvalid},
    {Code::kDeadlineExceeded, Kind::kSystem, Kind::kTimeout, Kind::kTransferTimeout},
    {Code::kCancelled, Kind::kSystem, Kind::kTransport, Kind::kTransferCancelled},
    {Code::kResourceExhausted, Kind::kOutOfMemory, Kind::kOutOfMemory, Kind::kOutOfMemory},
    {Code::kPeerLost, Kind::kSystem, Kind::kObjectLost, Kind::kPeerLost},
    {Code::kUnsupported, Kind::kSystem, Kind::kTransport, Kind::kUnavailable},
    {Code::kStale, Kind::kSystem, Kind::kObjectLost, Kind::kStaleReference},
    {Code::kCorrupt, Kind::kSystem, Kind::kTransport, Kind::kInvalid},
    {Code::kMutated, Kind::kMutated, Kind::kMutated, Kind::kMutated},
    {Code::kTorn, Kind::kTransport, Kind::kTransport, Kind::kTorn},
    {Code::kShutdown, Kind::kSessionLost, Kind::kSessionLost, Kind::kSessionLost},
};

}  // namespace

void raise_status(const Status& status, const std::string& what, Work work) {
  // What a signal's handler raised.
  if (status.code() == Code::kInterrupted && PyErr_Occurred() != nullptr) throw nb::python_error();
  auto kind = work == Work::kRuntime ? Kind::kSystem : Kind::kTransport;
  for (const auto& meaning : kMeanings) {
    if (meaning.code != status.code()) continue;
    kind = work == Work::kRuntime    ? meaning.of_runtime
           : work == Work::kTransfer ? meaning.of_transfer
                                     : meaning.of_agent;
  }
  raise_error(kind, what + ": " + status.message());
}

void bind_session(nb::module_& m) {
  m.def("start_session", &start_session, nb::arg("options"));
  m.def("start_lasting_session", &start_lasting_session, nb::arg("options"));
  m.def("join_as_driver", &join_as_driver, nb::arg("session_dir"), nb::arg("config"), nb::arg("wants_logs"),
        nb::arg("arena_quota_bytes"));
  m.def("prestart_worker", [](const std::map<std::string, std::string>& env) { process().prestart(env); });
  m.def("join_session", &join_session, nb::arg("session_dir"), nb::arg("fork_token"),
        nb::arg("arena_capacity_bytes") = 0, nb::arg("arena_quota_bytes") = 0);
  m.def("stop", &stop);
  m.def("is_running", [] { return process_or_null() != nullptr; });
  m.def("session_error", []() -> std::optional<std::string> {
    runtime::Process* running = process_or_null();
    return running == nullptr ? std::nullopt : running->session_error();
  });
  m.def("set_hooks", [](nb::object hooks) { set_hooks(std::move(hooks)); });
  m.def("usable_cpus", &os::usable_cpus);
  m.def("usable_memory", &os::usable_memory);
  m.def("default_quota_bytes", &runtime::default_quota_bytes);
  m.def("default_memory_resource", &runtime::default_memory_resource);
  m.def("remove_stale_sessions", [] {
    const auto removed = runtime::remove_stale_sessions();
    if (!removed) raise_status(removed.status(), "remove stale sessions");
    return dict_of("directories", removed.value().directories, "processes", removed.value().processes);
  });
  m.def("end_lost_session", [](const std::string& session_dir) {
    const auto ended = runtime::end_lost_session(session_dir);
    if (!ended) raise_status(ended.status(), "end what is left of " + session_dir);
    return ended.value();
  });
  m.def("live_sessions", [] {
    const auto sessions = runtime::live_sessions();
    if (!sessions) raise_status(sessions.status(), "list sessions");
    return sessions.value();
  });
}

}  // namespace beeline::python
