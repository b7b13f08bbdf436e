// A worker of a program in C++: runs the functions that the program has registered, or is one of its actors.
#include <unistd.h>

#include <cstring>
#include <exception>

#include "beeline/program/pickle.h"
#include "beeline/program/registry.h"
#include "beeline/program/state.h"

namespace beeline::program {
namespace {

using runtime::IncomingCall;
using runtime::Locked;
using runtime::Mode;
using runtime::Process;
using store::ErrorKind;
using store::PayloadPtr;

// What a function raised, as Python's get() raises it and status_of() reads it.
PayloadPtr raised(const std::string& function, const std::string& what, std::uint64_t actor) {
  Tuple about;
  about.items.emplace_back(function);
  about.items.emplace_back(what);
  about.items.emplace_back(static_cast<std::int64_t>(::getpid()));
  about.items.emplace_back(std::string());
  about.items.emplace_back(std::string());
  Tuple whole;
  whole.items.emplace_back(std::move(about));
  whole.items.emplace_back(Blob{pickle_call("beeline.exceptions", "CrossLanguageError", what)});
  auto payload = std::make_shared<store::Payload>();
  if (auto pickled = pickle(Value(std::move(whole)))) payload->skeleton = std::move(pickled->skeleton);
  payload->failure = std::make_unique<store::Failure>(store::Failure{ErrorKind::kTask, function, actor, function});
  return payload;
}

// Whatever the program's function does, the worker goes on.
template <typename Call>
auto guarded(Call&& call) -> decltype(call()) {
  try {
    return call();
  } catch (const std::exception& error) {
    return Status(Code::kRaised, error.what());
  } catch (...) {
    return Status(Code::kRaised, "it threw what is no std::exception");
  }
}

class Worker {
 public:
  explicit Worker(State& state) : state_(state), process_(*state.process) {}

  void run() {
    {
      const Locked locked(process_.lock());
      // A function of C++ cannot be interrupted; a process can be ended.
      process_.executor().on_cancel = [](IncomingCall& call, bool force) {
        if (force && call.header.actor == 0) ::_exit(1);
      };
    }
    std::uint64_t seen = 0;
    for (;;) {
      IncomingCall* call = nullptr;
      switch (process_.next_call(seen, call, Deadline::never())) {
        case Process::Next::kCall:
          execute(*call);
          break;
        case Process::Next::kAssigned: {
          const auto assignment = process_.assignment();
          seen = assignment.version;
          if (assignment.actor && !is_actor_ && !become(*assignment.actor)) return;
          break;
        }
        case Process::Next::kExit:
          instance_.reset();
          if (is_actor_ && !process_.exiting()) process_.actor_exited(runtime::control::DeathCause::kOutOfScope);
          return;
        case Process::Next::kInterrupted:
          break;
      }
    }
  }

 private:
  // The list of arguments, with the values of references in their places.
  Result<std::vector<Value>> arguments_of(const PayloadPtr& args, std::span<store::Entry* const> dependencies) {
    if (args->skeleton.empty() && !args->placement) return std::vector<Value>();
    BEELINE_ASSIGN(const auto whole, state_.from_payload(*args, Deadline::never()));
    const auto* parts = whole.as<Tuple>();
    const auto* list = parts != nullptr && parts->items.size() == 3 ? parts->items[0].as<List>() : nullptr;
    const auto* keywords = list != nullptr ? parts->items[1].as<Dict>() : nullptr;
    const auto* slots = keywords != nullptr ? parts->items[2].as<Tuple>() : nullptr;
    if (slots == nullptr || slots->items.size() != dependencies.size()) {
      return Status(Code::kCorrupt, "the arguments of a call do not add up");
    }
    if (!keywords->empty()) {
      return Status(Code::kInvalidArgument, "functions of C++ take no keyword arguments");
    }
    std::vector<Value> values = *list;
    for (std::size_t i = 0; i < dependencies.size(); ++i) {
      const auto* at = slots->items[i].as<std::int64_t>();
      if (at == nullptr || *at < 0 || static_cast<std::size_t>(*at) >= values.size()) {
        return Status(Code::kInvalidArgument, "functions of C++ take no keyword arguments");
      }
      BEELINE_ASSIGN(values[static_cast<std::size_t>(*at)], state_.value_of(*dependencies[i], Deadline::never()));
    }
    return values;
  }

  bool become(const runtime::control::AssignActor& assigned) {
    auto made = construct(assigned);
    if (!made) {
      const auto& why = made.status().message();
      const auto failure = raised(assigned.name.empty() ? class_name_ : assigned.name, why, assigned.actor);
      process_.actor_ready(true, class_name_ + " failed: " + why, as_bytes(failure->skeleton));
      return false;
    }
    instance_ = std::move(*made);
    is_actor_ = true;
    {
      const Locked locked(process_.lock());
      process_.executor().become_actor(true, {});
    }
    process_.actor_ready(false, {}, {});
    return true;
  }

