// The session of this process, behind the public functions.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "beeline/program/remote.h"
#include "beeline/runtime/process.h"

namespace beeline::program {

// References, actors and tensors hold it: what they point into stays as long.
struct State : std::enable_shared_from_this<State> {
  std::unique_ptr<runtime::Process> process;
  std::string name_space;
  std::string program;  // path of this executable: its workers run it too

  // The session that this process is in; kShutdown when there is none.
  static Result<std::shared_ptr<State>> current();
  // To be called before other threads use the process.
  void attach();
  static void set_current(std::shared_ptr<State> state);

  Reference adopt(store::Entry& held);  // with its hold
  Actor adopt(runtime::ActorId id, Reference life);
  static store::Entry* entry_of(const Reference& reference);
  static std::shared_ptr<State> home_of(const Reference& reference);

  Result<store::PayloadPtr> to_payload(const Value& value, runtime::Mode mode);
  // Arguments as Python's workers take them: a list, a dict, and which of the list are `dependencies`.
  Result<store::PayloadPtr> to_call_payload(std::vector<Argument> arguments, std::vector<store::Entry*>& dependencies);
  Result<Value> from_payload(const store::Payload& payload, Deadline deadline);
  // Of an object that is ready, or is lost and comes again.
  Result<Value> value_of(store::Entry& entry, Deadline deadline);
  // Waits; kDeadlineExceeded says what for.
  Status wait(store::Entry& entry, Deadline deadline);

  // Runs what the session gives this worker, until it is to exit.
  void serve();

 private:
  void keep(const store::Placement& placement, std::vector<api::Tensor> tensors);

  // Tensors that were published in place, until nobody fetches them any more.
  std::mutex mutex_;
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::vector<api::Tensor>> kept_;
};

// A failure as a program sees it; the text of what a function raised is in its message.
Status status_of(const store::Payload& failure);

}  // namespace beeline::program
