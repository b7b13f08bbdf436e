// Values between the program and the session: publishing, fetching, and what failures say.
#include "beeline/program/state.h"

#include <cstring>

#include "beeline/program/pickle.h"

namespace beeline::program {
namespace {

using runtime::Locked;
using runtime::Mode;
using runtime::WaitOutcome;
using store::Entry;
using store::ErrorKind;
using store::Payload;
using store::PayloadPtr;

std::mutex current_mutex;
std::shared_ptr<State> current_state;

std::string name_of(const Entry& entry) {
  return entry.name != nullptr ? *entry.name : std::string("an object");
}

Code code_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kTask:
    case ErrorKind::kActorInitFailed:
      return Code::kRaised;
    case ErrorKind::kActorDied:
    case ErrorKind::kActorUnavailable:
    case ErrorKind::kWorkerCrashed:
    case ErrorKind::kObjectLost:
    case ErrorKind::kReconstruction:
    case ErrorKind::kOwnerDied:
    case ErrorKind::kPeerLost:
      return Code::kPeerLost;
    case ErrorKind::kCancelled:
      return Code::kCancelled;
    case ErrorKind::kInfeasible:
    case ErrorKind::kOutOfMemory:
    case ErrorKind::kPendingCalls:
      return Code::kResourceExhausted;
    case ErrorKind::kSessionLost:
      return Code::kShutdown;
    case ErrorKind::kTimeout:
      return Code::kDeadlineExceeded;
    case ErrorKind::kInvalid:
    case ErrorKind::kGroupRemoved:
      return Code::kInvalidArgument;
    case ErrorKind::kMutated:
      return Code::kMutated;
    default:
      return Code::kSystem;
  }
}

// Of what dump_task_error (beeline.exceptions) wrote: ((function, text, ...), cause).
std::string text_of_raised(const std::string& skeleton) {
  const auto described = unpickle(skeleton, {});
  const auto* whole = described ? described->as<Tuple>() : nullptr;
  const auto* about = whole != nullptr && !whole->items.empty() ? whole->items[0].as<Tuple>() : nullptr;
  const auto* text = about != nullptr && about->items.size() > 1 ? about->items[1].as<std::string>() : nullptr;
  return text == nullptr ? std::string() : *text;
}

}  // namespace

Status status_of(const Payload& payload) {
  const auto& failure = *payload.failure;
  const auto text = payload.skeleton.empty() ? std::string() : text_of_raised(payload.skeleton);
  return {code_of(failure.kind), text.empty() ? failure.message : failure.message + " raised:\n" + text};
}

Result<std::shared_ptr<State>> State::current() {
  const std::lock_guard guard(current_mutex);
  if (current_state) return current_state;
  return Status(Code::kShutdown, "no session runs: call beeline::init() first");
}

void State::set_current(std::shared_ptr<State> state) {
  const std::lock_guard guard(current_mutex);
  current_state = std::move(state);
}

void State::attach() {
  process->on_retired = [this](memory::PublicationId id) {
    std::vector<api::Tensor> dropped;
    const std::lock_guard guard(mutex_);
    if (auto node = kept_.extract({id.slot, id.generation})) dropped = std::move(node.mapped());
  };
}

// What is published in place must stay: held until the publication is over. Other tensors were copied.
void State::keep(const store::Placement& placement, std::vector<api::Tensor> tensors) {
  std::erase_if(tensors,
                [&](const api::Tensor& tensor) { return !process->is_shareable(tensor.data, tensor.bytes()); });
  if (tensors.empty()) return;
  const std::lock_guard guard(mutex_);
  kept_[{placement.publication.slot, placement.publication.generation}] = std::move(tensors);
}

Result<PayloadPtr> State::to_payload(const Value& value, Mode mode) {
  BEELINE_ASSIGN(auto pickled, pickle(value));
  auto payload = std::make_shared<Payload>();
  std::size_t total = pickled.skeleton.size();
  for (const auto& tensor : pickled.buffers) total += tensor.bytes();
  if (total <= store::kInlineLimit) {
    payload->skeleton = std::move(pickled.skeleton);
    for (const auto& tensor : pickled.buffers) {
      payload->inline_buffers.push_back(
          {std::string(reinterpret_cast<const char*>(tensor.data), tensor.bytes()), true});
    }
    return PayloadPtr(std::move(payload));
  }
  std::vector<runtime::SourceBuffer> sources;
  for (const auto& tensor : pickled.buffers) sources.push_back({tensor.data, tensor.bytes(), true});
  if (pickled.skeleton.size() > store::kInlineLimit) {
    payload->skeleton_in_buffer = true;
    sources.push_back({reinterpret_cast<const std::byte*>(pickled.skeleton.data()), pickled.skeleton.size(), false});
  } else {
    payload->skeleton = pickled.skeleton;
  }
  BEELINE_ASSIGN(payload->placement, process->publish(sources, mode));
  if (mode == Mode::kLive) keep(*payload->placement, std::move(pickled.buffers));
  return PayloadPtr(std::move(payload));
}

