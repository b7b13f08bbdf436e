// Who gets a version from whom: what its publisher decides, without I/O.
//
// The readers of a version are a tree. Its root is the publisher, and a reader that has the version whole may be a
// parent as well. No parent gets more children than the fan-out says; who finds no room waits until somebody offers.
// On a host whose agents share memory one reader at a time has a parent elsewhere: the others wait for it, and are then
// sent to its copy, which costs its owner nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "beeline/transfer/messages.h"
#include "beeline/transport/transport.h"

namespace beeline::transfer {

// The fan-out that publishers have unless they say otherwise. With k children at a time, which share their parent's
// link, n readers have a version after about k * log_k(n) times what one copy takes: least for 3.
inline constexpr std::size_t kFanOut = 3;

// Of one version. Not thread-safe.
class FanOut {
 public:
  using Reader = int;  // as its publisher tells them apart
  static constexpr Reader kPublisher = -1;

  explicit FanOut(std::size_t children) : children_(children) {}

  // What a reader said of itself.
  struct Traits {
    std::string host;      // where it shares memory with others; empty: nowhere
    bool listens = false;  // whether agents elsewhere reach it
  };
  // It asks, or says what became of it. The step is what came over the wire: one that is none counts as the first.
  void seek(Reader reader, const Traits& traits, messages::Step step, std::uint64_t serial);
  // It has the version whole, in a region of its own. False for one that was sent to nobody, or reaches nobody.
  [[nodiscard]] bool offer(Reader reader, const transport::Region& copy);
  // It is gone.
  void leave(Reader reader);

  struct Decision {
    Reader reader = 0;
    std::uint64_t serial = 0;
    Reader parent = kPublisher;
    bool is_beyond = false;  // the publisher has as many as it should have
  };
  // Those who wait and now have a parent: first come, first served.
  [[nodiscard]] std::vector<Decision> decide();

  [[nodiscard]] const transport::Region& copy_of(Reader reader) const { return nodes_.at(reader).copy; }
  [[nodiscard]] std::vector<Reader> offering() const { return in_state(State::kOffers); }
  // Those who wait, with the serials of what they asked.
  [[nodiscard]] std::vector<Decision> waiting() const;

 private:
  enum class State : std::uint8_t { kWaits, kReads, kMaps, kOffers };
  struct Node {
    Traits traits;
    State state = State::kWaits;
    std::uint64_t serial = 0;
    std::uint64_t asked_at = 0;  // by clock_: when it last asked
    std::uint64_t moved_at = 0;  // when it last got some of the version, or a parent
    bool is_overdue = false;     // has waited long enough
    bool is_suspect = false;     // failed a child
    std::optional<Reader> parent;
    bool is_counted = false;   // among its parent's children
    std::size_t children = 0;  // to whom it sends bytes
    transport::Region copy;
  };
  // None: it has to wait.
  [[nodiscard]] std::optional<Reader> parent_for(Reader reader, const Node& node) const;
  [[nodiscard]] bool is_near(const Node& one, const Node& other) const {
    return !one.traits.host.empty() && one.traits.host == other.traits.host;
  }
  // Whether somebody for whom the reader waits has got on with it since it asked.
  [[nodiscard]] bool is_worth_waiting(Reader reader, const Node& node) const;
  [[nodiscard]] std::vector<Reader> in_state(State state) const;
  void part(Node& node);

  const std::size_t children_;
  std::size_t publishers_children_ = 0;
  std::uint64_t clock_ = 0;  // counts what happens
  std::map<Reader, Node> nodes_;
  std::deque<Reader> queue_;  // those that wait
};

}  // namespace beeline::transfer
