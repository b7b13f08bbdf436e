// The calls that this process was asked to execute: their arguments being awaited, their order, their results.
//
// Not thread-safe: the process's state lock is held in every call.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "beeline/base/clock.h"
#include "beeline/base/thin_vector.h"
#include "beeline/runtime/call_history.h"
#include "beeline/runtime/control.h"
#include "beeline/runtime/messages.h"
#include "beeline/store/object_table.h"

namespace beeline::runtime {

class Process;
class Executor;

struct IncomingCall final : store::Watcher {
  void on_ready(store::Entry& entry) override;

  Executor* executor = nullptr;
  ProcessIndex caller = 0;
  CallHeader header;
  std::string name;  // of the method or function
  store::PayloadPtr args;
  ThinVector<store::Entry*> dependencies;  // each held
  ThinVector<store::Entry*> held;          // references inside the arguments
  ThinVector<ForwardRecord> forwards;
  std::uint32_t unresolved = 0;
  bool queued = false;    // in runnable_
  bool in_group = false;  // has one of the places of its concurrency group
  bool started = false;
  std::uint64_t yielded = 0;  // of a stream: items sent, and how many of those the caller has taken
  std::uint64_t taken = 0;
  bool is_unwanted = false;  // nobody takes what is left
  std::atomic<bool> cancelled{false};
  std::atomic<bool> caller_gone{false};
  Clock::time_point started_at{};

  [[nodiscard]] bool streams() const { return (header.flags & kCallStreams) != 0; }
  // Whether the next item may be sent now. One whose call ends anyway waits for nobody.
  [[nodiscard]] bool has_room() const {
    return header.window == 0 || yielded < taken + header.window || is_unwanted || cancelled.load() ||
           caller_gone.load();
  }
};

class Executor {
 public:
  explicit Executor(Process& process) : process_(process) {}

  struct Key {
    ProcessIndex caller;
    std::uint64_t task;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    std::size_t operator()(const Key& key) const { return key.task * 0x9e3779b97f4a7c15ull ^ key.caller; }
  };

  // Called when a running call is to be interrupted (force: the process must end). Any thread, state lock held.
  std::function<void(IncomingCall&, bool force)> on_cancel;
  // Called when a stream that had no room may have some. Any thread, state lock held.
  std::function<void(IncomingCall&)> on_room;
  // Called when a call became runnable and nobody waits in the process for it (event loops).
  std::function<void()> on_runnable;

  [[nodiscard]] bool has_runnable() const { return !runnable_.empty(); }
  // The next call to run, nullptr if there is none; the taker must finish() it.
  IncomingCall* take();
  // Sends the results (as many as the call's return_count) or one failure to the caller and ends the call.
  void finish(IncomingCall& call, std::vector<store::PayloadPtr> results, bool retryable);

  // Sends the next item of a call that streams. False if the caller is gone: nobody takes more.
  bool send_item(IncomingCall& call, const store::PayloadPtr& item);

  // What the daemon assigned to this process. Its callers may know of that sooner than it does itself: calls that came
  // before wait for it.
  //
  // An actor from now on. Calls of one caller start in the order in which they were made; an argument that is awaited
  // holds back later ones. Without order (functions, some actors) each starts when it can.
  // limits: how many calls of each concurrency group run at once, the first for methods without one; none: as many as
  // are taken.
  void become_actor(bool ordered, const std::vector<std::uint32_t>& limits);
  // Serves the functions that come on this lease of the lessee, until the next.
  void serve_lease(ProcessIndex lessee, LeaseId lease);
  // A thread of a function is going to wait, or has waited. Meanwhile function calls that have not started, or come,
  // go back to their callers: what it waits for may depend on them.
  void set_blocked(bool blocked);
  // This process serves functions no longer: those that have not started, or come, go back to their callers, who learn
  // of it with the next result.
  void leave();
  [[nodiscard]] bool leaving() const { return leaving_; }
  // Functions are here that cannot start, and none runs or can. (A definition that is on its way needs nobody's CPU.)
  [[nodiscard]] bool awaits_arguments() const {
    return !is_actor_ && running_ == 0 && runnable_.empty() && calls_.size() > unassigned_.size() &&
           awaiting_function_.empty();
  }
  [[nodiscard]] std::size_t running() const { return running_; }
  [[nodiscard]] bool idle() const { return calls_.empty(); }
  [[nodiscard]] bool terminating() const { return terminating_; }
  void set_terminating() { terminating_ = true; }
  std::shared_ptr<const std::string> function(std::uint64_t key) const;

  Status on_call(ProcessIndex from, Reader& reader);
  void on_forward(const ForwardRecord& record);
  void on_taken(ProcessIndex from, const TakenRecord& record);
  void on_cancel_message(ProcessIndex from, const CancelRecord& record);
  void on_function(std::uint64_t key, std::string blob);
  void on_process_lost(ProcessIndex process);
  void resolved(IncomingCall& call);
  // A value came for an object that nobody here knows: its producer was quicker than the call that names it, on
  // another ring. That call asks the owner.
  void on_early_object(const store::ObjectId& id) { early_.insert(id); }

  // Calls that are here and not over, and those that ended last.
  template <typename Visit>
  void for_each_call(Visit&& visit) const {
    for (const auto& [key, call] : calls_) visit(*call);
  }
  using Executed = LastRows<ExecutedCall, CallHistory::kKept>;
  [[nodiscard]] const Executed& executed() const { return executed_; }
  [[nodiscard]] control::TaskState state_of(const IncomingCall& call) const;

 private:
  Status read_arguments(IncomingCall& call, Reader& reader);
  void make_runnable(IncomingCall& call);
  void advance(ProcessIndex caller);
  [[nodiscard]] bool is_assigned(const IncomingCall& call) const;
  void admit();
  void take_place(IncomingCall& call);
  void withdraw(IncomingCall& call);
  void release(IncomingCall& call);
  void bounce(IncomingCall& call);
  void bounce_unstarted();

  // A concurrency group of an actor.
  struct Group {
    std::uint32_t limit = 0;
    std::uint32_t admitted = 0;         // run or may run
    std::deque<IncomingCall*> waiting;  // until one of those has ended
  };
  Group* group_of(const IncomingCall& call);
  void leave_group(IncomingCall& call);

  Process& process_;
  std::unordered_map<Key, std::unique_ptr<IncomingCall>, KeyHash> calls_;
  std::unordered_map<ProcessIndex, std::deque<IncomingCall*>> lanes_;  // ordered calls that are not runnable yet
  std::deque<IncomingCall*> runnable_;
  std::vector<Group> groups_;             // empty without limits
  std::deque<IncomingCall*> unassigned_;  // until become_actor() or serve_lease()
  std::unordered_map<std::uint64_t, std::shared_ptr<const std::string>> functions_;
  // Calls by the function they wait for; the caller of the first was asked for it.
  std::unordered_map<std::uint64_t, std::vector<Key>> awaiting_function_;
  std::unordered_set<store::ObjectId, store::ObjectIdHash> early_;
  Executed executed_;
  std::size_t running_ = 0;
  std::size_t blocked_ = 0;  // threads that wait within a function
  bool is_actor_ = false;
  ProcessIndex lessee_ = 0;
  LeaseId lease_ = 0;
  bool ordered_ = true;
  bool terminating_ = false;
  bool leaving_ = false;
};

}  // namespace beeline::runtime
