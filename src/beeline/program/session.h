// A session as a program in C++ takes part in it: as the driver that started it, or as a worker that runs what the
// program has registered (remote.h). One per process.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "beeline/api/tensor.h"
#include "beeline/api/wait.h"
#include "beeline/base/export.h"
#include "beeline/base/status.h"
#include "beeline/program/convert.h"
#include "beeline/program/value.h"

namespace beeline::program {

struct Options {
  std::optional<double> num_cpus;  // none: as many as this process may use
  double num_gpus = 0;
  std::map<std::string, double> resources;  // of other kinds, by name
  std::string name_space;                   // where names of actors are looked up; empty: one of this session's own
  std::uint64_t object_store_memory = 0;    // bytes that published values of one process may take; 0: 60 % of memory
  bool log_to_driver = true;                // what workers print appears here, with a prefix
  // The interpreter of Python's tasks and actors, with the package `beeline`; empty: $BEELINE_PYTHON, or "python3".
  std::string python;
};

// Starts a session on this machine with this process as its driver. To be called first thing in main(): in a process
// that a session has started as a worker of this program it serves that session, and then ends the process.
//
// kAlreadyExists when a session runs; kSystem, kNotFound when its daemon does not start, and nothing is left running.
BEELINE_API Status init(Options options = {});
// Ends the session: its actors, tasks and objects. References and tensors that are left keep their memory, no more.
BEELINE_API void shutdown();
BEELINE_API bool is_initialized();

struct State;

// A counted reference to an object of the session, of whatever type. Copies are references to the same one.
class BEELINE_API Reference {
 public:
  Reference() = default;
  [[nodiscard]] bool is_nil() const { return impl_ == nullptr; }
  // Whether the value (or its error) is there.
  [[nodiscard]] bool is_ready() const;

 private:
  friend struct State;
  struct Impl;
  explicit Reference(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;
};

// A reference to what will be a T.
template <typename T>
class ObjectRef {
 public:
  ObjectRef() = default;
  explicit ObjectRef(Reference reference) : reference_(std::move(reference)) {}
  [[nodiscard]] const Reference& reference() const { return reference_; }
  [[nodiscard]] bool is_ready() const { return reference_.is_ready(); }

 private:
  Reference reference_;
};

// Row-major memory, uninitialised, that other processes map in place when a value with it is published: use it for
// what is handed over. kResourceExhausted when the quota is used up.
BEELINE_API Result<api::Tensor> empty(std::vector<std::int64_t> shape, api::DType dtype);

BEELINE_API Result<Reference> put_value(const Value& value);
BEELINE_API Result<Value> get_value(const Reference& reference, api::Timeout timeout);
// How many of the references are ready, at least `count` unless the time is over first.
BEELINE_API Result<std::vector<bool>> wait_for(const std::vector<Reference>& references, std::size_t count,
                                               api::Timeout timeout);

// Stores a value; this process owns it.
template <typename T>
Result<ObjectRef<T>> put(const T& value) {
  BEELINE_ASSIGN(auto reference, put_value(Convert<T>::to(value)));
  return ObjectRef<T>(std::move(reference));
}

// Waits for the value. Tensors in it are views of shared memory where they are large, copy-on-write; they keep it.
//
// kRaised: the function raised, and the message has its text; kPeerLost: its process, or that of the value's owner, is
// gone; kDeadlineExceeded: not within `timeout`, and the task goes on; kInvalidArgument: it is no T; kUnsupported: it
// is nothing that C++ can hold.
template <typename T>
Result<T> get(const ObjectRef<T>& ref, api::Timeout timeout = std::nullopt) {
  BEELINE_ASSIGN(const auto value, get_value(ref.reference(), timeout));
  return Convert<T>::from(value);
}
// Of a call that may not have been made.
template <typename T>
Result<T> get(const Result<ObjectRef<T>>& ref, api::Timeout timeout = std::nullopt) {
  if (!ref) return ref.status();
  return get(*ref, timeout);
}
template <typename T>
Result<std::vector<T>> get(const std::vector<ObjectRef<T>>& refs, api::Timeout timeout = std::nullopt) {
  const auto begin = std::chrono::steady_clock::now();
  std::vector<T> values;
  for (const auto& ref : refs) {
    const auto left = timeout ? api::Timeout(*timeout - (std::chrono::steady_clock::now() - begin)) : std::nullopt;
    BEELINE_ASSIGN(auto value, get(ref, left));
    values.push_back(std::move(value));
  }
  return values;
}

template <typename T>
struct Waited {
  std::vector<ObjectRef<T>> ready, unready;
};
// As Ray's wait: returns when `count` of them are ready, or the time is over. At most `count` are in `ready`.
template <typename T>
Result<Waited<T>> wait(const std::vector<ObjectRef<T>>& refs, std::size_t count = 1,
                       api::Timeout timeout = std::nullopt) {
  std::vector<Reference> references;
  for (const auto& ref : refs) references.push_back(ref.reference());
  BEELINE_ASSIGN(const auto is_ready, wait_for(references, count, timeout));
  Waited<T> waited;
  for (std::size_t i = 0; i < refs.size(); ++i) {
    auto& side = is_ready[i] && waited.ready.size() < count ? waited.ready : waited.unready;
    side.push_back(refs[i]);
  }
  return waited;
}

}  // namespace beeline::program
