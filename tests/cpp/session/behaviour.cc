#include "session/behaviour.h"

#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <sstream>

namespace beeline::runtime::session {
namespace {

using store::Entry;
using store::ErrorKind;
using store::make_failure;
using store::PayloadPtr;

constexpr auto kLongestCall = std::chrono::seconds(60);
constexpr const char* kFunctions[] = {"sum",  "fetch", "die",    "garble", "flaky", "wrap",
                                      "make", "big",   "direct", "check",  "idle"};

PayloadPtr invalid(const std::string& what) {
  return make_failure(ErrorKind::kInvalid, what);
}

}  // namespace

PayloadPtr numbers(const std::vector<std::int64_t>& values, ThinVector<store::ObjectId> refs) {
  auto payload = std::make_shared<store::Payload>();
  for (const auto value : values) payload->skeleton += std::to_string(value) + " ";
  payload->refs = std::move(refs);
  return payload;
}

std::vector<std::int64_t> numbers_of(const store::Payload& payload) {
  std::istringstream text(payload.skeleton);
  std::vector<std::int64_t> values;
  for (std::int64_t value = 0; text >> value;) values.push_back(value);
  return values;
}

std::uint64_t key_of(std::string_view behaviour) {
  return std::hash<std::string_view>{}(behaviour) | 1;
}

void define_functions(Process& process) {
  for (const char* name : kFunctions) process.define_function(key_of(name), name);
}

void Worker::run() {
  define_functions(*process_);
  std::uint64_t seen = 0;
  for (;;) {
    IncomingCall* call = nullptr;
    switch (process_->next_call(seen, call, Deadline::never())) {
      case Process::Next::kCall:
        execute(*call);
        break;
      case Process::Next::kAssigned: {
        const auto assignment = process_->assignment();
        seen = assignment.version;
        if (assignment.actor && !is_actor_) {
          is_actor_ = true;
          {
            const Locked locked(process_->lock());
            process_->executor().become_actor(true, {});
          }
          process_->actor_ready(false, {}, {});
        }
        break;
      }
      case Process::Next::kExit:
        if (is_actor_) process_->actor_exited(control::DeathCause::kOutOfScope);
        process_->stop();
        return;
      case Process::Next::kInterrupted:
        break;
    }
  }
}

void Worker::execute(IncomingCall& call) {
  std::string name = call.name;
  if (call.header.actor == 0) {
    const Locked locked(process_->lock());
    name = *process_->executor().function(call.header.function);
  }
  process_->set_executing_task(call.header.actor == 0);
  bool retryable = false;
  auto result = behave(name, call, retryable);
  process_->set_executing_task(false);
  std::vector<PayloadPtr> results(std::max<std::size_t>(1, call.header.return_count), result);
  process_->finish(call, std::move(results), retryable);
  for (Entry* entry : until_finished_) process_->drop_hold(*entry);
  until_finished_.clear();
}

PayloadPtr Worker::behave(const std::string& name, IncomingCall& call, bool& retryable) {
  const auto given = numbers_of(*call.args);
  if (name == "sum") return sum(call);
  if (name == "seq") return in_order(call);
  if (name == "fetch") return fetch(call);
  if (name == "relay") return relay(call, false);
  if (name == "relay_function") return relay(call, true);
  if (name == "big") return publish(call, Mode::kStored);
  if (name == "direct") return publish(call, Mode::kSnapshot);
  if (name == "check") return check(call);
  if (name == "count") return count();
  if (name == "wrap") return numbers({given.at(0)}, call.args->refs);
  if (name == "make") {
    Entry* made = process_->put(numbers({given.at(0)}), nullptr);
    until_finished_.push_back(made);
    return numbers({given.at(0)}, {made->id});
  }
  if (name == "keep") {
    for (const auto& ref : call.args->refs) {
      if (Entry* entry = process_->restore(ref)) kept_.push_back(entry);
    }
    return numbers({given.at(0)});
  }
  if (name == "let_go") {
    for (Entry* entry : kept_) process_->drop_hold(*entry);
    kept_.clear();
    return numbers({given.at(0)});
  }
  if (name == "die") {
    if (call.header.attempt == 0) ::kill(::getpid(), SIGKILL);
    return numbers({given.at(0)});
  }
  if (name == "garble") {
    // The first attempt's answer is preceded by what no process sends.
    const Locked locked(process_->lock());
    if (call.header.attempt == 0) process_->peers().send(call.caller, static_cast<Message>(99), {});
    return numbers({given.at(0)});
  }
  if (name == "flaky") {
    retryable = call.header.attempt < static_cast<std::uint32_t>(given.at(1));
    return retryable ? make_failure(ErrorKind::kTask, "not yet") : numbers({given.at(0), call.header.attempt});
  }
  if (name == "idle") {
    for (auto left = given.at(1); left > 0 && !call.cancelled.load(); --left) ::sched_yield();
    return call.cancelled.load() ? make_failure(ErrorKind::kCancelled, "cancelled") : numbers({given.at(0)});
  }
  return invalid("no behaviour named " + name);
}

// given[0], plus the dependencies, padded to given[1] bytes.
PayloadPtr Worker::sum(IncomingCall& call) {
  const auto given = numbers_of(*call.args);
  auto total = given.at(0);
  for (Entry* dependency : call.dependencies) {
    const auto payload = process_->payload(*dependency);
    if (!payload) return invalid("a call was started without its arguments");
    if (payload->is_error()) return payload;
    total += numbers_of(*payload).at(0);
  }
  if (given.size() < 2) return numbers({total});
  auto padded = std::make_shared<store::Payload>();
  padded->skeleton = std::to_string(total) + " " + std::string(static_cast<std::size_t>(given[1]), ' ');
  return padded;
}

// Calls of one caller arrive in the order of given[1].
PayloadPtr Worker::in_order(IncomingCall& call) {
  const auto given = numbers_of(*call.args);
  auto& last = last_of_caller_[call.caller];
  if (given.at(1) <= last) {
    return invalid("out of order: " + std::to_string(given[1]) + " after " + std::to_string(last));
  }
  last = given[1];
  return sum(call);
}

// The sum of given[0] and the values of the references inside the arguments.
PayloadPtr Worker::fetch(IncomingCall& call) {
  auto total = numbers_of(*call.args).at(0);
  std::vector<Entry*> entries;
  for (const auto& ref : call.args->refs) {
    if (Entry* entry = process_->restore(ref)) entries.push_back(entry);
  }
  PayloadPtr failure;
  if (process_->wait(entries, entries.size(), Deadline::after(kLongestCall)) != WaitOutcome::kDone) {
    failure = invalid("a reference inside the arguments did not become ready");
  }
  for (Entry* entry : entries) {
    const auto payload = process_->payload(*entry);
    if (!failure && payload && payload->is_error()) failure = payload;
    if (!failure && payload) total += numbers_of(*payload).at(0);
    process_->drop_hold(*entry);
  }
  return failure ? failure : numbers({total});
}

// A call of one's own, to the actor given[1] or of a function; its pending result is passed on.
PayloadPtr Worker::relay(IncomingCall& call, bool to_function) {
  const auto given = numbers_of(*call.args);
  CallOptions options;
  options.name = process_->intern("relayed");
  std::vector<Entry*> returns;
  if (to_function) {
    options.function = key_of("sum");
    options.retries = 3;
    returns = process_->call_function(process_->shape({{"CPU", 1}}, false, {}, {}, "sum"), options,
                                      numbers({given.at(0)}), {});
  } else {
    options.method = process_->intern("sum");
    returns =
        process_->call_actor(process_->actor(static_cast<ActorId>(given.at(1))), options, numbers({given.at(0)}), {});
  }
  until_finished_.push_back(returns.at(0));
  return numbers({given.at(0)}, {returns.at(0)->id});
}

// given[1] bytes in the arena, all of them given[0] & 0xff.
PayloadPtr Worker::publish(IncomingCall& call, Mode mode) {
  const auto given = numbers_of(*call.args);
  const std::vector<std::byte> bytes(static_cast<std::size_t>(given.at(1)), static_cast<std::byte>(given.at(0)));
  const SourceBuffer source{bytes.data(), bytes.size(), false};
  auto placement = process_->publish({&source, 1}, mode);
  if (!placement.is_ok()) return make_failure(ErrorKind::kOutOfMemory, placement.status().message());
  auto payload = std::make_shared<store::Payload>();
  payload->skeleton = std::to_string(given[0]);
  payload->placement = std::move(*placement);
  return payload;
}

// As sum, and the bytes of the dependencies that have any are what they must be.
PayloadPtr Worker::check(IncomingCall& call) {
  for (Entry* dependency : call.dependencies) {
    auto payload = process_->payload(*dependency);
    if (!payload) return invalid("a call was started without its arguments");
    if (payload->is_error()) return payload;
    if (!payload->placement) continue;
    const auto deadline = Deadline::after(kLongestCall);
    auto opened = process_->open(*payload->placement, deadline);
    while (!opened.is_ok()) {
      // Its holder is gone: perhaps the owner knows more.
      const auto known = payload;
      if (process_->ask_again(*dependency, known, deadline) != WaitOutcome::kDone) return invalid("no answer");
      payload = process_->payload(*dependency);
      if (payload == known) return make_failure(ErrorKind::kObjectLost, opened.status().message());
      if (payload->is_error()) return payload;
      opened = process_->open(*payload->placement, deadline);
    }
    const auto expected = static_cast<std::byte>(numbers_of(*payload).at(0));
    for (const auto& buffer : opened->buffers) {
      for (const auto byte : buffer) {
        if (byte != expected) return invalid("a value's bytes are not what was stored");
      }
    }
  }
  return sum(call);
}

// Objects of one's own, and of others.
PayloadPtr Worker::count() {
  const Locked locked(process_->lock());
  const auto stats = process_->objects().stats();
  return numbers({static_cast<std::int64_t>(stats.own), static_cast<std::int64_t>(stats.foreign)});
}

int work(const std::string& session_dir, std::uint64_t token) {
  auto process = Process::join_as_worker(session_dir, token, [](BytesView) {
    memory::Arena::Options options;
    options.capacity_bytes = 256u << 20;
    return options;
  });
  if (!process.is_ok()) {
    const std::string message = process.status().message() + "\n";
    return ::write(STDERR_FILENO, message.data(), message.size()) < 0 ? 2 : 1;
  }
  Worker(std::move(*process)).run();
  return 0;
}

}  // namespace beeline::runtime::session
