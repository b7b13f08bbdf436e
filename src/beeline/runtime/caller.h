// The calls that this process has made and not yet seen the end of: to actors, in order, and of functions, on workers
// leased from the daemon.
//
// Not thread-safe: the process's state lock is held in every call.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "beeline/runtime/call_history.h"
#include "beeline/runtime/control.h"
#include "beeline/runtime/lineage.h"
#include "beeline/runtime/messages.h"
#include "beeline/runtime/outgoing_call.h"
#include "beeline/runtime/streams.h"
#include "beeline/store/object_table.h"

namespace beeline::runtime {

class Process;

// What this thread executes: calls made meanwhile are its children. Returns what it was before.
CallKey set_executing_call(CallKey call);

// What such a call ends with when it was cancelled and nobody had begun it.
store::PayloadPtr cancelled_before_start(const OutgoingCall& call);

// An actor as its callers see it.
struct ActorTarget {
  ActorId id = 0;
  control::ActorUpdate latest;
  bool known = false;      // an update came
  bool condemned = false;  // this process has asked for its end: nothing more is sent
  std::deque<OutgoingCall*> queued;
  LinkedList<OutgoingCall> in_flight;  // in order of submission
  std::uint64_t pending_count() const { return queued.size() + in_flight.size(); }
  store::PayloadPtr creation_args;  // kept until the actor is dead: replayed at restarts
  std::vector<store::Entry*> creation_holds;
};

struct Lease {
  LeaseId id = 0;
  ProcessIndex process = 0;
  std::int32_t pid = 0;
  LinkedList<OutgoingCall> in_flight;
  std::uint64_t idle_round = 0;  // of the shape's idle timer
  bool leaving = false;          // its worker takes no more calls
  bool used = false;             // a call was sent on it
};

// Functions with the same demands share workers.
struct Shape {
  Resources resources;
  bool wants_torch = false;
  std::map<std::string, std::string> env;
  Scheduling scheduling;
  std::string name;
  std::deque<OutgoingCall*> queued;
  std::map<LeaseId, Lease> leases;
  std::unordered_set<LeaseId> requested;
  [[nodiscard]] bool spreads() const { return scheduling.policy == static_cast<std::uint8_t>(NodePolicy::kSpread); }
  double mean_ns = 1e9;  // of executions, decaying: decides how many calls are sent ahead
  bool idle_timer = false;
  std::uint64_t round = 0;
};

class Caller {
 public:
  Caller(Process& process, store::ObjectTable& objects);

  // Both return the entries of the returns, each held once for the caller. `dependencies` and the references of
  // `args` are held by the call from here on.
  std::vector<store::Entry*> call_actor(ActorTarget& actor, CallOptions options, store::PayloadPtr args,
                                        const std::vector<store::Entry*>& dependencies);
  std::vector<store::Entry*> call_function(Shape& shape, CallOptions options, store::PayloadPtr args,
                                           const std::vector<store::Entry*>& dependencies);

  ActorTarget& actor(ActorId id);
  ActorTarget* find_actor(ActorId id);
  Shape& shape(const Resources& resources, bool wants_torch, const std::map<std::string, std::string>& env,
               const Scheduling& scheduling, const std::string& name);
  void define_function(std::uint64_t key, std::string blob) { functions_.try_emplace(key, std::move(blob)); }
  [[nodiscard]] const std::string* function(std::uint64_t key) const;

  // Makes a lost value again: see Lineage. Does nothing where that goes on already.
  void make_again(store::Entry& lost);
  void forget_lineage(store::Entry& entry) { lineage_.forget(entry); }
  [[nodiscard]] Lineage::Stats lineage() const { return lineage_.stats(); }

  // Cancels the call that makes `entry`. False if there is none, or it is over.
  bool cancel(store::Entry& entry, bool force, bool recursive);
  // Cancels what was called on behalf of `parent` and has not ended, and so on below.
  void cancel_children(const CallKey& parent, bool force);

  // Of a stream, by its call's return: see Streams.
  store::Entry* next_item(const store::ObjectId& stream) { return streams_.next(stream.serial); }
  store::Entry* take_item(store::Entry& stream);
  void drop_stream(const store::ObjectId& stream);