  Result<std::shared_ptr<void>> construct(const runtime::control::AssignActor& assigned) {
    BEELINE_ASSIGN(auto spec, process_.open_spec(assigned.spec));
    class_name_ = spec.blob;
    const auto found = registry().factories.find(spec.blob);
    if (found == registry().factories.end()) {
      process_.release_spec(spec);
      return Status(Code::kNotFound, state_.program + " has registered no factory named '" + spec.blob + "'");
    }
    type_ = found->second.type;
    process_.set_executing_task(true);
    auto made = guarded([&]() -> Result<std::shared_ptr<void>> {
      BEELINE_ASSIGN(const auto arguments, arguments_of(spec.args, spec.dependencies));
      return found->second.make(arguments);
    });
    process_.set_executing_task(false);
    process_.release_spec(spec);
    return made;
  }

  // The registered function's name, as the call has it.
  Result<const Invoke*> find(const IncomingCall& call, std::string& name) {
    if (call.header.actor != 0) {
      name = class_name_ + "." + call.name;
      const auto method = registry().functions.find(type_ + "::" + call.name);
      if (method != registry().functions.end()) return &method->second;
      return Status(Code::kNotFound, class_name_ + " has no registered method named '" + call.name + "'");
    }
    name = call.name;
    std::shared_ptr<const std::string> definition;
    {
      const Locked locked(process_.lock());
      definition = process_.executor().function(call.header.function);
    }
    std::uint64_t size = 0;
    if (definition == nullptr || definition->size() < sizeof size)
      return Status(Code::kCorrupt, "a function's definition");
    std::memcpy(&size, definition->data(), sizeof size);
    const auto function = registry().functions.find(definition->substr(sizeof size, size));
    if (function != registry().functions.end()) return &function->second;
    return Status(Code::kNotFound,
                  state_.program + " has registered no function named '" + definition->substr(sizeof size, size) + "'");
  }

  void execute(IncomingCall& call) {
    const bool is_function = call.header.actor == 0;
    for (store::Entry* dependency : call.dependencies) {
      const auto payload = process_.payload(*dependency);
      if (payload && payload->is_error()) return process_.finish(call, {payload}, false);
    }
    std::string name;
    process_.set_executing_task(is_function);
    auto value = guarded([&]() -> Result<Value> {
      BEELINE_ASSIGN(const Invoke* const invoke, find(call, name));
      BEELINE_ASSIGN(const auto arguments, arguments_of(call.args, call.dependencies));
      return (*invoke)(instance_.get(), arguments);
    });
    if (value && !is_function && call.cancelled.load()) {  // as in Python
      process_.set_executing_task(false);
      const auto text = name + " was cancelled while it ran";
      return process_.finish(call, {store::make_failure(ErrorKind::kCancelled, text, call.header.actor)}, false);
    }
    auto results = value ? results_of(call, *value) : Result<std::vector<PayloadPtr>>(value.status());
    process_.set_executing_task(false);
    if (!results) {
      const bool retryable = (call.header.flags & runtime::kCallRetryExceptions) != 0;
      return process_.finish(call, {raised(name, results.status().message(), call.header.actor)}, retryable);
    }
    process_.finish(call, std::move(*results), false);
  }

  Result<std::vector<PayloadPtr>> results_of(const IncomingCall& call, const Value& value) {
    const auto mode = call.header.mode < 0 ? Mode::kStored : static_cast<Mode>(call.header.mode);
    if (mode > Mode::kSnapshot || call.streams()) {
      return Status(Code::kUnsupported, "functions of C++ give values through shared memory or the object store, once");
    }
    std::vector<PayloadPtr> results;
    if (call.header.return_count <= 1) {
      BEELINE_ASSIGN(auto result, state_.to_payload(value, mode));
      results.push_back(std::move(result));
      return results;
    }
    const auto* items = items_of(value);
    if (items == nullptr || items->size() != call.header.return_count) {
      return Status(Code::kInvalidArgument,
                    "it was called with num_returns=" + std::to_string(call.header.return_count) + " and returned " +
                        value.kind());
    }
    for (const auto& item : *items) {
      BEELINE_ASSIGN(auto result, state_.to_payload(item, mode));
      results.push_back(std::move(result));
    }
    return results;
  }

  State& state_;
  Process& process_;
  bool is_actor_ = false;
  std::string class_name_, type_;
  std::shared_ptr<void> instance_;
};

}  // namespace

void State::serve() {
  Worker(*this).run();
}

}  // namespace beeline::program
