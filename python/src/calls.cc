// Calling: actors, functions, and what is asked about them.
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.h"
#include "call_site.h"
#include "dicts.h"
#include "groups.h"
#include "hash.h"

namespace beeline::python {
namespace {

// A process's hold on an actor.
class ActorRef {
 public:
  ActorRef(std::uint64_t id, nb::object life)
      : home_(&process()), id_(id), life_(std::move(life)), target_(&home_->actor(id)) {}

  [[nodiscard]] std::uint64_t id() const { return id_; }
  [[nodiscard]] const nb::object& life() const { return life_; }
  // Raises when the session that the actor belongs to has ended.
  [[nodiscard]] runtime::ActorTarget& target() const {
    require_session(home_, "the actor handle");
    return *target_;
  }

 private:
  runtime::Process* home_;
  std::uint64_t id_;
  nb::object life_;  // None, or the ObjectRef that keeps the actor alive
  runtime::ActorTarget* target_;
};

// How a call gives its results: 0, one object per return; 1, a stream; 2, an object that is the collection of a stream.
enum Yields : int { kNoStream = 0, kStream = 1, kCollection = 2 };

void set_stream(runtime::CallOptions& options, int yields, std::uint32_t window) {
  if (yields == kNoStream) return;
  options.return_count = 1;
  options.window = window;
  options.flags |= runtime::kCallStreams;
  if (yields == kCollection) options.flags |= runtime::kCallCollects;
}

nb::object returns_of(const runtime::CallOptions& options, const std::vector<store::Entry*>& entries) {
  if (options.streams() && !options.collects()) return make_stream(*entries.front());
  if (entries.empty()) return nb::none();
  if (entries.size() == 1) return nb::cast(new Ref(*entries.front()), nb::rv_policy::take_ownership);
  nb::list refs;
  for (store::Entry* entry : entries) refs.append(nb::cast(new Ref(*entry), nb::rv_policy::take_ownership));
  return refs;
}

// Arguments are checked where the call is made. Calls without keywords and with a usual number of arguments surely
// fit, so that no Python runs for them.
class ArgumentCheck {
 public:
  void set(std::size_t least, std::size_t most, nb::object check) {
    least_ = least;
    most_ = most;
    check_ = std::move(check);
  }
  // Raises what the check raises: TypeError.
  void operator()(const nb::args& args, const nb::kwargs& kwargs) const {
    if (!check_.is_valid()) return;
    const std::size_t count = args.size();
    if (count < least_ || count > most_ || kwargs.size() > 0) check_(args, kwargs);
  }

 private:
  std::size_t least_ = 0;
  std::size_t most_ = 0;
  nb::object check_;  // (args, kwargs) -> None
};

// What workers need to know to run a function (or, without one, to decide on a method's retries): the function's
// pickle, the exceptions that let a call be retried, and after how many calls a worker exits (0: never).
std::string definition_of(std::string_view blob, nb::handle retry_exceptions, std::uint64_t max_calls) {
  nb::object filter = PyBool_Check(retry_exceptions.ptr()) ? nb::borrow(retry_exceptions)
                                                           : nb::object(nb::tuple(nb::borrow(retry_exceptions)));
  nb::object pickled = nb::module_::import_("cloudpickle").attr("dumps")(nb::make_tuple(filter, max_calls));
  return join_definition(blob,
                         {PyBytes_AsString(pickled.ptr()), static_cast<std::size_t>(PyBytes_Size(pickled.ptr()))});
}

bool is_true(nb::handle value) {
  return PyObject_IsTrue(value.ptr()) == 1;
}

class ActorCall {
 public:
  ActorCall(nb::object actor, const std::string& method, const std::string& name, const std::string& function_name,
            std::uint32_t num_returns, int mode, std::int32_t max_task_retries, nb::object retry_exceptions,
            std::uint32_t concurrency_group, std::int64_t max_pending_calls, int yields, std::uint32_t window)
      : actor_(std::move(actor)), max_pending_calls_(max_pending_calls) {
    options_.name = process().intern(name);
    options_.function_name = process().intern(function_name);
    options_.method = process().intern(method);
    options_.return_count = num_returns;
    options_.mode = static_cast<std::int8_t>(mode);
    options_.retries = max_task_retries;
    options_.group = concurrency_group;
    set_stream(options_, yields, window);
    if (is_true(retry_exceptions)) {
      options_.flags |= runtime::kCallRetryExceptions;
      auto definition = definition_of({}, retry_exceptions, 0);
      options_.function = hash_of(definition);
      process().define_function(options_.function, std::move(definition));
    }
  }

  void set_signature(std::size_t least, std::size_t most, nb::object check) {
    check_.set(least, most, std::move(check));
  }

  nb::object remote(const nb::args& args, const nb::kwargs& kwargs) {
    check_(args, kwargs);
    auto& target = nb::cast<ActorRef&>(actor_).target();
    auto& running = process();
    if (max_pending_calls_ > 0 && running.pending_calls(target) >= static_cast<std::uint64_t>(max_pending_calls_)) {
      raise_error(store::ErrorKind::kPendingCalls,
                  *options_.name + ": " + std::to_string(max_pending_calls_) +
                      " calls are pending already (max_pending_calls); wait for some of them");
    }
    std::vector<store::Entry*> dependencies;
    auto payload = to_call_payload(args, kwargs, dependencies);
    options_.call_site = call_site("(actor call)");
    return returns_of(options_, running.call_actor(target, options_, std::move(payload), dependencies));
  }

