// The one Process of this interpreter, and how C++ failures become Python exceptions.
#pragma once

#include <nanobind/nanobind.h>

#include "beeline/runtime/process.h"

namespace nb = nanobind;

namespace beeline::python {

// The running process; raises (ERROR_SESSION_LOST) when there is none, or in a child of fork().
runtime::Process& process();
// nullptr when none runs. Stays valid until the interpreter ends: stop() ends its work, not its memory.
runtime::Process* process_or_null();
// Raises unless `home` is the running process: `what` belongs to a session that has ended.
void require_session(const runtime::Process* home, const char* what);

// beeline.api's functions that the core calls (set_hooks, run_worker).
nb::object hook(const char* name);
void set_hooks(nb::object hooks);

// Raises what hooks.make_error makes. Needs the GIL.
[[noreturn]] void raise_error(store::ErrorKind kind, const std::string& message, std::uint64_t actor = 0,
                              const std::string& name = {}, std::string_view payload = {});
// What failed: a transfer of a value between processes, one between agents, or anything else that the runtime does.
enum class Work : std::uint8_t { kRuntime, kTransfer, kAgent };
[[noreturn]] void raise_status(const Status& status, const std::string& what, Work work = Work::kRuntime);
nb::object make_exception(const store::Payload& failure);

// Waits in C++ with the GIL released, in slices short enough for signal handlers to run on the main thread.
// `wait_once(deadline)` returns the outcome of one wait.
template <typename WaitOnce>
runtime::WaitOutcome wait_with_signals(Deadline deadline, WaitOnce&& wait_once);

void bind_session(nb::module_& m);

// ----- implementation

bool on_main_thread();

template <typename WaitOnce>
runtime::WaitOutcome wait_with_signals(Deadline deadline, WaitOnce&& wait_once) {
  // A signal that arrives between Python's handler and our sleep would be noticed only after the sleep: a main
  // thread that may be interrupted looks now and then.
  const bool tick = on_main_thread() && (process().is_driver() || runtime::Process::is_executing_task());
  for (;;) {
    auto slice = deadline;
    if (tick) {
      const auto soon = Deadline::after(std::chrono::milliseconds(200));
      if (soon.at() < deadline.at()) slice = soon;
    }
    auto outcome = runtime::WaitOutcome::kDone;
    {
      nb::gil_scoped_release released;
      outcome = wait_once(slice);
    }
    if (outcome == runtime::WaitOutcome::kDone) return outcome;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    if (outcome == runtime::WaitOutcome::kTimedOut && deadline.passed()) return outcome;
  }
}

}  // namespace beeline::python
