// The items of calls that stream: an own object for each, made when it comes, or when somebody wants to wait for it.
//
// Not thread-safe: the process's state lock is held in every call.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "beeline/store/object_table.h"

namespace beeline::runtime {

class Streams {
 public:
  explicit Streams(store::ObjectTable& objects) : objects_(objects) {}

  // The stream of a call from here on, until drop().
  void open(std::uint64_t task, const std::string* name);
  [[nodiscard]] bool contains(std::uint64_t task) const { return streams_.contains(task); }

  // An item of some attempt. False where it was received before, or nobody wants it: the value is the caller's.
  bool receive(std::uint64_t task, std::uint64_t index, const store::PayloadPtr& value);
  // Nothing more comes.
  void end(std::uint64_t task);

  // The object of the next item, or of the stream's end; held by the stream.
  store::Entry* next(std::uint64_t task);
  // Takes the next item, which is ready; the hold is the receiver's. Null at the end.
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

  store::ObjectTable& objects_;
  std::unordered_map<std::uint64_t, Stream> streams_;  // by task
};

}  // namespace beeline::runtime
