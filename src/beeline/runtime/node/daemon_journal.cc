// The daemon's part that writes down what another one would have to know, before anybody is told of it.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "beeline/os/process.h"
#include "beeline/runtime/node/daemon.h"

namespace beeline::runtime::node {
namespace {

using control::Type;

// A process is told that its frames are handled once it keeps so many, or so much of them.
constexpr std::uint64_t kUnsaidFrames = 64;
constexpr std::size_t kUnsaidBytes = 64 * 1024;

constexpr Journal::Key kHeaderKey{Journal::Kind::kHeader, 0};
constexpr Journal::Key kStateKey{Journal::Kind::kState, 0};
constexpr Journal::Key kCountersKey{Journal::Kind::kCounters, 0};
// They change with most turns, and are for people.
constexpr auto kCountersEvery = std::chrono::seconds(1);

ActorStateRecord state_record(const ActorRecord& actor) {
  return {actor.owner,
          actor.job,
          static_cast<std::uint8_t>(actor.state),
          actor.process,
          actor.pid,
          actor.incarnation,
          actor.restarts_left,
          static_cast<std::uint8_t>(actor.cause),
          actor.message,
          actor.error,
          static_cast<std::uint8_t>(actor.leaving)};
}

WorkerRecord record_of_worker(const Worker& worker) {
  return {worker.flavour.torch, worker.flavour.env, worker.flavour.job, worker.pid,
          worker.launcher,      worker.index,       worker.fresh,       worker.leaving};
}

}  // namespace

void Daemon::begin_journal() {
  if (header_.started_ns == 0) {
    std::error_code ignored;
    header_.options = options_;
    header_.environment = os::environment_with({});
    header_.folder = std::filesystem::current_path(ignored).string();
    header_.started_ns = std::chrono::duration_cast<Nanos>(std::chrono::system_clock::now().time_since_epoch()).count();
  }
  journal_.emplace(journal_path(options_.session_dir));
  note_all();
  write_journal();
}

void Daemon::give_up_journal(const Status& why) {
  journal_.reset();
  ::unlink(journal_path(options_.session_dir).c_str());
  ++counters_["journal_failures"];
  const std::string text = "the journal of the node daemon cannot be written (" + why.message() +
                           "): the session goes on, but would not survive the end of beelined\n";
  std::fprintf(stderr, "beelined: %s", text.c_str());
  send_logs({static_cast<std::int32_t>(::getpid()), 0, "beelined"}, true, text);
}

void Daemon::note_changed_tables() {
  // What something was created with is written once, and again at its end, when most of it is gone.
  const auto note = [&](const Journal::Key& created, const Journal::Key& state, bool has_ended) {
    changed_.insert(state);
    if (has_ended || (journal_ && !journal_->has(created))) changed_.insert(created);
  };
  for (const ActorId actor : actors_.take_changed()) {
    const auto* record = actors_.find(actor);
    note({Journal::Kind::kActor, actor}, {Journal::Kind::kActorState, actor}, record == nullptr || record->is_dead());
  }
  for (const GroupId group : groups_.take_changed()) {
    const auto* record = groups_.find(group);
    note({Journal::Kind::kGroup, group}, {Journal::Kind::kGroupState, group},
         record == nullptr || record->is_removed());
  }
}

void Daemon::note_all() {
  changed_.insert({kHeaderKey, kStateKey, kCountersKey});
  for (NodeIndex node = 0; node < scheduler_.nodes().size(); ++node) changed(Journal::Kind::kNode, node);
  for (const auto& [job, about] : jobs_) changed(Journal::Kind::kJob, job);
  for (const auto& [index, connection] : processes_) changed(Journal::Kind::kProcess, index);
  for (const auto& [token, worker] : pool_.workers()) changed(Journal::Kind::kWorker, token);
  for (const auto& [actor, record] : actors_.all()) {
    changed(Journal::Kind::kActor, actor);
    changed(Journal::Kind::kActorState, actor);
  }
  for (const auto& [group, record] : groups_.all()) {
    changed(Journal::Kind::kGroup, group);
    changed(Journal::Kind::kGroupState, group);
  }
  for (const auto& [demand, about] : demands_) changed(Journal::Kind::kDemand, demand);
}

void Daemon::write_journal() {
  note_changed_tables();
  if (!journal_) return changed_.clear();
  if (journal_->is_bloated()) {
    journal_->start_anew();
    note_all();
  }
  if (auto state = state_record(); state != written_state_) {
    changed_.insert(kStateKey);
    written_state_ = std::move(state);
  }
  if (const auto now = Clock::now(); now - counters_written_ >= kCountersEvery && counters_ != written_counters_) {
    changed_.insert(kCountersKey);
    counters_written_ = now;
    written_counters_ = counters_;
  }
  for (const auto& key : std::exchange(changed_, {})) {
    if (const auto record = record_of(key)) {
      journal_->put(key, *record);
    } else {
      journal_->drop(key);
    }
  }
  if (const auto status = journal_->commit(); !status) give_up_journal(status);
}

StateRecord Daemon::state_record() const {
  const auto [base, torch] = pool_.own_zygotes();
  return {next_index_, next_job_, generation_, base, torch, ending_, restarts_ns_};
}

GroupStateRecord Daemon::state_record(const GroupRecord& group) const {
  GroupStateRecord record{group.owner, static_cast<std::uint8_t>(group.state), group.message, group.nodes, {}};
  if (group.is_removed()) return record;
  record.nodes = scheduler_.nodes_of(group.create.group);
  for (auto& share : scheduler_.shares_of(group.create.group)) {
    record.shares.push_back({std::move(share.amounts), std::move(share.accelerators)});
  }
  return record;
}

std::optional<Bytes> Daemon::record_of(const Journal::Key& key) const {
  const auto& [kind, number] = key;
  switch (kind) {
    case Journal::Kind::kHeader:
      return pack(header_);
    case Journal::Kind::kState:
      return pack(written_state_);
    case Journal::Kind::kCounters:
      return pack(counters_);
    case Journal::Kind::kNode: {
      const auto& node = scheduler_.nodes().at(number);
      NodeRecord record{to_resources(node.total), node.labels, node.is_alive, {}};
      for (const auto& [request, of] : node_requests_) {
        if (of == number) record.requests.push_back(request);
      }
      return pack(record);
    }
    case Journal::Kind::kJob: {
      const auto found = jobs_.find(static_cast<JobId>(number));
      if (found == jobs_.end()) return std::nullopt;
      return pack(JobRecord{found->second.config, found->second.is_over});
    }
    case Journal::Kind::kProcess: {
      const auto found = processes_.find(static_cast<ProcessIndex>(number));
      if (found == processes_.end() || found->second->kind == control::ProcessKind::kTool) return std::nullopt;
      const Connection& process = *found->second;
      return pack(ProcessRecord{static_cast<std::uint8_t>(process.kind), process.pid, process.start_ticks,
                                process.worker, process.job, process.wants_logs, process.handled});
    }
    case Journal::Kind::kWorker: {
      const auto found = pool_.workers().find(number);
      if (found == pool_.workers().end() || found->second.index == 0) return std::nullopt;
      return pack(record_of_worker(found->second));
    }
    case Journal::Kind::kActor: {
      const auto found = actors_.all().find(number);
      if (found == actors_.all().end()) return std::nullopt;
      return pack(found->second.create);
    }
    case Journal::Kind::kActorState: {
      const auto found = actors_.all().find(number);
      if (found == actors_.all().end()) return std::nullopt;
      return pack(node::state_record(found->second));
    }
    case Journal::Kind::kGroup: {
      const auto found = groups_.all().find(number);
      if (found == groups_.all().end()) return std::nullopt;
      return pack(found->second.create);
    }
    case Journal::Kind::kGroupState: {
      const auto found = groups_.all().find(number);
      if (found == groups_.all().end()) return std::nullopt;
      return pack(state_record(found->second));
    }
    case Journal::Kind::kDemand: {
      const auto found = demands_.find(number);
      if (found == demands_.end()) return std::nullopt;
      const Demand& demand = found->second;
      DemandRecord record{demand.actor,  demand.lease.first, demand.request, {},
                          demand.worker, demand.job,         demand.blocked};
      if (const auto& allocation = demand.allocation) {
        record.allocation.push_back({{allocation->share.amounts, allocation->share.accelerators},
                                     allocation->cpu_given_back,
                                     allocation->node,
                                     allocation->group,
                                     allocation->bundle});
      }
      return pack(record);
    }
  }
  return std::nullopt;
}

// What is handled in this turn is in the journal before the process hears of it.
void Daemon::count_handled(Connection& from, std::size_t bytes) {
  if (from.kind == control::ProcessKind::kTool || options_.daemon_wait_ms == 0) return;
  ++from.handled;
  changed(Journal::Kind::kProcess, from.index);
  from.unsaid_bytes += bytes;
  if (from.handled - from.said_handled < kUnsaidFrames && from.unsaid_bytes < kUnsaidBytes) return;
  from.said_handled = from.handled;
  from.unsaid_bytes = 0;
  send(from, control::encode(Type::kHandled, control::Handled{from.handled}));
}

}  // namespace beeline::runtime::node
