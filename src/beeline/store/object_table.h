// The objects that a process owns or refers to: their values, who holds them, who waits for them.
//
// The process that makes an id owns the object. Others that keep a reference tell the owner (borrow) and tell it
// again when their last one is gone (release). A message that carries references pins them at its sender until the
// receiver has borrowed them; since rings are shared memory, a release that an owner sees implies that every borrow
// sent before it is in some ring already: an object is freed only after all rings were looked at once more (reap).
//
// A value that is lost may come back: whoever made it keeps a record of how (`lineage`), and records keep the objects
// that they depend on, though not their values.
//
// Not thread-safe: the process's state lock is held in every call.
#pragma once

#include <cstdint>
#include <deque>
#include <unordered_map>
#include <vector>

#include "beeline/base/thin_vector.h"
#include "beeline/store/payload.h"

namespace beeline::store {

struct Entry;

// Why a value will not be made again once it is lost, or what for it will.
enum class Remaking : std::uint8_t {
  kNoCall,          // no call made it, or none that ended well
  kKept,            // it will: `lineage` says how
  kNoRetries,       // its call is to run at most once
  kRetriesUsed,     // its call has run as often as it may
  kLargeArguments,  // its call's arguments were let go of
  kEvicted,         // what was known of its call took too much memory
};

// Told once when an object it watches becomes ready. Called with the state lock held: short, no user code.
class Watcher {
 public:
  virtual void on_ready(Entry& entry) = 0;

 protected:
  ~Watcher() = default;
};

struct Entry {
  ObjectId id;
  std::uint32_t local = 0;                 // holds in this process: Python references, calls, values that contain it
  bool borrowed = false;                   // foreign: the owner knows that we hold it
  bool subscribed = false;                 // foreign: the owner was asked for the value
  bool doomed = false;                     // nobody holds it; goes at the next reap()
  PayloadPtr payload;                      // the object is ready
  const std::string* name = nullptr;       // of the task that makes it, for people; interned
  const std::string* call_site = nullptr;  // where the program asked for it, if that is recorded; interned
  void* producer = nullptr;                // own: the caller's record of the call that makes it, or may do so again
  void* lineage = nullptr;                 // own: the caller's record of how to make it again
  Remaking remaking = Remaking::kNoCall;   // own
  std::uint32_t dependents = 0;          // own: such records that need it; without holds it is there without its value
  ThinVector<ProcessIndex> borrowers;    // own
  ThinVector<ProcessIndex> subscribers;  // own: told when it is ready, or replaced
  ThinVector<Watcher*> watchers;

  [[nodiscard]] bool ready() const { return payload != nullptr; }
  [[nodiscard]] bool held() const { return local > 0 || !borrowers.empty(); }
  [[nodiscard]] bool awaited() const { return !watchers.empty() || !subscribers.empty(); }
};

// What the table asks of the process around it.
class TableEvents {
 public:
  virtual void send_borrow(const ObjectId& id) = 0;
  virtual void send_release(const ObjectId& id) = 0;
  virtual void send_object(ProcessIndex to, const Entry& entry) = 0;
  // Nobody needs what the placement's holder published or keeps.
  virtual void free_placement(const Placement& placement) = 0;
  // Nobody holds a handle of the actor any more.
  virtual void actor_unreferenced(const ObjectId& id) = 0;
  // The object is about to go, and will not be made again. Its `lineage` is set.
  virtual void lineage_unneeded(Entry& entry) = 0;

 protected:
  ~TableEvents() = default;
};

class ObjectTable {
 public:
  explicit ObjectTable(TableEvents& events) : events_(events) {}
  void set_self(ProcessIndex self) { self_ = self; }

  // A new own object, held once.
  Entry& create(ObjectKind kind, const std::string* name);
  [[nodiscard]] bool owns(const ObjectId& id) const { return id.owner == self_; }
  // The entry of an id, nullptr if there is none.
  Entry* find(const ObjectId& id);
  // The entry of an id, held once more. Foreign ids get an entry; `keep` tells the owner that we hold it (without
  // it the caller guarantees that somebody else does meanwhile). nullptr for an own id that is gone.
  Entry* hold(const ObjectId& id, bool keep);
  void add_hold(Entry& entry) { ++entry.local; }
  void drop_hold(Entry& entry);
  void add_dependent(Entry& entry) { ++entry.dependents; }
  void drop_dependent(Entry& entry);

  void add_borrower(const ObjectId& id, ProcessIndex process);
  void drop_borrower(const ObjectId& id, ProcessIndex process);
  // The process is gone: all its holds end. (What it subscribed to is told to nobody: sending to it does nothing.)
  void drop_process(ProcessIndex process);

  // The value is there. Takes a hold on every reference inside it. Ignored if the object is ready or gone.
  void set_ready(Entry& entry, PayloadPtr payload);
  // Replaces the value of a ready object: later fetches see the new one, subscribers are told it. Frees the bytes of an
  // own value.
  void replace(Entry& entry, PayloadPtr payload);
  // Back to an own object without a value, which is to be made again when somebody asks for it. Frees its bytes.
  void forget_value(Entry& entry);
  void watch(Entry& entry, Watcher& watcher) { entry.watchers.push_back(&watcher); }
  void unwatch(Entry& entry, Watcher& watcher);
  // Fails every foreign object of an owner that is gone, and every one that is pending.
  void fail_owner(ProcessIndex owner, const std::string& reason);
  void fail_all_pending(const PayloadPtr& failure);

  // Frees what nobody holds. Call when every ring was seen empty after the release that led here.
  void reap();
  [[nodiscard]] bool has_doomed() const { return !doomed_.empty(); }
  // Whether another process let go of something since the last reap.
  [[nodiscard]] bool was_released() const { return was_released_; }

  struct Stats {
    std::uint64_t own = 0, foreign = 0, late_borrows = 0;
  };
  [[nodiscard]] Stats stats() const { return {own_count_, foreign_.size(), late_borrows_}; }
  template <typename Visit>
  void for_each(Visit&& visit) {
    for (auto& slot : slots_) {
      if (slot.used) visit(slot.entry);
    }
    for (auto& [id, entry] : foreign_) visit(*entry);
  }

 private:
  struct Slot {
    Entry entry;
    std::uint32_t generation = 0;
    bool used = false;
  };
  void doom(Entry& entry);
  void take_back(ProcessIndex process, std::size_t count);
  void let_go(Entry& entry);
  void free_entry(Entry& entry);
  void tell_subscribers(Entry& entry);
  void drop_contents(const PayloadPtr& payload);

  TableEvents& events_;
  ProcessIndex self_ = 0;
  std::deque<Slot> slots_;  // addresses are stable
  std::vector<std::uint32_t> free_slots_;
  std::unordered_map<ObjectId, std::unique_ptr<Entry>, ObjectIdHash> foreign_;
  std::vector<ObjectId> doomed_;
  bool was_released_ = false;
  std::unordered_map<ProcessIndex, std::size_t> lent_to_;  // entries in the borrowers of all own objects
  std::uint64_t own_count_ = 0;
  std::uint64_t late_borrows_ = 0;
};

}  // namespace beeline::store
