// The worker's side: taking calls, running Python code, sending results.
#include "worker.h"

#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <pthread.h>
#include <unistd.h>

#include <csignal>

#include "dicts.h"

namespace beeline::python {

Worker* worker = nullptr;

void check_mutation(const char* when) {
  if (shares_in_place()) worker->hooks.attr(when)();
}

bool should_exit() {
  auto& running = process();
  const runtime::Locked locked(running.lock());
  return worker->exit_requested || running.exiting_locked() || running.may_terminate();
}

namespace {

using store::PayloadPtr;

thread_local nb::object* current_task = nullptr;
// The call that the main thread executes, for the interrupting signal.
std::atomic<IncomingCall*> interruptible{nullptr};

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
    if (call.streams()) {
      send_items(call, value);
      interruptible.store(nullptr);
    } else {
      interruptible.store(nullptr);
      results = results_of(call, value);
    }
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
    running.leave();  // other threads may wait for a call
    return;
  }
  if (call.streams()) return finish_stream(call, raised);
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
  arguments.dependencies.assign(spec->dependencies.begin(), spec->dependencies.end());
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
    return cancel_async(call);
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
          running.executor().on_room = room_for_async;
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
  // Calls that other threads run come to their ends, but for the one that asked for this: it has none.
  if (worker->exit_requested && !worker->is_async) {
    (void)wait_with_signals(Deadline::never(), [&](Deadline slice) { return running.wait_for_calls(1, slice); });
  }
  if (worker->has_info && !worker->exit_requested && !running.exiting()) {
    running.actor_exited(runtime::control::DeathCause::kOutOfScope);
  }
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
  m.def("current_task", [] { return current_task == nullptr ? nb::none() : *current_task; });
  m.def("exit_actor", [] { worker->exit_requested = true; });
  m.def("actor_info", []() -> nb::object {
    if (worker == nullptr || !worker->has_info) return nb::none();
    return worker->info;
  });
  bind_async_worker(m);
}

}  // namespace beeline::python
