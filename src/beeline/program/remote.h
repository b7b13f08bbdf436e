// Functions and classes that run in worker processes, and how to call them; those of Python as well.
//
//   int add(int a, int b) { return a + b; }
//   BEELINE_REMOTE(add);
//   ...
//   auto sum = beeline::get(beeline::task(add).remote(1, 2));
#pragma once

#include <concepts>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <typeinfo>
#include <utility>
#include <variant>
#include <vector>

#include "beeline/program/session.h"

namespace beeline::program {

// ----- registration

// What the worker runs: `instance` is the actor's object, for methods. Errors and exceptions become those of the task.
using Invoke = std::function<Result<Value>(void* instance, const std::vector<Value>& arguments)>;
// What makes an actor's object.
using Make = std::function<Result<std::shared_ptr<void>>(const std::vector<Value>& arguments)>;

// By the name that other processes use; `pointer`: by what this program calls it. Not thread-safe: before main().
BEELINE_API void register_function(std::string name, std::string pointer, Invoke invoke);
// `type`: of the class, as its methods' names begin.
BEELINE_API void register_factory(std::string name, std::string pointer, std::string type, Make make);
// Empty: not registered.
BEELINE_API std::string registered_name(const std::string& pointer);

// A function or member function, by type and address.
template <typename F>
std::string key_of(F function) {
  std::string key(sizeof function, '\0');
  std::memcpy(key.data(), &function, sizeof function);
  return key + typeid(F).name();
}

template <typename R>
struct Returned {
  using type = R;
};
template <>
struct Returned<void> {
  using type = std::monostate;
};
template <typename T>
struct Returned<Result<T>> {
  using type = T;
};
template <>
struct Returned<Status> {
  using type = std::monostate;
};
// What a reference to a function's result refers to: for a Result<T> the T, for none and a Status nothing.
template <typename R>
using ReturnedType = typename Returned<R>::type;

template <typename Call>
Result<Value> value_of_call(Call&& call) {
  using R = decltype(call());
  if constexpr (std::is_void_v<R>) {
    call();
    return Value();
  } else if constexpr (std::is_same_v<R, Status>) {
    BEELINE_RETURN_IF_ERROR(call());
    return Value();
  } else if constexpr (std::is_same_v<R, Result<ReturnedType<R>>>) {
    BEELINE_ASSIGN(auto made, call());
    return Convert<ReturnedType<R>>::to(std::move(made));
  } else {
    return Convert<std::remove_cvref_t<R>>::to(call());
  }
}

// Calls `call` with the arguments as what it takes.
template <typename... P, typename Call>
auto with_arguments(const std::vector<Value>& arguments, Call&& call) -> decltype(call(std::declval<P&>()...)) {
  if (arguments.size() != sizeof...(P)) {
    return Status(Code::kInvalidArgument, "it takes " + std::to_string(sizeof...(P)) + " arguments, and got " +
                                              std::to_string(arguments.size()));
  }
  return [&]<std::size_t... I>(std::index_sequence<I...>) -> decltype(call(std::declval<P&>()...)) {
    [[maybe_unused]] std::tuple<Result<P>...> converted(Convert<P>::from(arguments[I])...);
    std::string wrong;
    (void)((std::get<I>(converted) ||
            (wrong = "argument " + std::to_string(I) + ": " + std::get<I>(converted).status().message(), false)) &&
           ...);
    if (!wrong.empty()) return Status(Code::kInvalidArgument, wrong);
    return call(*std::get<I>(converted)...);
  }(std::index_sequence_for<P...>());
}

template <typename T>
struct FactoryOf : std::false_type {};
template <typename T>
struct FactoryOf<std::unique_ptr<T>> : std::true_type {
  using Made = T;
};
template <typename T>
struct FactoryOf<std::shared_ptr<T>> : std::true_type {
  using Made = T;
};

template <typename R, typename... P>
void register_one(std::string name, R (*function)(P...)) {
  if constexpr (FactoryOf<R>::value) {
    const std::string type = typeid(typename FactoryOf<R>::Made).name();
    register_factory(std::move(name), key_of(function), type, [function](const std::vector<Value>& arguments) {
      return with_arguments<std::decay_t<P>...>(arguments, [&](auto&... argument) -> Result<std::shared_ptr<void>> {
        std::shared_ptr<typename FactoryOf<R>::Made> made = function(std::move(argument)...);
        if (made == nullptr) return Status(Code::kInvalidArgument, "the factory returned null");
        return std::shared_ptr<void>(std::move(made));
      });
    });
  } else {
    register_function(std::move(name), key_of(function), [function](void*, const std::vector<Value>& arguments) {
      return with_arguments<std::decay_t<P>...>(arguments, [&](auto&... argument) -> Result<Value> {
        return value_of_call([&]() -> R { return function(std::move(argument)...); });
      });
    });
  }
}

template <typename R, typename T, typename... P, typename Method>
void register_method(std::string name, Method method) {
  // By its name in the class: the instance says which class it is.
  if (const auto colon = name.rfind("::"); colon != std::string::npos) name = name.substr(colon + 2);
  const std::string type = typeid(T).name();
  register_function(type + "::" + name, key_of(method), [method](void* instance, const std::vector<Value>& arguments) {
    return with_arguments<std::decay_t<P>...>(arguments, [&](auto&... argument) -> Result<Value> {
      return value_of_call([&]() -> R { return (static_cast<T*>(instance)->*method)(std::move(argument)...); });
    });
  });
}
template <typename R, typename T, typename... P>
void register_one(std::string name, R (T::*method)(P...)) {
  register_method<R, T, P...>(std::move(name), method);
}
template <typename R, typename T, typename... P>
void register_one(std::string name, R (T::*method)(P...) const) {
  register_method<R, T, P...>(std::move(name), method);
}

// "a, &B::c" as {"a", "B::c"}.
BEELINE_API std::vector<std::string> names_of(std::string_view list);

template <typename... F>
bool register_all(std::string_view names, F... functions) {
  auto split = names_of(names);
  std::size_t i = 0;
  (register_one(std::move(split[i++]), functions), ...);
  return true;
}

// ----- calls

struct TaskOptions {
  std::map<std::string, double> resources = {{"CPU", 1}};
  std::int32_t max_retries = 3;  // -1: without bound
  bool direct = false;           // tensors of the result stay where they are, and are mapped from there
};
struct ActorOptions {
  std::map<std::string, double> resources = {};  // while it lives; without any it needs one CPU to be placed
  std::string name = {};                         // empty: anonymous
  std::string name_space = {};                   // empty: the program's own
  std::int32_t max_restarts = 0;                 // -1: without bound
  bool detached = false;                         // lives until it is killed
};
struct MethodOptions {
  std::int32_t max_task_retries = 0;
  bool direct = false;  // as of tasks
};

// A value, or a reference in the place of one: its value is passed once it is there.
using Argument = std::variant<Value, Reference>;

// A living actor, of C++ or Python. The last copy of what remote() gave ends the actor; what get_actor() gave does not
// keep it.
class BEELINE_API Actor {
 public:
  Actor() = default;
  // A call of a method by name, whose result should be an R.
  template <typename R, typename... A>
  Result<ObjectRef<R>> call(const std::string& method, A&&... arguments) const;
  template <typename R, typename... A>
  Result<ObjectRef<R>> call_with(const MethodOptions& options, const std::string& method, A&&... arguments) const;
  // Ends it at once. Calls that are not over fail.
  void kill(bool no_restart = true) const;

