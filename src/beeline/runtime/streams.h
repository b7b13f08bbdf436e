// The items of calls that stream: an own object for each, made when it comes, or when somebody wants to wait for it.
//
// Not thread-safe: the process's state lock is held in every call.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "beeline/runtime/outgoing_call.h"
#include "beeline/store/object_table.h"

namespace beeline::runtime {

class Streams {
 public:
  explicit Streams(store::ObjectTable& objects) : objects_(objects) {}

  // The stream of a call from here on, until drop().
  void open(std::uint64_t task, const std::string* name);
  [[nodiscard]] bool contains(std::uint64_t task) const { return streams_.contains(task); }

  // An item of some attempt of the call: a new one, or the value of one that was lost. False where it is there, or
  // nobody wants it: the value is the caller's.
  bool receive(OutgoingCall& call, std::uint64_t index, const store::PayloadPtr& value);
  // Nothing more comes. Items that the call was to give again and did not get its failure, null if it ended well.
  void end(OutgoingCall& call, const store::PayloadPtr& failure);

  // The object of the next item, or of the stream's end; held by the stream.
  store::Entry* next(std::uint64_t task);
  // Takes the next item, whether or not its value is there; the hold is the receiver's. Null where none has come.
  store::Entry* take(std::uint64_t task);
  // How many items were taken.
  [[nodiscard]] std::uint64_t taken(std::uint64_t task) const;
  // The items that are there, taken together.
  [[nodiscard]] std::vector<store::ObjectId> items(std::uint64_t task) const;

  void drop(std::uint64_t task);

 private:
  struct Stream {
    const std::string* name = nullptr;
    std::deque<store::Entry*> items;  // each held; the last one is still to come, or stands for the end
    std::uint64_t received = 0;       // ever, whatever the attempt
    std::uint64_t taken = 0;
    bool ended = false;
  };
  Stream* find(std::uint64_t task);
  void set_end(const Stream& stream);
  void add(Stream& stream, OutgoingCall& call, const store::PayloadPtr& value);

  store::ObjectTable& objects_;
  std::unordered_map<std::uint64_t, Stream> streams_;  // by task
};

}  // namespace beeline::runtime
