// What this process tells who asks for the session's calls, objects and publications. It is looked up then, with the
// state lock held: some milliseconds for ten thousand rows, in which calls wait.
#include <algorithm>
#include <chrono>
#include <string>
#include <unordered_map>

#include "beeline/runtime/process.h"

namespace beeline::runtime {
namespace {

using control::Reference;
using control::TaskRow;
using control::TaskState;

const std::string& text_of(const std::string* interned) {
  static const std::string kNone;
  return interned != nullptr ? *interned : kNone;
}

// What is to be added to nanoseconds of Clock for those since 1970.
std::int64_t clock_offset_ns() {
  const auto wall = std::chrono::duration_cast<Nanos>(std::chrono::system_clock::now().time_since_epoch());
  return (wall - Nanos(Clock::now().time_since_epoch())).count();
}

TaskState state_at_caller(const OutgoingCall& call) {
  for (const store::Entry* dependency : call.dependencies) {
    if (!dependency->ready()) return TaskState::kPendingArguments;
  }
  return call.sent_to != 0 ? TaskState::kSent : TaskState::kPendingWorker;
}

void tell_shape(const Shape* shape, TaskRow& row) {
  if (shape == nullptr) return;
  row.resources = shape->resources;
  row.group = shape->scheduling.group;
}

TaskRow row_of(store::ProcessIndex self, const OutgoingCall& call) {
  TaskRow row;
  row.caller = self;
  row.task = call.task;
  row.attempt = call.attempt;
  row.state = static_cast<std::uint8_t>(state_at_caller(call));
  row.name = text_of(call.options.name);
  row.function = text_of(call.options.function_name != nullptr ? call.options.function_name : call.options.name);
  row.actor = call.actor != nullptr ? call.actor->id : 0;
  row.parent_caller = call.parent.caller;
  row.parent_task = call.parent.task;
  row.worker = call.sent_to;
  tell_shape(call.shape, row);
  return row;
}

TaskRow row_of(store::ProcessIndex self, const EndedCall& call) {
  TaskRow row;
  row.caller = self;
  row.task = call.task;
  row.attempt = call.attempt;
  row.state = static_cast<std::uint8_t>(TaskState::kFinished);
  row.name = text_of(call.name);
  row.function = text_of(call.function);
  row.actor = call.actor;
  row.parent_caller = call.parent_caller;
  row.parent_task = call.parent_task;
  row.worker = call.worker;
  tell_shape(call.shape, row);
  return row;
}

TaskRow row_of(store::ProcessIndex self, const FailedCall& failed) {
  TaskRow row = row_of(self, failed.call);
  row.state = static_cast<std::uint8_t>(TaskState::kFailed);
  row.error = static_cast<std::uint8_t>(failed.error);
  row.error_message = failed.message;
  const auto pickled = as_bytes(failed.pickled);
  row.error_pickle.assign(pickled.begin(), pickled.end());
  return row;
}

// Of what a worker knows: it is told so that who asks can bring it together with what the caller knows.
TaskRow executor_row(store::ProcessIndex self, store::ProcessIndex caller, std::uint64_t task, std::uint32_t attempt) {
  TaskRow row;
  row.caller = caller;
  row.task = task;
  row.attempt = attempt;
  row.of_executor = true;
  row.worker = self;
  return row;
}

// Why objects are held here: how often each is an argument of a call that is not over, and within other values.
struct Uses {
  std::unordered_map<store::ObjectId, std::uint32_t, store::ObjectIdHash> by_tasks, in_objects;