Result<PayloadPtr> State::to_call_payload(std::vector<Argument> arguments, std::vector<Entry*>& dependencies) {
  if (arguments.empty()) return PayloadPtr(std::make_shared<Payload>());
  List list;
  Tuple slots;
  for (auto& argument : arguments) {
    if (const auto* reference = std::get_if<Reference>(&argument)) {
      if (reference->is_nil()) return Status(Code::kInvalidArgument, "a nil reference as an argument");
      if (home_of(*reference).get() != this) {
        return Status(Code::kShutdown, "a reference of a session that has ended as an argument");
      }
      dependencies.push_back(entry_of(*reference));
      slots.items.emplace_back(static_cast<std::int64_t>(list.size()));
      list.emplace_back();
    } else {
      list.push_back(std::move(std::get<Value>(argument)));
    }
  }
  Tuple whole;
  whole.items.emplace_back(std::move(list));
  whole.items.emplace_back(Dict{});
  whole.items.emplace_back(std::move(slots));
  return to_payload(Value(std::move(whole)), Mode::kStored);
}

Result<Value> State::from_payload(const Payload& payload, Deadline deadline) {
  if (payload.is_error()) return status_of(payload);
  std::string_view skeleton = payload.skeleton;
  std::vector<BufferView> buffers;
  if (payload.is_inline()) {
    for (const auto& buffer : payload.inline_buffers) {
      const std::shared_ptr<std::byte[]> memory(new std::byte[std::max<std::size_t>(buffer.bytes.size(), 1)]);
      std::memcpy(memory.get(), buffer.bytes.data(), buffer.bytes.size());
      buffers.push_back({{memory.get(), buffer.bytes.size()}, memory});
    }
    return unpickle(skeleton, buffers);
  }
  auto opened = process->open(*payload.placement, deadline);
  while (!opened && opened.status().code() == Code::kInterrupted) opened = process->open(*payload.placement, deadline);
  if (!opened) {
    return std::move(opened).status().with_context("fetch a value of " + std::to_string(payload.size_bytes()) +
                                                   " bytes");
  }
  // The lease tells the process of its end.
  const std::shared_ptr<void> memory(
      opened->lease.get(), [lease = opened->lease, home = shared_from_this()](void*) mutable { lease.reset(); });
  for (const auto& bytes : opened->buffers) buffers.push_back({bytes, memory});
  if (payload.skeleton_in_buffer) {
    const auto& last = buffers.back().bytes;
    skeleton = {reinterpret_cast<const char*>(last.data()), last.size()};
    buffers.pop_back();
  }
  return unpickle(skeleton, buffers);
}

Status State::wait(Entry& entry, Deadline deadline) {
  Entry* const one[] = {&entry};
  for (;;) {
    const auto outcome = process->wait(one, 1, deadline);
    if (outcome == WaitOutcome::kDone) return {};
    if (outcome == WaitOutcome::kTimedOut) {
      return {Code::kDeadlineExceeded, "get timed out: the result of " + name_of(entry) + " is not ready"};
    }
  }
}

Result<Value> State::value_of(Entry& entry, Deadline deadline) {
  for (;;) {
    BEELINE_RETURN_IF_ERROR(wait(entry, deadline));
    const auto payload = process->payload(entry);
    if (!payload) continue;  // lost since it was ready: it is made again
    auto value = from_payload(*payload, deadline);
    const bool is_lost = !value && !payload->is_error() && !payload->is_inline() &&
                         (value.status().code() == Code::kPeerLost || value.status().code() == Code::kStale);
    if (!is_lost) return value;
    auto outcome = process->ask_again(entry, payload, deadline);
    while (outcome == WaitOutcome::kInterrupted) outcome = process->ask_again(entry, payload, deadline);
    if (outcome != WaitOutcome::kDone || process->payload(entry) == payload) return value;
  }
}

}  // namespace beeline::program