 private:
  nb::object actor_;
  runtime::CallOptions options_;
  std::int64_t max_pending_calls_;
  ArgumentCheck check_;
};

class FunctionCall {
 public:
  FunctionCall(nb::bytes blob, const std::string& name, const std::string& function_name, std::uint32_t num_returns,
               const std::map<std::string, double>& resources, int mode, std::int32_t max_retries,
               nb::object retry_exceptions, bool wants_torch, const std::map<std::string, std::string>& env,
               std::uint64_t max_calls, nb::handle scheduling, int yields, std::uint32_t window)
      : name_(name),
        function_name_(function_name),
        resources_(resources),
        wants_torch_(wants_torch),
        env_(env),
        scheduling_(to_scheduling(scheduling)) {
    options_.return_count = num_returns;
    options_.mode = static_cast<std::int8_t>(mode);
    options_.retries = max_retries;
    set_stream(options_, yields, window);
    definition_ = definition_of({blob.c_str(), blob.size()}, retry_exceptions, max_calls);
    options_.function = hash_of(definition_);
    if (is_true(retry_exceptions)) options_.flags |= runtime::kCallRetryExceptions;
  }

  void set_signature(std::size_t least, std::size_t most, nb::object check) {
    check_.set(least, most, std::move(check));
  }

  nb::object remote(const nb::args& args, const nb::kwargs& kwargs) {
    check_(args, kwargs);
    auto& running = process();
    if (&running != bound_to_) {
      options_.name = running.intern(name_);
      options_.function_name = running.intern(function_name_);
      running.define_function(options_.function, definition_);
      shape_ = &running.shape(resources_, wants_torch_, env_, scheduling_, name_);
      bound_to_ = &running;
    }
    std::vector<store::Entry*> dependencies;
    auto payload = to_call_payload(args, kwargs, dependencies);
    options_.call_site = call_site("(task call)");
    return returns_of(options_, running.call_function(*shape_, options_, std::move(payload), dependencies));
  }

