// What a worker does with one call: its arguments, its results, the exception it ends with, the items it yields.
#include <nanobind/stl/string.h>

#include "hash.h"
#include "worker.h"

namespace beeline::python {

using store::PayloadPtr;

namespace {

int mode_of(const IncomingCall& call) {
  if (call.header.mode >= 0) return call.header.mode;
  const auto declared = worker->method_modes.find(call.name);
  return declared == worker->method_modes.end() ? 0 : declared->second;
}

std::string full_name(const IncomingCall& call) {
  return call.header.actor != 0 ? worker->class_name + "." + call.name : call.name;
}

bool is_interrupt(nb::handle exception) {
  return PyErr_GivenExceptionMatches(exception.ptr(), PyExc_KeyboardInterrupt) != 0;
}

// The next item, null at the end. Raises what user code raised.
nb::object next_of(nb::handle iterator) {
  nb::object item = nb::steal(PyIter_Next(iterator.ptr()));
  if (!item.is_valid() && PyErr_Occurred() != nullptr) throw nb::python_error();
  return item;
}

// What a generator yields, one item per return. As in Ray, returns that it did not get to have an error of their own.
std::vector<PayloadPtr> results_of_generator(const IncomingCall& call, nb::handle generator) {
  const auto mode = static_cast<runtime::Mode>(mode_of(call));
  const std::size_t wanted = call.header.return_count;
  std::vector<PayloadPtr> results;
  try {
    while (results.size() < wanted) {
      nb::object item = next_of(generator);
      if (!item.is_valid()) {
        const auto message = "Task returned " + std::to_string(results.size()) +
                             " objects, but num_returns=" + std::to_string(wanted) + ".";
        throw nb::value_error(message.c_str());
      }
      results.push_back(to_payload(item, mode));
    }
    if (next_of(generator).is_valid()) {
      nb::module_::import_("logging").attr("getLogger")("beeline").attr("warning")(
          "%s yields more than the num_returns=%s objects that it was called with; the rest is dropped",
          full_name(call), wanted);
    }
  } catch (nb::python_error& error) {
    nb::object exception = fetch_exception(error);
    if (results.empty() || is_interrupt(exception) || is_exit_request(exception) || is_retryable(call, exception)) {
      process().discard(results);
      throw;
    }
    if (results.size() == wanted) {  // there is no return that could have it
      nb::module_::import_("logging").attr("getLogger")("beeline").attr("warning")(
          "%s raised after it had yielded its num_returns=%s objects, and nobody is told: %r", full_name(call), wanted,
          exception);
    }
    results.resize(wanted, to_task_failure(exception, full_name(call), call.header.actor));
  } catch (const nb::builtin_exception& error) {
    if (results.empty()) throw;
    results.resize(wanted, to_task_failure(fetch_exception(error), full_name(call), call.header.actor));
  }
  return results;
}

}  // namespace

nb::object make_task(IncomingCall& call) {
  const auto& header = call.header;
  auto* task =
      new Task{full_name(call), header.function, header.task, header.actor, call.caller, header.attempt, &call};
  return nb::cast(task, nb::rv_policy::take_ownership);
}

PayloadPtr failed_argument(const IncomingCall& call) {
  for (store::Entry* dependency : call.dependencies) {
    const auto payload = process().payload(*dependency);
    if (payload && payload->is_error()) return payload;  // a lost one is made again
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

std::pair<nb::object, nb::object> arguments_of(const IncomingCall& call) {
  nb::object loaded = from_call_payload(call.args, Deadline::never());
  if (!loaded.is_valid()) return {nb::tuple(), nb::dict()};
  nb::object positional = loaded[0];
  nb::object keywords = loaded[1];
  nb::object slots = loaded[2];
  std::size_t index = 0;
  for (nb::handle slot : slots) {
    store::Entry* dependency = call.dependencies.at(index++);
    nb::object value = value_of(*dependency, nb::handle(), Deadline::never());
    if (PyLong_Check(slot.ptr())) {
      positional[slot] = value;
    } else {
      keywords[slot] = value;
    }
  }
  return {nb::steal(PySequence_Tuple(positional.ptr())), keywords};
}

std::vector<PayloadPtr> results_of(const IncomingCall& call, nb::handle value) {
  const auto mode = static_cast<runtime::Mode>(mode_of(call));
  std::vector<PayloadPtr> results;
  if (call.header.actor != 0 && !worker->is_async && call.cancelled.load()) {
    // A method of a plain actor is not interrupted: nobody gets what it returns although it was cancelled (as Ray).
    results.push_back(store::make_failure(store::ErrorKind::kCancelled, full_name(call) + " was cancelled while it ran",
                                          call.header.actor));
    return results;
  }
  if (call.header.return_count > 0 && PyGen_Check(value.ptr())) return results_of_generator(call, value);
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

void finish_with_exception(IncomingCall& call, nb::handle exception) {
  const std::string name = full_name(call);
  nb::object reported = nb::borrow(exception);
  if (is_interrupt(exception)) {
    // What left user code says only how it was told. As Ray, whoever told it.
    reported = nb::module_::import_("beeline.exceptions")
                   .attr("TaskCancelledError")(nb::arg("error_message") = name + " was cancelled while it ran");
    reported.attr("__cause__") = exception;
    PyException_SetTraceback(reported.ptr(), nb::object(exception.attr("__traceback__")).ptr());
  }
  const bool retryable = !call.cancelled.load() && is_retryable(call, exception);
  process().finish(call, {to_task_failure(reported, name, call.header.actor)}, retryable);
}

void finish_with_failed_argument(IncomingCall& call, const PayloadPtr& failed) {
  const std::string name = full_name(call);
  nb::object error = make_exception(*failed);
  process().finish(call, {to_task_failure(error, name, call.header.actor)}, false);
}

bool send_item(IncomingCall& call, nb::handle item) {
  check_mutation("after_call");
  drop_retired_values();
  return process().send_item(call, to_payload(item, static_cast<runtime::Mode>(mode_of(call))));
}

void send_items(IncomingCall& call, nb::handle iterable) {
  nb::object items = nb::steal(PyObject_GetIter(iterable.ptr()));
  if (!items.is_valid()) throw nb::python_error();
  auto& running = process();
  for (;;) {
    if (call.header.window > 0) {
      (void)wait_with_signals(Deadline::never(), [&](Deadline slice) { return running.wait_for_room(call, slice); });
    }
    // A method of a plain actor is not interrupted while it runs, but not gone on with either.
    if (call.cancelled.load()) break;
    nb::object item = next_of(items);
    if (!item.is_valid()) return;
    if (!send_item(call, item)) break;
  }
  if (nb::hasattr(items, "close")) items.attr("close")();
  if (!call.cancelled.load()) return;
  PyErr_SetNone(PyExc_KeyboardInterrupt);
  throw nb::python_error();
}

void finish_stream(IncomingCall& call, nb::handle exception) {
  if (exception.is_valid() && !exception.is_none()) {
    const bool runs_again = !call.cancelled.load() && is_retryable(call, exception);
    if (runs_again || is_interrupt(exception)) return finish_with_exception(call, exception);
    process().send_item(call, to_task_failure(exception, full_name(call), call.header.actor));
  }
  process().finish(call, {to_payload(nb::none(), runtime::Mode::kStored)}, false);
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

}  // namespace beeline::python