  Result<Reference> call_values(const std::string& method, std::vector<Argument> arguments,
                                const MethodOptions& options) const;

 private:
  friend struct State;
  struct Impl;
  explicit Actor(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;
};

BEELINE_API Result<Reference> call_function(const std::string& name, std::vector<Argument> arguments,
                                            const TaskOptions& options);
BEELINE_API Result<Reference> call_python(const std::string& module, const std::string& name,
                                          std::vector<Argument> arguments, const TaskOptions& options);
BEELINE_API Result<Actor> create_actor(const std::string& factory, std::vector<Argument> arguments,
                                       const ActorOptions& options);
// kNotFound: nobody has that name in the namespace (empty: the program's own).
BEELINE_API Result<Actor> get_actor(const std::string& name, const std::string& name_space = {});

template <typename T>
struct IsRef : std::false_type {};
template <typename T>
struct IsRef<ObjectRef<T>> : std::true_type {};

template <typename T>
Argument to_argument(T&& given) {
  using Plain = std::decay_t<T>;
  if constexpr (IsRef<Plain>::value) {
    return given.reference();
  } else if constexpr (std::is_same_v<Plain, Reference>) {
    return std::forward<T>(given);
  } else {
    return Convert<Plain>::to(std::forward<T>(given));
  }
}
// One for a parameter of a known type: converted to that here.
template <typename P, typename T>
Argument to_argument_of(T&& given) {
  using Plain = std::decay_t<T>;
  if constexpr (IsRef<Plain>::value) {
    static_assert(std::is_same_v<Plain, ObjectRef<std::decay_t<P>>>, "a reference to another type");
    return given.reference();
  } else {
    static_assert(std::is_convertible_v<T, std::decay_t<P>>, "an argument of another type");
    return Convert<std::decay_t<P>>::to(std::forward<T>(given));
  }
}

template <typename R, typename... A>
Result<ObjectRef<R>> Actor::call_with(const MethodOptions& options, const std::string& method, A&&... arguments) const {
  BEELINE_ASSIGN(auto made, call_values(method, {to_argument(std::forward<A>(arguments))...}, options));
  return ObjectRef<R>(std::move(made));
}
template <typename R, typename... A>
Result<ObjectRef<R>> Actor::call(const std::string& method, A&&... arguments) const {
  return call_with<R>({}, method, std::forward<A>(arguments)...);
}

inline Status not_registered(const char* what) {
  return {Code::kNotFound,
          std::string("this ") + what + " is not registered: name it in BEELINE_REMOTE(...) beside its definition"};
}

// An actor whose class is known.
template <typename T>
class ActorHandle {
 public:
  ActorHandle() = default;
  explicit ActorHandle(Actor actor) : actor_(std::move(actor)) {}

