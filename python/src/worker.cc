// The worker's side: taking calls, running Python code, sending results.
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <deque>
#include <mutex>
#include <unordered_map>

#include "bindings.h"
#include "dicts.h"
#include "hash.h"

namespace beeline::python {
namespace {

using runtime::IncomingCall;
using store::PayloadPtr;

// What runs now; outlives the call for whoever keeps it.
struct Task {
  std::string name;            // "Counter.incr", or what the caller named it
  std::uint64_t function = 0;  // key
  std::uint64_t serial = 0;
  std::uint64_t actor = 0;
  runtime::ProcessIndex caller = 0;
  std::uint32_t attempt = 0;
  IncomingCall* call = nullptr;  // null once it was replied to
};

struct Worker {
  nb::object hooks;
  nb::object instance;
  std::string class_name;
  std::unordered_map<std::string, nb::object> methods;  // bound, by name
  struct Function {
    nb::object callable;
    nb::object retryable;          // True, or the exception types that let a call be retried
    std::uint64_t calls_left = 0;  // until this worker exits; 0: no matter
  };
  std::unordered_map<std::uint64_t, Function> functions;  // by key
  std::unordered_map<std::string, int> method_modes;
  nb::dict info;
  bool has_info = false;
  runtime::Resources lease_resources;
  pthread_t main_thread{};
  bool exit_requested = false;
  bool is_async = false;
  int concurrency = 1;  // of an actor: calls at once, of all concurrency groups together
  os::Fd runnable_event;
  std::mutex cancel_mutex;
  std::deque<IncomingCall*> cancelled;
  std::unordered_map<IncomingCall*, nb::object> running_tasks;  // async: call -> Task
  nb::object cancelled_callback;
};
Worker* worker = nullptr;
thread_local nb::object* current_task = nullptr;
// The call that the main thread executes, for the interrupting signal.
std::atomic<IncomingCall*> interruptible{nullptr};

nb::object make_task(IncomingCall& call) {
  const auto& header = call.header;
  auto* task = new Task{call.name, header.function, header.task, header.actor, call.caller, header.attempt, &call};
  if (call.header.actor != 0) task->name = worker->class_name + "." + call.name;
  return nb::cast(task, nb::rv_policy::take_ownership);
}

// The error of the first argument that has one, else null.
PayloadPtr failed_argument(const IncomingCall& call) {
  for (store::Entry* dependency : call.dependencies) {
    const auto payload = process().payload(*dependency);
    if (payload->is_error()) return payload;
  }
  return nullptr;
}

Worker::Function& function_of(const IncomingCall& call) {
  const auto found = worker->functions.find(call.header.function);
  if (found != worker->functions.end()) return found->second;
  std::shared_ptr<const std::string> definition;
  {
    const runtime::Locked locked(process().lock());
    definition = process().executor().function(call.header.function);
  }
  const auto [blob, filter] = split_definition(*definition);
  Worker::Function function;
  if (!blob.empty()) function.callable = worker->hooks.attr("load_function")(nb::bytes(blob.data(), blob.size()));
  nb::object limits = nb::module_::import_("pickle").attr("loads")(nb::bytes(filter.data(), filter.size()));
  function.retryable = nb::object(limits[0]);
  function.calls_left = nb::cast<std::uint64_t>(limits[1]);
  return worker->functions[call.header.function] = std::move(function);
}

nb::object callable_of(const IncomingCall& call) {
  if (call.header.actor == 0) return function_of(call).callable;
  const auto found = worker->methods.find(call.name);
  if (found != worker->methods.end()) return found->second;
  nb::object method = nb::object(worker->instance.attr(call.name.c_str()));
  worker->methods[call.name] = method;
  return method;
}

bool is_retryable(const IncomingCall& call, nb::handle exception) {
  if ((call.header.flags & runtime::kCallRetryExceptions) == 0) return false;
  if (PyErr_GivenExceptionMatches(exception.ptr(), PyExc_Exception) == 0) return false;
  const auto& filter = function_of(call).retryable;
  return filter.is(nb::bool_(true)) || PyErr_GivenExceptionMatches(exception.ptr(), filter.ptr()) != 0;
}

// Positional and keyword arguments with the values of references filled in.
std::pair<nb::object, nb::object> arguments_of(const IncomingCall& call) {
  nb::object loaded = from_call_payload(call.args, Deadline::never());
  if (!loaded.is_valid()) return {nb::tuple(), nb::dict()};
  nb::object positional = loaded[0];
  nb::object keywords = loaded[1];
  nb::object slots = loaded[2];
  std::size_t index = 0;
  for (nb::handle slot : slots) {
    store::Entry* dependency = call.dependencies.at(index++);
    nb::object value = from_payload(process().payload(*dependency), nb::handle(), Deadline::never());
    if (PyLong_Check(slot.ptr())) {
      positional[slot] = value;
    } else {
      keywords[slot] = value;
    }
  }
  return {nb::steal(PySequence_Tuple(positional.ptr())), keywords};
}

int mode_of(const IncomingCall& call) {
  if (call.header.mode >= 0) return call.header.mode;
  const auto declared = worker->method_modes.find(call.name);
  return declared == worker->method_modes.end() ? 0 : declared->second;
}

std::vector<PayloadPtr> results_of(const IncomingCall& call, nb::handle value) {
  const auto mode = static_cast<runtime::Mode>(mode_of(call));
  std::vector<PayloadPtr> results;
  if (call.header.return_count == 1) {
    results.push_back(to_payload(value, mode));
  } else if (call.header.return_count > 1) {
    if (!PyTuple_Check(value.ptr()) && !PyList_Check(value.ptr())) {
      throw nb::type_error((call.name + " was called with num_returns=" + std::to_string(call.header.return_count) +
                            " but returned one " + Py_TYPE(value.ptr())->tp_name + ", not a tuple or list")
                               .c_str());
    }
    if (nb::len(value) != call.header.return_count) {
      throw nb::value_error((call.name + " was called with num_returns=" + std::to_string(call.header.return_count) +
                             " but returned " + std::to_string(nb::len(value)) + " values")
                                .c_str());
    }
    try {
      for (nb::handle item : value) results.push_back(to_payload(item, mode));
    } catch (...) {
      process().discard(results);
      throw;
    }
  }
  return results;
}

// Ends the call with the Python exception that is being handled.
void finish_with_exception(IncomingCall& call, nb::handle exception) {
  const std::string name = call.header.actor != 0 ? worker->class_name + "." + call.name : call.name;
  nb::object reported = nb::borrow(exception);
  if (PyErr_GivenExceptionMatches(exception.ptr(), PyExc_KeyboardInterrupt) != 0) {
    // What left user code says only how it was told. As Ray, whoever told it.
    reported = nb::module_::import_("beeline.exceptions")
                   .attr("TaskCancelledError")(nb::arg("error_message") = name + " was cancelled while it ran");
    reported.attr("__cause__") = exception;
    PyException_SetTraceback(reported.ptr(), nb::object(exception.attr("__traceback__")).ptr());
  }
  const bool retryable = !call.cancelled.load() && is_retryable(call, exception);
  process().finish(call, {to_task_failure(reported, name, call.header.actor)}, retryable);
}

// Ends a call whose argument has failed: it never starts. As in Ray, its error is of the same kind, and its own.
void finish_with_failed_argument(IncomingCall& call, const PayloadPtr& failed) {
  const std::string name = call.header.actor != 0 ? worker->class_name + "." + call.name : call.name;
  nb::object error = make_exception(*failed);
  process().finish(call, {to_task_failure(error, name, call.header.actor)}, false);
}

nb::object fetch_exception(nb::python_error& error) {
  nb::object value = nb::borrow(error.value());
  if (error.traceback().is_valid()) PyException_SetTraceback(value.ptr(), error.traceback().ptr());
  return value;
}

nb::object fetch_exception(const nb::builtin_exception& error) {
  const char* type = error.type() == nb::exception_type::type_error ? "TypeError" : "ValueError";
  return nb::module_::import_("builtins").attr(type)(error.what());
}

bool is_exit_request(nb::handle exception) {
  return PyErr_GivenExceptionMatches(exception.ptr(), PyExc_SystemExit) != 0;
}

// Compares the version counters of tensors that this process has published in place, while there are any.
void check_mutation(const char* when) {
  if (shares_in_place()) worker->hooks.attr(when)();
}

// The last call of a function with max_calls: this worker takes no other from here on.
void count_call(const IncomingCall& call) {
  auto& calls_left = function_of(call).calls_left;
  if (calls_left == 0 || --calls_left > 0) return;
  const runtime::Locked locked(process().lock());
  process().executor().leave();
}

// Tells Python what the actor or the lease has, and where it is.
void assign(const runtime::control::WorkPlace& place,
            const std::map<std::string, std::vector<std::int32_t>>& accelerators, const runtime::Resources& resources) {
  worker->hooks.attr("assign")(nb::cast(accelerators), nb::cast(resources), place.node, place.group, place.capture);
}

// Runs one call in this thread. The GIL is held.
void execute(IncomingCall& call) {
  auto& running = process();
  drop_retired_values();
  if (const auto failed = failed_argument(call)) return finish_with_failed_argument(call, failed);
  nb::object task = make_task(call);
  auto* outer_task = std::exchange(current_task, &task);
  const bool on_main = pthread_equal(pthread_self(), worker->main_thread) != 0;
  const bool function = call.header.actor == 0;
  running.set_executing_task(function);
  const auto outer_call = runtime::set_executing_call({call.caller, call.header.task});
  if (on_main && function) interruptible.store(&call);
  std::vector<PayloadPtr> results;
  nb::object raised;
  nb::object value;  // until its references are pinned by finish()
  try {
    // Cancelled before it could be interrupted.
    if (on_main && function && call.cancelled.load()) {
      PyErr_SetNone(PyExc_KeyboardInterrupt);
      throw nb::python_error();
    }
    nb::object target = callable_of(call);
    auto [positional, keywords] = arguments_of(call);
    if (function) count_call(call);
    value = nb::steal(PyObject_Call(target.ptr(), positional.ptr(), keywords.ptr()));
    if (!value.is_valid()) throw nb::python_error();
    interruptible.store(nullptr);
    results = results_of(call, value);
    const bool waits = runtime::Process::set_cleaning_waits(true);
    positional.reset();
    keywords.reset();
    runtime::Process::set_cleaning_waits(waits);
  } catch (nb::python_error& error) {
    raised = fetch_exception(error);
  } catch (const nb::builtin_exception& error) {
    raised = fetch_exception(error);
  }
  interruptible.store(nullptr);
  running.set_executing_task(false);
  runtime::set_executing_call(outer_call);
  current_task = outer_task;
  nb::cast<Task&>(task).call = nullptr;
  // Before the answer leaves: whoever acts on it finds what was written marked.
  check_mutation("after_call");
  if (raised.is_valid() && is_exit_request(raised)) {
    // The process ends without an answer. exit_actor(): the call fails with the actor's death, which the daemon
    // announces to all callers; sys.exit() in a function is a crash of its worker (as Ray).
    worker->exit_requested = true;
    if (call.header.actor != 0) running.actor_exited(runtime::control::DeathCause::kExited);
    return;
  }
  if (raised.is_valid()) return finish_with_exception(call, raised);
  running.finish(call, std::move(results), false);
}

enum class LoopEnd { kExit, kReassigned };

// Takes and runs calls until told otherwise.
LoopEnd run_calls(std::uint64_t seen) {
  auto& running = process();
  for (;;) {
    IncomingCall* call = nullptr;
    auto next = runtime::Process::Next::kInterrupted;
    {
      nb::gil_scoped_release released;
      next = running.next_call(seen, call, Deadline::never());
    }
    switch (next) {
      case runtime::Process::Next::kExit:
        return LoopEnd::kExit;
      case runtime::Process::Next::kAssigned:
        return LoopEnd::kReassigned;
      case runtime::Process::Next::kInterrupted:
        drop_retired_values();
        // A late interrupt of a call that is over.
        if (PyErr_CheckSignals() != 0) PyErr_Clear();
        continue;
      case runtime::Process::Next::kCall:
        check_mutation("before_call");
        execute(*call);
        if (worker->exit_requested) return LoopEnd::kExit;
    }
  }
}

void construct_actor(const runtime::control::AssignActor& assigned) {
  auto& running = process();
  auto spec = running.open_spec(assigned.spec);
  if (!spec) raise_status(spec.status(), "construct an actor");
  nb::object options =
      nb::module_::import_("pickle").attr("loads")(nb::bytes(spec->options.data(), spec->options.size()));
  worker->class_name = nb::cast<std::string>(options["class_name"]);
  worker->is_async = nb::cast<bool>(options["is_async"]);
  if (nb::cast<bool>(options.attr("__contains__")("method_modes"))) {
    worker->method_modes = {};
    for (auto [method, mode] : nb::cast<nb::dict>(options["method_modes"])) {
      worker->method_modes[nb::cast<std::string>(method)] = nb::cast<int>(mode);
    }
  }
  const nb::object max_concurrency = options["max_concurrency"];
  const nb::dict info =
      dict_of("actor_id", assigned.actor, "incarnation", assigned.incarnation, "name", assigned.name, "namespace",
              assigned.name_space, "accelerators", assigned.accelerators, "resources", assigned.resources, "is_async",
              worker->is_async, "max_concurrency", max_concurrency, "class_name", worker->class_name);
  worker->info = info;
  worker->has_info = true;
  const auto limits = nb::cast<std::vector<std::uint32_t>>(options["group_limits"]);
  worker->concurrency = nb::cast<int>(max_concurrency);
  for (std::size_t group = 1; group < limits.size(); ++group) worker->concurrency += static_cast<int>(limits[group]);
  {
    const runtime::Locked locked(running.lock());
    const bool in_order = !nb::cast<bool>(options.attr("get")("execute_out_of_order", false));
    running.executor().become_actor(in_order, limits);
  }
  IncomingCall arguments;
  arguments.args = spec->args;
  arguments.dependencies = spec->dependencies;
  running.set_executing_task(true);
  (void)wait_with_signals(Deadline::never(), [&](Deadline slice) {
    return running.wait(arguments.dependencies, arguments.dependencies.size(), slice);
  });
  auto [positional, keywords] = arguments_of(arguments);
  worker->instance = worker->hooks.attr("create_actor")(nb::bytes(spec->blob.data(), spec->blob.size()),
                                                        nb::list(positional), keywords, info);
  running.set_executing_task(false);
  running.release_spec(*spec);
}

// False if __init__ failed.
bool become_actor(const runtime::control::AssignActor& assigned) {
  auto& running = process();
  try {
    construct_actor(assigned);
  } catch (nb::python_error& error) {
    nb::object exception = fetch_exception(error);
    const auto failed = to_task_failure(exception, worker->class_name + ".__init__", assigned.actor);
    running.actor_ready(
        true,
        worker->class_name + ".__init__ raised " + nb::cast<std::string>(nb::str(exception.type().attr("__name__"))),
        as_bytes(failed->skeleton));
    return false;
  }
  running.actor_ready(false, {}, {});
  return true;
}

void interrupt_main(IncomingCall& call, bool force) {
  if (call.header.actor != 0) {
    if (!worker->is_async) return;  // a running method of a plain actor is not interrupted (as Ray)
    const std::lock_guard guard(worker->cancel_mutex);
    worker->cancelled.push_back(&call);
    os::signal_eventfd(worker->runnable_event.get());
    return;
  }
  if (force) ::_exit(1);  // the caller sees the process end, and knows that it cancelled
  if (interruptible.load() == &call) pthread_kill(worker->main_thread, SIGINT);
}

void run_threads(int count) {
  nb::object threading = nb::module_::import_("threading");
  nb::object target = nb::module_::import_("beeline._core").attr("_run_calls");
  for (int i = 1; i < count; ++i) {
    nb::object thread = threading.attr("Thread")(nb::arg("target") = target, nb::arg("daemon") = true,
                                                 nb::arg("name") = "beeline-call-" + std::to_string(i));
    thread.attr("start")();
  }
}

void run_worker(nb::object hooks) {
  auto& running = process();
  set_hooks(hooks);
  worker = new Worker;
  worker->hooks = std::move(hooks);
  worker->main_thread = pthread_self();
  auto event = os::make_eventfd();
  if (!event) raise_status(event.status(), "start a worker");
  worker->runnable_event = std::move(event).value();
  {
    const runtime::Locked locked(running.lock());
    running.executor().on_cancel = interrupt_main;
  }
  watch_publications(running);
  std::uint64_t seen = 0;
  if (running.assignment().version == 0) worker->hooks.attr("rehearse")();
  for (;;) {
    const auto assignment = running.assignment();
    seen = assignment.version;
    if (assignment.actor && !worker->instance.is_valid()) {
      assign(assignment.actor->place, assignment.actor->accelerators, assignment.actor->resources);
      if (!become_actor(*assignment.actor)) return;
      if (worker->is_async) {
        {
          const runtime::Locked locked(running.lock());
          running.executor().on_runnable = [] { os::signal_eventfd(worker->runnable_event.get()); };
          if (running.executor().has_runnable()) os::signal_eventfd(worker->runnable_event.get());
        }
        worker->hooks.attr("start_async")(worker->instance, worker->concurrency);
        break;
      }
      run_threads(worker->concurrency);
    } else if (assignment.lease) {
      assign(assignment.lease->place, assignment.lease->accelerators, assignment.lease->resources);
      worker->lease_resources = assignment.lease->resources;
    }
    if (run_calls(seen) == LoopEnd::kExit) break;
  }
  if (worker->has_info && !worker->exit_requested && !running.exiting()) {
    running.actor_exited(runtime::control::DeathCause::kOutOfScope);
  }
}

bool should_exit() {
  auto& running = process();
  const runtime::Locked locked(running.lock());
  return worker->exit_requested || running.exiting_locked() || running.may_terminate();
}

// For async actors: None when the process is to exit, else up to `limit` calls that may run.
nb::object next_calls(std::size_t limit) {
  auto& running = process();
  os::drain_eventfd(worker->runnable_event.get());
  drop_retired_values();
  std::deque<IncomingCall*> cancelled;
  {
    const std::lock_guard guard(worker->cancel_mutex);
    cancelled.swap(worker->cancelled);
  }
  for (IncomingCall* call : cancelled) {
    const auto task = worker->running_tasks.find(call);
    if (task != worker->running_tasks.end() && worker->cancelled_callback.is_valid()) {
      worker->cancelled_callback(task->second);
    }
  }
  if (should_exit()) return nb::none();
  nb::list calls;
  while (nb::len(calls) < limit) {
    IncomingCall* call = running.try_take();
    if (call == nullptr) break;
    if (const auto failed = failed_argument(*call)) {
      finish_with_failed_argument(*call, failed);
      continue;
    }
    try {
      auto [positional, keywords] = arguments_of(*call);
      nb::object task = make_task(*call);
      worker->running_tasks[call] = task;
      calls.append(nb::make_tuple(task, call->name, positional, keywords));
    } catch (nb::python_error& error) {
      finish_with_exception(*call, fetch_exception(error));
    }
  }
  return nb::object(std::move(calls));
}

IncomingCall* take_call(Task& task) {
  IncomingCall* call = std::exchange(task.call, nullptr);
  if (call == nullptr) throw std::runtime_error((task.name + " was replied to already").c_str());
  worker->running_tasks.erase(call);
  return call;
}

void reply_error(Task& task, nb::handle exception) {
  IncomingCall* call = take_call(task);
  if (is_exit_request(exception)) {
    worker->exit_requested = true;
    process().actor_exited(runtime::control::DeathCause::kExited);
    return;
  }
  finish_with_exception(*call, exception);
}

void reply(Task& task, nb::handle value) {
  IncomingCall* call = task.call;
  if (call == nullptr) throw std::runtime_error((task.name + " was replied to already").c_str());
  std::vector<PayloadPtr> results;
  try {
    results = results_of(*call, value);
  } catch (nb::python_error& error) {
    return reply_error(task, fetch_exception(error));
  } catch (const nb::builtin_exception& error) {
    return reply_error(task, fetch_exception(error));
  }
  process().finish(*take_call(task), std::move(results), false);
}

}  // namespace

void bind_worker(nb::module_& m) {
  nb::class_<Task>(m, "Task", nb::dynamic_attr(), nb::is_weak_referenceable())
      .def("name", [](const Task& task) { return task.name; })
      .def("function_name",
           [](const Task& task) {
             const auto found = worker->functions.find(task.function);
             if (task.actor != 0 || found == worker->functions.end()) return task.name;
             const auto own = nb::getattr(found->second.callable, "__qualname__", nb::str(task.name.c_str()));
             return nb::cast<std::string>(nb::str(own));
           })
      .def("task_id",
           [](const Task& task) {
             // As the reference of its first result has it.
             const auto id = binary_of({task.caller, store::ObjectKind::kValue, task.serial});
             return nb::bytes(id.data(), kTaskIdSize);
           })
      .def("attempt", [](const Task& task) { return task.attempt; })
      .def("is_cancelled", [](const Task& task) { return task.call != nullptr && task.call->cancelled.load(); })
      .def("resources", [](const Task&) {
        return worker->has_info ? nb::cast<std::map<std::string, double>>(worker->info["resources"])
                                : worker->lease_resources;
      });
  m.def("run_worker", &run_worker);
  m.def("_run_calls", [] { run_calls(process().assignment().version); });
  m.def("next_calls", &next_calls, nb::arg("limit"));
  m.def("calls_fileno", [] { return worker->runnable_event.get(); });
  m.def("reply", &reply, nb::arg("task"), nb::arg("value").none());
  m.def("reply_error", &reply_error);
  m.def("current_task", [] { return current_task == nullptr ? nb::none() : *current_task; });
  m.def("exit_actor", [] { worker->exit_requested = true; });
  m.def("actor_info", []() -> nb::object {
    if (worker == nullptr || !worker->has_info) return nb::none();
    return worker->info;
  });
  m.def("set_cancelled_callback", [](nb::object callback) { worker->cancelled_callback = std::move(callback); });
}

}  // namespace beeline::python
