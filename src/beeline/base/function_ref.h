// A callable that is borrowed for the time of a call: what std::function does for parameters, without allocating.
#pragma once

#include <concepts>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

namespace beeline {

template <typename Signature>
class FunctionRef;

// Refers to the callable it was made from, which must live as long as it is called. Empty when made from nullptr.
template <typename Answer, typename... Args>
class FunctionRef<Answer(Args...)> {
 public:
  FunctionRef() = default;
  FunctionRef(std::nullptr_t) {}
  template <typename Callable>
    requires(!std::same_as<std::remove_cvref_t<Callable>, FunctionRef> &&
             std::is_invocable_r_v<Answer, Callable&, Args...>)
  FunctionRef(Callable&& callable)
      : callable_(const_cast<void*>(static_cast<const void*>(std::addressof(callable)))),
        call_([](void* target, Args... args) -> Answer {
          return (*static_cast<std::remove_reference_t<Callable>*>(target))(std::forward<Args>(args)...);
        }) {}

  Answer operator()(Args... args) const { return call_(callable_, std::forward<Args>(args)...); }
  explicit operator bool() const { return call_ != nullptr; }

 private:
  void* callable_ = nullptr;
  Answer (*call_)(void*, Args...) = nullptr;
};

}  // namespace beeline