  Status on_result(ProcessIndex from, Reader& reader);
  Status on_item(ProcessIndex from, Reader& reader);
  void on_rejected(ProcessIndex from, std::uint64_t task);
  void on_actor_update(const control::ActorUpdate& update);
  void on_lease_granted(const control::LeaseGranted& granted);
  void on_lease_failed(const control::LeaseFailed& failed);
  void on_recall_leases();
  // What it expects to hear of from the daemon.
  [[nodiscard]] control::Reconcile relied_on() const;
  // The worker takes no more calls: by its own word, or because it has ended.
  void on_leaving(ProcessIndex worker);
  void on_process_lost(ProcessIndex process, const std::string& reason);
  void fail_everything(const store::PayloadPtr& failure);

  [[nodiscard]] std::uint64_t stale_results() const { return stale_results_; }

  // Calls that are not over.
  template <typename Visit>
  void for_each_call(Visit&& visit) const {
    for (const auto& [id, actor] : actors_) {
      for (const OutgoingCall* call : actor->queued) visit(*call);
      for (const OutgoingCall* call : actor->in_flight) visit(*call);
    }
    for (const auto& shape : shapes_) {
      for (const OutgoingCall* call : shape->queued) visit(*call);
      for (const auto& [id, lease] : shape->leases) {
        for (const OutgoingCall* call : lease.in_flight) visit(*call);
      }
    }
  }
  [[nodiscard]] const CallHistory& history() const { return history_; }

 private:
  OutgoingCall* make_call(CallOptions options, store::PayloadPtr args, const std::vector<store::Entry*>& dependencies,
                          std::vector<store::Entry*>& returns);
  void queue(OutgoingCall& call);
  void cancel(OutgoingCall& call, bool force, bool recursive);
  void send(OutgoingCall& call, ProcessIndex to);
  void tell_ourselves(const ForwardRecord& forward);
  void say_taken(const OutgoingCall& call, std::uint64_t count);
  void reopen_stream(const OutgoingCall& call);
  store::Entry* item_awaited_in_vain(const OutgoingCall& call);
  // The call that the answer is to, null if it is of an attempt that was given up.
  OutgoingCall* find_call(ProcessIndex from, std::uint64_t task, std::uint32_t attempt);
  // What such an answer holds is freed.
  void refuse_values(ProcessIndex from, const std::vector<store::PayloadPtr>& values, std::uint64_t refs_token);
  void pump(ActorTarget& actor);
  void pump(Shape& shape);
  void request_lease(Shape& shape);
  void schedule_idle_check(Shape& shape);
  void return_idle(Shape& shape, bool all);
  void return_lease(Shape& shape, LeaseId lease, control::WorkerAfter worker);
  void lose_lease(Shape& shape, LeaseId id, const std::string& reason);
  void dismiss_leaving(Shape& shape);
  void return_used(Shape& shape);
  // The end: values or one failure for all returns.
  void complete(OutgoingCall& call, std::vector<store::PayloadPtr> values);
  void fail(OutgoingCall& call, const store::PayloadPtr& failure);
  bool retry(OutgoingCall& call, const store::Payload& error);
  // An attempt was lost with its worker; another one follows.
  void note_lost_attempt(const OutgoingCall& call, store::ErrorKind kind, const std::string& reason);
  void start_over(OutgoingCall& call);
  void unlink(OutgoingCall& call);
  [[nodiscard]] store::PayloadPtr death_of(const ActorTarget& actor, const std::string& call_name) const;

  Process& process_;
  Streams streams_;
  Lineage lineage_;
  std::unordered_map<ActorId, std::unique_ptr<ActorTarget>> actors_;
  std::vector<std::unique_ptr<Shape>> shapes_;
  std::unordered_map<LeaseId, Shape*> shape_of_lease_;
  std::unordered_map<std::uint64_t, std::string> functions_;
  LeaseId next_lease_ = 1;
  std::uint64_t stale_results_ = 0;
  CallHistory history_;
  Bytes scratch_;
};

}  // namespace beeline::runtime