  template <typename R, typename C, typename... P, typename... A>
  Result<ObjectRef<ReturnedType<R>>> call(R (C::*method)(P...), A&&... arguments) const {
    return call_method<R, P...>(key_of(method), {}, std::forward<A>(arguments)...);
  }
  template <typename R, typename C, typename... P, typename... A>
  Result<ObjectRef<ReturnedType<R>>> call(R (C::*method)(P...) const, A&&... arguments) const {
    return call_method<R, P...>(key_of(method), {}, std::forward<A>(arguments)...);
  }
  template <typename R, typename C, typename... P, typename... A>
  Result<ObjectRef<ReturnedType<R>>> call_with(const MethodOptions& options, R (C::*method)(P...),
                                               A&&... arguments) const {
    return call_method<R, P...>(key_of(method), options, std::forward<A>(arguments)...);
  }
  template <typename R, typename C, typename... P, typename... A>
  Result<ObjectRef<ReturnedType<R>>> call_with(const MethodOptions& options, R (C::*method)(P...) const,
                                               A&&... arguments) const {
    return call_method<R, P...>(key_of(method), options, std::forward<A>(arguments)...);
  }
  [[nodiscard]] const Actor& actor() const { return actor_; }
  void kill(bool no_restart = true) const { actor_.kill(no_restart); }

