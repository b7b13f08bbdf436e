// What the files of the worker's side share: the worker of this process, and what is done with one call.
#pragma once

#include <pthread.h>

#include <deque>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bindings.h"

namespace beeline::python {

using runtime::IncomingCall;

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
  // Of an async actor.
  std::mutex news_mutex;
  std::deque<IncomingCall*> cancelled, with_room;               // need news_mutex
  std::unordered_map<IncomingCall*, nb::object> running_tasks;  // call -> Task
  nb::object cancelled_callback, room_callback;
};
// Of this process; null where it is no worker.
extern Worker* worker;

// ----- one call; the GIL is held
nb::object make_task(IncomingCall& call);
// The function's own definition, loaded at its first call.
Worker::Function& function_of(const IncomingCall& call);
nb::object callable_of(const IncomingCall& call);
// The error of the first argument that has one, else null.
store::PayloadPtr failed_argument(const IncomingCall& call);
// Positional and keyword arguments with the values of references filled in.
std::pair<nb::object, nb::object> arguments_of(const IncomingCall& call);
// As many payloads as the call has returns. Raises where the value does not have as many.
std::vector<store::PayloadPtr> results_of(const IncomingCall& call, nb::handle value);
// Whether the caller lets the call run again after this exception.
bool is_retryable(const IncomingCall& call, nb::handle exception);
bool is_exit_request(nb::handle exception);
nb::object fetch_exception(nb::python_error& error);
nb::object fetch_exception(const nb::builtin_exception& error);

// Ends the call with an exception of user code.
void finish_with_exception(IncomingCall& call, nb::handle exception);
// Ends a call whose argument has failed: it never starts. As in Ray, its error is of the same kind, and its own.
void finish_with_failed_argument(IncomingCall& call, const store::PayloadPtr& failed);

// ----- one that streams
// Sends an item; false if nobody takes more.
bool send_item(IncomingCall& call, nb::handle item);
// Sends what an iterator yields, until it ends or nobody takes more. Waits while the caller has not taken enough.
void send_items(IncomingCall& call, nb::handle iterable);
// Ends it: what user code raised, if anything, is its last item. As in Ray, what ended it from outside is the error of
// the call itself.
void finish_stream(IncomingCall& call, nb::handle exception);

// Compares the version counters of tensors that this process has published in place, while there are any.
void check_mutation(const char* when);
// Whether the process is to leave its loop.
bool should_exit();
// Executor::on_cancel and on_room of an async actor.
void cancel_async(IncomingCall& call);
void room_for_async(IncomingCall& call);
void bind_async_worker(nb::module_& m);

}  // namespace beeline::python
