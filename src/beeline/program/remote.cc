// Calls that the program makes, and actors that it starts.
#include "beeline/program/remote.h"

#include <functional>

#include "beeline/program/pickle.h"
#include "beeline/program/state.h"

namespace beeline::program {

struct Actor::Impl {
  std::shared_ptr<State> home;
  runtime::ActorId id = 0;
  Reference life;  // nil: it does not keep the actor
};

namespace {

using runtime::Mode;

// As python/src/hash.h has it: the size of the first part, the parts. The second is what Python's workers know of
// retries (none by exception) and of max_calls (without bound).
Result<std::string> definition(const std::string& blob) {
  Tuple limits;
  limits.items.emplace_back(false);
  limits.items.emplace_back(std::int64_t{0});
  BEELINE_ASSIGN(const auto pickled, pickle(Value(std::move(limits))));
  const std::uint64_t size = blob.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof size) + blob + pickled.skeleton;
}

Result<Reference> call(const std::string& name, const std::string& blob, const std::string& program,
                       std::vector<Argument> arguments, const TaskOptions& options) {
  BEELINE_ASSIGN(const auto state, State::current());
  auto& process = *state->process;
  runtime::CallOptions call;
  call.name = process.intern(name);
  call.retries = options.max_retries;
  call.mode = static_cast<std::int8_t>(options.direct ? Mode::kLive : Mode::kStored);
  BEELINE_ASSIGN(auto defined, definition(blob));
  // Of the same program the same name is the same function, whoever calls it.
  call.function = std::hash<std::string>{}(program + '\n' + defined) | 1;
  process.define_function(call.function, std::move(defined));
  std::map<std::string, std::string> env;
  if (!program.empty()) env[runtime::kProgramVariable] = program;
  auto& shape = process.shape(options.resources, false, env, {}, name);
  std::vector<store::Entry*> dependencies;
  BEELINE_ASSIGN(auto payload, state->to_call_payload(std::move(arguments), dependencies));
  return state->adopt(*process.call_function(shape, std::move(call), std::move(payload), dependencies).front());
}

}  // namespace

Result<Reference> call_function(const std::string& name, std::vector<Argument> arguments, const TaskOptions& options) {
  BEELINE_ASSIGN(const auto state, State::current());
  return call(name, name, state->program, std::move(arguments), options);
}

Result<Reference> call_python(const std::string& module, const std::string& name, std::vector<Argument> arguments,
                              const TaskOptions& options) {
  if ((module + name).find('\n') != std::string::npos) {
    return Status(Code::kInvalidArgument, "a name with a line break in it");
  }
  const std::string blob = std::string("\x80\x05", 2) + "c" + module + "\n" + name + "\n.";
  return call(module + "." + name, blob, "", std::move(arguments), options);
}

Actor State::adopt(runtime::ActorId id, Reference life) {
  return Actor(std::make_shared<Actor::Impl>(Actor::Impl{shared_from_this(), id, std::move(life)}));
}

Result<Actor> create_actor(const std::string& factory, std::vector<Argument> arguments, const ActorOptions& options) {
  BEELINE_ASSIGN(const auto state, State::current());
  auto& process = *state->process;
  runtime::control::CreateActor request;
  request.class_name = factory;
  request.resources = options.resources;
  if (options.resources.empty()) request.creation_resources = {{"CPU", 1}};
  request.name = options.name;
  request.name_space = options.name_space.empty() ? state->name_space : options.name_space;
  request.max_restarts = options.max_restarts;
  request.detached = options.detached;
  request.env[runtime::kProgramVariable] = state->program;
  std::vector<store::Entry*> dependencies;
  BEELINE_ASSIGN(auto payload, state->to_call_payload(std::move(arguments), dependencies));
  auto made =
      process.create_actor(std::move(request), std::move(payload), dependencies, factory, {}, !options.name.empty());
  if (!made) return made.status().with_context("create actor " + factory);
  Reference life = state->adopt(*made->life);
  // Nobody's handle keeps a detached one: its hold stays.
  if (options.detached) process.add_hold(*made->life);
  return state->adopt(made->id, std::move(life));
}

Result<Actor> get_actor(const std::string& name, const std::string& name_space) {
  BEELINE_ASSIGN(const auto state, State::current());
  const auto& where = name_space.empty() ? state->name_space : name_space;
  if (where.empty())
    return Status(Code::kInvalidArgument, "get_actor: name the namespace, which this worker was not told");
  BEELINE_ASSIGN(const auto found, state->process->lookup_actor(name, where));
  if (found.actor == 0) {
    return Status(Code::kNotFound, "no actor is named '" + name + "' in the namespace '" + where + "'");
  }
  return state->adopt(found.actor, {});
}

Result<Reference> Actor::call_values(const std::string& method, std::vector<Argument> arguments,
                                     const MethodOptions& options) const {
  if (impl_ == nullptr) return Status(Code::kInvalidArgument, "a call of " + method + " to no actor");
  auto& process = *impl_->home->process;
  runtime::CallOptions call;
  call.name = process.intern(method);
  call.method = call.name;
  call.retries = options.max_task_retries;
  // -1: as the actor's class says.
  call.mode = options.direct ? static_cast<std::int8_t>(Mode::kLive) : std::int8_t{-1};
  std::vector<store::Entry*> dependencies;
  BEELINE_ASSIGN(auto payload, impl_->home->to_call_payload(std::move(arguments), dependencies));
  auto returns = process.call_actor(process.actor(impl_->id), std::move(call), std::move(payload), dependencies);
  return impl_->home->adopt(*returns.front());
}

void Actor::kill(bool no_restart) const {
  if (impl_ != nullptr) impl_->home->process->kill_actor(impl_->id, no_restart);
}

}  // namespace beeline::program