 private:
  template <typename R, typename... P, typename... A>
  Result<ObjectRef<ReturnedType<R>>> call_method(const std::string& key, const MethodOptions& options,
                                                 A&&... arguments) const {
    static_assert(sizeof...(P) == sizeof...(A), "another number of arguments than the method takes");
    const std::string name = registered_name(key);
    if (name.empty()) return not_registered("method");
    BEELINE_ASSIGN(auto made, actor_.call_values(name.substr(name.rfind("::") + 2),
                                                 {to_argument_of<P>(std::forward<A>(arguments))...}, options));
    return ObjectRef<ReturnedType<R>>(std::move(made));
  }
  Actor actor_;
};

template <typename R, typename... P>
class Task {
 public:
  Task(R (*function)(P...), TaskOptions options) : function_(function), options_(std::move(options)) {}
  template <typename... A>
  Result<ObjectRef<ReturnedType<R>>> remote(A&&... arguments) const {
    static_assert(sizeof...(P) == sizeof...(A), "another number of arguments than the function takes");
    const std::string name = registered_name(key_of(function_));
    if (name.empty()) return not_registered("function");
    BEELINE_ASSIGN(auto made, call_function(name, {to_argument_of<P>(std::forward<A>(arguments))...}, options_));
    return ObjectRef<ReturnedType<R>>(std::move(made));
  }

 private:
  R (*function_)(P...);
  TaskOptions options_;
};
// A function of this program, to be run in a worker process: task(add).remote(1, 2).
template <typename R, typename... P>
Task<R, P...> task(R (*function)(P...), TaskOptions options = {}) {
  return {function, std::move(options)};
}

// An importable function of Python: python_task<int>("operator", "add").remote(1, 2).
template <typename R>
class PythonTask {
 public:
  PythonTask(std::string module, std::string name, TaskOptions options)
      : module_(std::move(module)), name_(std::move(name)), options_(std::move(options)) {}
  template <typename... A>
  Result<ObjectRef<R>> remote(A&&... arguments) const {
    BEELINE_ASSIGN(auto made, call_python(module_, name_, {to_argument(std::forward<A>(arguments))...}, options_));
    return ObjectRef<R>(std::move(made));
  }

 private:
  std::string module_, name_;
  TaskOptions options_;
};
template <typename R>
PythonTask<R> python_task(std::string module, std::string name, TaskOptions options = {}) {
  return {std::move(module), std::move(name), std::move(options)};
}

template <typename T, typename Pointer, typename... P>
class ActorClass {
 public:
  ActorClass(Pointer (*factory)(P...), ActorOptions options) : factory_(factory), options_(std::move(options)) {}
  // Starts an actor and returns at once; with a name, after the name is taken (kAlreadyExists).
  template <typename... A>
  Result<ActorHandle<T>> remote(A&&... arguments) const {
    static_assert(sizeof...(P) == sizeof...(A), "another number of arguments than the factory takes");
    const std::string name = registered_name(key_of(factory_));
    if (name.empty()) return not_registered("factory");
    BEELINE_ASSIGN(auto made, create_actor(name, {to_argument_of<P>(std::forward<A>(arguments))...}, options_));
    return ActorHandle<T>(std::move(made));
  }

 private:
  Pointer (*factory_)(P...);
  ActorOptions options_;
};
// What a factory of this program makes, in a process of its own: actor(make_counter).remote(10). A factory returns a
// std::unique_ptr or a std::shared_ptr.
template <typename Pointer, typename... P>
auto actor(Pointer (*factory)(P...), ActorOptions options = {}) {
  return ActorClass<typename FactoryOf<Pointer>::Made, Pointer, P...>(factory, std::move(options));
}

}  // namespace beeline::program

#define BEELINE_REMOTE_INNER_(name, ...) \
  [[maybe_unused]] static const bool name = ::beeline::program::register_all(#__VA_ARGS__, __VA_ARGS__)
// Registers functions, factories and methods by their names: BEELINE_REMOTE(add, make_counter, &Counter::increment);
#define BEELINE_REMOTE(...) BEELINE_REMOTE_INNER_(BEELINE_CONCAT_(beeline_remote_, __LINE__), __VA_ARGS__)
