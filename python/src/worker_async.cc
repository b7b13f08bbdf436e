// The worker of an async actor: its event loop takes calls here, and answers them.
#include <nanobind/stl/string.h>

#include "worker.h"

namespace beeline::python {
namespace {

using store::PayloadPtr;

// Tells the event loop, which calls `callback` with the tasks of the calls that still run. Another call may have come
// to lie where one that has ended did: `is_meant` tells them apart.
void tell(std::deque<IncomingCall*>& calls, const nb::object& callback, bool (*is_meant)(const IncomingCall&)) {
  std::deque<IncomingCall*> told;
  {
    const std::lock_guard guard(worker->news_mutex);
    told.swap(calls);
  }
  for (IncomingCall* call : told) {
    const auto task = worker->running_tasks.find(call);
    if (task != worker->running_tasks.end() && is_meant(*call) && callback.is_valid()) callback(task->second);
  }
}

void add_news(std::deque<IncomingCall*>& calls, IncomingCall& call) {
  const std::lock_guard guard(worker->news_mutex);
  calls.push_back(&call);
  os::signal_eventfd(worker->runnable_event.get());
}

// None when the process is to exit, else up to `limit` calls that may run.
nb::object next_calls(std::size_t limit) {
  auto& running = process();
  os::drain_eventfd(worker->runnable_event.get());
  drop_retired_values();
  tell(worker->cancelled, worker->cancelled_callback, [](const IncomingCall& call) { return call.cancelled.load(); });
  tell(worker->with_room, worker->room_callback, [](const IncomingCall&) { return true; });
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

IncomingCall& call_of(const Task& task) {
  if (task.call == nullptr) throw std::runtime_error((task.name + " was replied to already").c_str());
  return *task.call;
}

IncomingCall* take_call(Task& task) {
  IncomingCall* call = &call_of(task);
  task.call = nullptr;
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
  std::vector<PayloadPtr> results;
  try {
    results = results_of(call_of(task), value);
  } catch (nb::python_error& error) {
    return reply_error(task, fetch_exception(error));
  } catch (const nb::builtin_exception& error) {
    return reply_error(task, fetch_exception(error));
  }
  process().finish(*take_call(task), std::move(results), false);
}

}  // namespace

void cancel_async(IncomingCall& call) {
  add_news(worker->cancelled, call);
}

void room_for_async(IncomingCall& call) {
  add_news(worker->with_room, call);
}

void bind_async_worker(nb::module_& m) {
  m.def("streams", [](const Task& task) { return call_of(task).streams(); });
  m.def("has_room", [](const Task& task) {
    const runtime::Locked locked(process().lock());
    return call_of(task).has_room();
  });
  m.def(
      "send_item", [](const Task& task, nb::handle item) { return send_item(call_of(task), item); }, nb::arg("task"),
      nb::arg("item").none());
  m.def(
      "finish_stream", [](Task& task, nb::handle error) { finish_stream(*take_call(task), error); }, nb::arg("task"),
      nb::arg("error").none());
  m.def("set_room_callback", [](nb::object callback) { worker->room_callback = std::move(callback); });
  m.def("next_calls", &next_calls, nb::arg("limit"));
  m.def("calls_fileno", [] { return worker->runnable_event.get(); });
  m.def("reply", &reply, nb::arg("task"), nb::arg("value").none());
  m.def("reply_error", &reply_error);
  m.def("set_cancelled_callback", [](nb::object callback) { worker->cancelled_callback = std::move(callback); });
}

}  // namespace beeline::python
