// What the workers of the session tests do: a C++ worker's main loop, and a handful of methods and functions whose
// results follow from their arguments, so that the driver knows what must come back.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "beeline/runtime/process.h"

namespace beeline::runtime::session {

// Values are numbers, written into the skeleton as text.
store::PayloadPtr numbers(const std::vector<std::int64_t>& values, ThinVector<store::ObjectId> refs = {});
std::vector<std::int64_t> numbers_of(const store::Payload& payload);

// Functions are defined under these keys; a function's blob is the name of its behaviour.
std::uint64_t key_of(std::string_view behaviour);
void define_functions(Process& process);

class Worker {
 public:
  explicit Worker(std::unique_ptr<Process> process) : process_(std::move(process)) {}
  // Takes calls until the session or the actor ends.
  void run();

 private:
  using Entry = store::Entry;
  void execute(IncomingCall& call);
  store::PayloadPtr behave(const std::string& name, IncomingCall& call, bool& retryable);
  store::PayloadPtr sum(IncomingCall& call);
  store::PayloadPtr in_order(IncomingCall& call);
  store::PayloadPtr fetch(IncomingCall& call);
  store::PayloadPtr relay(IncomingCall& call, bool to_function);
  store::PayloadPtr publish(IncomingCall& call, Mode mode);
  store::PayloadPtr check(IncomingCall& call);
  store::PayloadPtr count();

  std::unique_ptr<Process> process_;
  bool is_actor_ = false;
  std::map<ProcessIndex, std::int64_t> last_of_caller_;
  std::vector<Entry*> kept_;
  std::vector<Entry*> until_finished_;  // held until the result that refers to them is on its way
};

// Registers with the session and works; returns when it is over.
int work(const std::string& session_dir, std::uint64_t token);

}  // namespace beeline::runtime::session
