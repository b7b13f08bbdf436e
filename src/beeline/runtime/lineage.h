// Finished calls whose values lie in other processes: a record of each, with which it can be made again when such a
// process is gone. A record keeps the objects that the call depended on, but not their values: those may be made again
// in their turn. What a call has given are its returns, or, where it streams, its items.
//
// Not thread-safe: the process's state lock is held in every call.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "beeline/runtime/outgoing_call.h"
#include "beeline/store/object_table.h"

namespace beeline::runtime {

class Lineage {
 public:
  // Records take at most about `max_bytes`; beyond, the oldest ones go.
  Lineage(store::ObjectTable& objects, std::uint64_t max_bytes) : objects_(objects), max_bytes_(max_bytes) {}

  // Records a call that has ended, with its values, while everything that it needs is yet held. Does nothing where
  // nothing can be lost; where the call may not or cannot be made again, what it gave says so once it is lost.
  void keep(const OutgoingCall& call, bool failed);
  // A lost value's call, to be queued: what it is to make is pending, and it holds what a new call holds. The record
  // ends.
  std::unique_ptr<OutgoingCall> restart(store::Entry& lost);
  // The object goes.
  void forget(store::Entry& entry);
  // Why a value that has no record cannot be made again.
  [[nodiscard]] static std::string why_not(const store::Entry& entry);

  struct Stats {
    std::uint64_t records = 0, bytes = 0, evicted = 0, restarted = 0;
  };
  [[nodiscard]] Stats stats() const { return {records_.size(), bytes_, evicted_, restarted_}; }

 private:
  struct Record {
    OutgoingCall call;                          // holds nothing; a return that is gone, or not lost, is null
    std::vector<store::ObjectId> dependencies;  // those of the call; foreign ones may be gone
    std::uint64_t bytes = 0;
    std::size_t users = 0;  // objects that may be lost, and have it as their `lineage`
    std::list<Record>::iterator position;
  };
  // What may be lost of what the call has given.
  [[nodiscard]] std::vector<store::Entry*> may_be_lost(const OutgoingCall& call);
  void fail_lost(store::Entry& entry);
  // The own objects that the call depended on.
  template <typename Visit>
  void for_each_own(const Record& record, Visit&& visit);
  void drop(Record& record);
  void evict_oldest();

  store::ObjectTable& objects_;
  std::uint64_t max_bytes_;
  std::list<Record> records_;  // oldest first
  std::uint64_t bytes_ = 0, evicted_ = 0, restarted_ = 0;
};

}  // namespace beeline::runtime