  [[nodiscard]] Reference reference_of(const store::Entry& entry) const {
    if (entry.id.kind == store::ObjectKind::kActorLife) return Reference::kActorHandle;
    const auto count = [&](const auto& uses) {
      const auto found = uses.find(entry.id);
      return found == uses.end() ? 0u : found->second;
    };
    const auto tasks = count(by_tasks), objects = count(in_objects);
    if (tasks > 0) return Reference::kUsedByTask;
    if (entry.local > objects || !entry.borrowers.empty()) return Reference::kLocal;
    return objects > 0 ? Reference::kInObject : Reference::kUnknown;
  }
};

std::uint8_t task_state_of(const store::Entry& entry, const OutgoingCall* producer) {
  if (producer != nullptr) return static_cast<std::uint8_t>(state_at_caller(*producer));
  if (entry.name == nullptr || !entry.ready()) return control::kNoTask;
  return static_cast<std::uint8_t>(entry.payload->is_error() ? TaskState::kFailed : TaskState::kFinished);
}

}  // namespace

control::Listing Process::listing(std::uint8_t parts, std::uint32_t limit) {
  control::Listing out;
  if ((parts & control::kPartTasks) != 0) list_tasks(limit, out);
  if ((parts & control::kPartObjects) == 0) return out;
  list_objects(limit, out);
  list_publications(limit, out);
  return out;
}

// What goes on comes first, then what has failed; of the rest the newest are told.
void Process::list_tasks(std::uint32_t limit, control::Listing& out) {
  const auto& history = caller_.history();
  out.tasks_forgotten = history.forgotten();
  const auto add = [&](TaskRow row) {
    if (out.tasks.size() < limit) {
      out.tasks.push_back(std::move(row));
    } else {
      ++out.tasks_left_out;
    }
  };
  caller_.for_each_call([&](const OutgoingCall& call) { add(row_of(self_, call)); });
  for (auto failed = history.failures().rbegin(); failed != history.failures().rend(); ++failed) {
    add(row_of(self_, *failed));
  }
  history.for_each_finished([&](const EndedCall& call) { add(row_of(self_, call)); });

  // Rows of the executor add nothing to what there is: they only say more of it.
  const auto offset = clock_offset_ns();
  std::uint32_t told = 0;
  executor_.for_each_call([&](const IncomingCall& call) {
    if (told++ >= limit) return;
    TaskRow row = executor_row(self_, call.caller, call.header.task, call.header.attempt);
    row.state = static_cast<std::uint8_t>(executor_.state_of(call));
    if (call.started) row.started_ns = offset + Nanos(call.started_at.time_since_epoch()).count();
    out.tasks.push_back(std::move(row));
  });
  executor_.executed().for_each([&](const ExecutedCall& call) {
    if (told++ >= limit) return;
    TaskRow row = executor_row(self_, call.caller, call.task, call.attempt);
    row.state = static_cast<std::uint8_t>(TaskState::kFinished);
    row.started_ns = offset + call.started_ns;
    row.ended_ns = row.started_ns + call.took_ns;
    out.tasks.push_back(std::move(row));
  });
}

void Process::list_objects(std::uint32_t limit, control::Listing& out) {
  Uses uses;
  const auto use = [&](const ThinVector<Entry*>& arguments, const store::PayloadPtr& args) {
    for (const Entry* argument : arguments) ++uses.by_tasks[argument->id];
    if (!args) return;
    for (const auto& ref : args->refs) ++uses.by_tasks[ref];
  };
  caller_.for_each_call([&](const OutgoingCall& call) { use(call.dependencies, call.args); });
  executor_.for_each_call([&](const IncomingCall& call) { use(call.dependencies, call.args); });
  objects_.for_each([&](Entry& entry) {
    if (!entry.payload) return;
    for (const auto& ref : entry.payload->refs) ++uses.in_objects[ref];
  });
  objects_.for_each([&](Entry& entry) {
    if (entry.local == 0 && entry.borrowers.empty()) return;  // it is about to go
    if (out.objects.size() >= limit) {
      ++out.objects_left_out;
      return;
    }
    control::ObjectRow row;
    row.owner = entry.id.owner;
    row.kind = static_cast<std::uint32_t>(entry.id.kind);
    row.serial = entry.id.serial;
    row.name = text_of(entry.name);
    row.call_site = text_of(entry.call_site);
    row.reference = static_cast<std::uint8_t>(uses.reference_of(entry));
    const bool is_made = entry.id.owner == self_ && !entry.ready();
    const auto* producer = is_made ? static_cast<const OutgoingCall*>(entry.producer) : nullptr;
    row.task_state = task_state_of(entry, producer);
    row.attempt = producer != nullptr ? producer->attempt : 0;
    row.holds = entry.local;
    row.borrowers.assign(entry.borrowers.begin(), entry.borrowers.end());
    if (entry.payload) {
      row.size_bytes = static_cast<std::int64_t>(entry.payload->size_bytes());
      if (entry.payload->is_error()) row.error = static_cast<std::uint8_t>(entry.payload->failure->kind);
      if (const auto& placement = entry.payload->placement) {
        row.is_direct = placement->direct;
        row.holder = placement->holder;
        row.slot = placement->publication.slot;
        row.generation = placement->publication.generation;
      }
    }
    out.objects.push_back(std::move(row));
  });
}

void Process::list_publications(std::uint32_t limit, control::Listing& out) {
  if (!arena_) return;
  const auto now = Clock::now();
  for (const auto& [slot, publication] : publications_) {
    if (out.publications.size() >= limit) {
      ++out.publications_left_out;
      continue;
    }
    control::PublicationRow row;
    row.slot = publication.id.slot;
    row.generation = publication.id.generation;
    row.owner = publication.owner;
    row.bytes = publication.bytes;
    row.buffers = publication.buffers;
    row.is_direct = publication.is_direct;
    row.transport = publication.transport;
    row.is_moved_out = publication.is_moved_out;
    row.is_retired = std::find(retired_.begin(), retired_.end(), publication.id) != retired_.end();
    if (publication.since != Clock::time_point{}) {
      row.age_s = std::chrono::duration<double>(now - publication.since).count();
    }
    // What travels inline has no slot in the table, and no leases.
    if (publication.id.slot < memory::kMaxPublications) {
      for (const auto& holder : arena_->holders_of(publication.id)) {
        row.leases.push_back(static_cast<std::int32_t>(holder.pid));
        if (holder.is_reading) row.readers.push_back(static_cast<std::int32_t>(holder.pid));
      }
    }
    out.publications.push_back(std::move(row));
  }
}

}  // namespace beeline::runtime