 private:
  std::string definition_;
  std::string name_, function_name_;
  std::map<std::string, double> resources_;
  bool wants_torch_;
  std::map<std::string, std::string> env_;
  runtime::Scheduling scheduling_;
  runtime::CallOptions options_;
  runtime::Process* bound_to_ = nullptr;  // the session for which the rest is resolved
  runtime::Shape* shape_ = nullptr;
  ArgumentCheck check_;
};

template <typename T>
T option(const nb::dict& options, const char* name, T otherwise) {
  if (!options.contains(name) || nb::object(options[name]).is_none()) return otherwise;
  return nb::cast<T>(options[name]);
}

// What the worker needs of an actor's options: opaque to the daemon, pickled.
Bytes worker_options(const nb::dict& options, const std::string& class_name) {
  nb::dict kept;
  for (const char* name : {"max_concurrency", "is_async", "group_limits", "method_modes", "execute_out_of_order"}) {
    if (options.contains(name)) kept[name] = options[name];
  }
  kept["class_name"] = class_name;
  nb::object pickled = nb::module_::import_("pickle").attr("dumps")(kept);
  const auto* data = reinterpret_cast<const std::byte*>(PyBytes_AsString(pickled.ptr()));
  return {data, data + PyBytes_Size(pickled.ptr())};
}

ActorRef* create_actor(nb::bytes blob, const std::string& class_name, nb::handle args, nb::handle kwargs,
                       const nb::dict& options) {
  auto& running = process();
  runtime::control::CreateActor request;
  request.class_name = class_name;
  request.resources = option(options, "resources", runtime::Resources{});
  request.creation_resources = option(options, "creation_resources", runtime::Resources{});
  request.name = option(options, "name", std::string());
  request.name_space = option(options, "namespace", std::string());
  request.max_restarts = option(options, "max_restarts", 0);
  request.detached = option(options, "detached", false);
  request.wants_torch = option(options, "wants_torch", false);
  request.env = option(options, "env", std::map<std::string, std::string>{});
  request.scheduling = to_scheduling(options.get("scheduling", nb::none()));
  if (options.contains("handle_meta")) {
    const auto meta = nb::cast<nb::bytes>(options["handle_meta"]);
    const auto* data = reinterpret_cast<const std::byte*>(meta.c_str());
    request.handle_meta.assign(data, data + meta.size());
  }
  std::vector<store::Entry*> dependencies;
  auto payload = to_call_payload(args, kwargs, dependencies);
  const auto worker_side = worker_options(options, class_name);
  const bool named = !request.name.empty();
  const bool detached = request.detached;
  auto created = [&] {
    nb::gil_scoped_release released;
    return running.create_actor(std::move(request), std::move(payload), dependencies, {blob.c_str(), blob.size()},
                                worker_side, named);
  }();
  if (!created) raise_status(created.status(), "create actor " + class_name);
  nb::object life = nb::cast(new Ref(*created->life), nb::rv_policy::take_ownership);
  if (detached) {
    // Nobody's handle keeps a detached actor alive: it lives until it is killed or exits.
    running.add_hold(*created->life);
    life = nb::none();
  }
  return new ActorRef(created->id, std::move(life));
}

nb::dict actor_state(const ActorRef& actor) {
  const auto update = process().actor_state(actor.target().id);
  static constexpr const char* kStates[] = {"PENDING", "STARTING", "ALIVE", "RESTARTING", "DEAD"};
  return dict_of("state", kStates[std::min<std::size_t>(update.state, 4)], "pid", update.pid, "incarnation",
                 update.incarnation, "message", update.message);
}

}  // namespace

void bind_calls(nb::module_& m) {
  nb::class_<ActorRef>(m, "ActorRef", nb::is_weak_referenceable())
      .def("id", &ActorRef::id)
      .def("lifetime", [](const ActorRef& actor) { return actor.life(); });
  m.def(
      "restore_actor", [](std::uint64_t id, nb::object life) { return new ActorRef(id, std::move(life)); },
      nb::arg("actor_id"), nb::arg("lifetime").none(), nb::rv_policy::take_ownership);
  nb::class_<ActorCall>(m, "ActorCall", nb::dynamic_attr())
      .def(nb::init<nb::object, std::string, const std::string&, const std::string&, std::uint32_t, int, std::int32_t,
                    nb::object, std::uint32_t, std::int64_t, int, std::uint32_t>(),
           nb::arg("actor"), nb::arg("method"), nb::arg("name"), nb::arg("function_name"), nb::arg("num_returns"),
           nb::arg("mode"), nb::arg("max_task_retries"), nb::arg("retry_exceptions"), nb::arg("concurrency_group"),
           nb::arg("max_pending_calls"), nb::arg("yields"), nb::arg("window"))
      .def("set_signature", &ActorCall::set_signature, nb::arg("least"), nb::arg("most"), nb::arg("check"))
      .def("remote", &ActorCall::remote);
  nb::class_<FunctionCall>(m, "FunctionCall", nb::dynamic_attr())
      .def(nb::init<nb::bytes, const std::string&, const std::string&, std::uint32_t,
                    const std::map<std::string, double>&, int, std::int32_t, nb::object, bool,
                    const std::map<std::string, std::string>&, std::uint64_t, nb::handle, int, std::uint32_t>(),
           nb::arg("blob"), nb::arg("name"), nb::arg("function_name"), nb::arg("num_returns"), nb::arg("resources"),
           nb::arg("mode"), nb::arg("max_retries"), nb::arg("retry_exceptions"), nb::arg("wants_torch"), nb::arg("env"),
           nb::arg("max_calls"), nb::arg("scheduling").none(), nb::arg("yields"), nb::arg("window"))
      .def("set_signature", &FunctionCall::set_signature, nb::arg("least"), nb::arg("most"), nb::arg("check"))
      .def("remote", &FunctionCall::remote);
  m.def("create_actor", &create_actor, nb::arg("blob"), nb::arg("class_name"), nb::arg("args"), nb::arg("kwargs"),
        nb::arg("options"), nb::rv_policy::take_ownership);
  m.def("lookup_actor", [](const std::string& name, const std::string& name_space) -> nb::object {
    auto& running = process();
    auto found = [&] {
      nb::gil_scoped_release released;
      return running.lookup_actor(name, name_space);
    }();
    if (!found) raise_status(found.status(), "look up actor " + name);
    if (found->actor == 0) return nb::none();
    return nb::make_tuple(found->actor, nb::bytes(found->handle_meta.data(), found->handle_meta.size()));
  });
  m.def("list_named_actors", [](const std::string& name_space, bool all_namespaces) {
    auto& running = process();
    auto found = [&] {
      nb::gil_scoped_release released;
      return running.list_actors(name_space, all_namespaces);
    }();
    if (!found) raise_status(found.status(), "list named actors");
    nb::list names;
    for (const auto& [space, name] : found->names) names.append(nb::make_tuple(space, name));
    return names;
  });
  m.def("kill_actor",
        [](const ActorRef& actor, bool no_restart) { process().kill_actor(actor.target().id, no_restart); });
  m.def("actor_state", &actor_state);
  m.def("cancel", [](const Ref& ref, bool force, bool recursive) {
    if (force && process().is_actor_call(ref.entry())) {
      raise_error(store::ErrorKind::kInvalid, "cancel: force=True is not supported for actor tasks (" + ref.name() +
                                                  "); use kill() to end the actor");
    }
    process().cancel(ref.entry(), force, recursive);
  });
  m.def("stop_session", [](const std::string& session_dir, double timeout_s) {
    const auto status = [&] {
      nb::gil_scoped_release released;
      return runtime::stop_session(session_dir, Deadline::after_seconds(timeout_s));
    }();
    if (status.code() == Code::kDeadlineExceeded) return false;
    if (!status) raise_status(status, "stop the session in " + session_dir);
    return true;
  });
}

}  // namespace beeline::python
