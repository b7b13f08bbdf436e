#include "beeline/transfer/fan_out.h"

#include <algorithm>
#include <utility>

namespace beeline::transfer {

using messages::Step;

void FanOut::seek(Reader reader, const Traits& traits, Step step, std::uint64_t serial) {
  const auto known = nodes_.find(reader);
  if (step == Step::kGetsOn) {
    if (known != nodes_.end()) known->second.moved_at = ++clock_;
    return;
  }
  if (step == Step::kGaveUp) return leave(reader);
  const bool waits = known != nodes_.end() && known->second.state == State::kWaits;
  bool is_overdue = step == Step::kInsists;
  if (waits && step == Step::kOverdue) is_overdue = !is_worth_waiting(reader, known->second);
  if (known != nodes_.end() && step == Step::kFailed && known->second.parent) {
    // One child's word is enough: what it cannot reach, others of this version are not sent to either. Its own place is
    // free for one who gives the version on.
    if (const auto failed = nodes_.find(*known->second.parent); failed != nodes_.end()) {
      failed->second.is_suspect = true;
      part(failed->second);
    }
  }
  Node& node = nodes_[reader];
  part(node);
  node.traits = traits;
  node.state = State::kWaits;
  node.serial = serial;
  node.asked_at = ++clock_;
  node.is_overdue = is_overdue;
  if (!waits) queue_.push_back(reader);  // else it keeps its place
}

bool FanOut::is_worth_waiting(Reader reader, const Node& node) const {
  bool is_near_one = false, gets_on = false, near_gets_on = false;
  for (const auto& [other, candidate] : nodes_) {
    if (other == reader || candidate.is_suspect || candidate.state != State::kReads) continue;
    const bool moved = candidate.moved_at > node.asked_at;
    gets_on = gets_on || moved;
    if (!is_near(node, candidate)) continue;
    is_near_one = true;
    near_gets_on = near_gets_on || moved;
  }
  return is_near_one ? near_gets_on : gets_on;
}

bool FanOut::offer(Reader reader, const transport::Region& copy) {
  const auto found = nodes_.find(reader);
  if (found == nodes_.end()) return false;
  const State state = found->second.state;
  // One that was to map a copy may have had to read it all the same.
  if (state != State::kReads && state != State::kMaps) return false;
  const Traits& traits = found->second.traits;
  if (!traits.listens && traits.host.empty()) return false;
  found->second.state = State::kOffers;
  found->second.copy = copy;
  return true;
}

void FanOut::leave(Reader reader) {
  const auto found = nodes_.find(reader);
  if (found == nodes_.end()) return;
  part(found->second);
  nodes_.erase(found);
  std::erase(queue_, reader);
  // Its number may soon be another one's.
  for (auto& [other, node] : nodes_) {
    if (node.parent == reader) node.parent.reset();
  }
}

// Its parent has room for another one.
void FanOut::part(Node& node) {
  const auto parent = std::exchange(node.parent, std::nullopt);
  if (!std::exchange(node.is_counted, false) || !parent) return;
  if (*parent == kPublisher) {
    --publishers_children_;
  } else if (const auto found = nodes_.find(*parent); found != nodes_.end()) {
    --found->second.children;
  }
}

std::optional<FanOut::Reader> FanOut::parent_for(Reader reader, const Node& node) const {
  std::optional<Reader> best;
  std::size_t fewest = children_;
  bool is_near_one = false, is_any = false;  // who may be a parent later
  for (const auto& [other, candidate] : nodes_) {
    if (other == reader || candidate.is_suspect) continue;
    const bool reads = candidate.state == State::kReads;
    is_any = is_any || (reads && candidate.traits.listens);
    if (is_near(node, candidate)) {
      if (candidate.state == State::kOffers) return other;
      is_near_one = is_near_one || reads;
    }
    if (candidate.state != State::kOffers || !candidate.traits.listens || candidate.children >= fewest) continue;
    best = other;
    fewest = candidate.children;
  }
  if (is_near_one && !node.is_overdue) return std::nullopt;
  // Of those with as many children the publisher is the last: it has had the version all to itself. It serves whoever
  // has nobody to wait for.
  if (publishers_children_ < fewest || (!best && (node.is_overdue || !is_any))) return kPublisher;
  return best;
}

std::vector<FanOut::Decision> FanOut::decide() {
  std::vector<Decision> decisions;
  std::deque<Reader> left;
  for (const Reader reader : std::exchange(queue_, {})) {
    Node& node = nodes_.at(reader);
    const auto parent = parent_for(reader, node);
    if (!parent) {
      left.push_back(reader);
      continue;
    }
    node.parent = parent;
    const auto other = nodes_.find(*parent);
    const bool maps = other != nodes_.end() && is_near(node, other->second);
    node.state = maps ? State::kMaps : State::kReads;
    node.is_counted = !maps;
    node.moved_at = ++clock_;
    const bool is_beyond = *parent == kPublisher && publishers_children_ >= children_;
    if (!maps) ++(*parent == kPublisher ? publishers_children_ : other->second.children);
    decisions.push_back({reader, node.serial, *parent, is_beyond});
  }
  queue_ = std::move(left);
  return decisions;
}

std::vector<FanOut::Reader> FanOut::in_state(State state) const {
  std::vector<Reader> readers;
  for (const auto& [reader, node] : nodes_) {
    if (node.state == state) readers.push_back(reader);
  }
  return readers;
}

std::vector<FanOut::Decision> FanOut::waiting() const {
  std::vector<Decision> waiting;
  for (const Reader reader : queue_) waiting.push_back({reader, nodes_.at(reader).serial});
  return waiting;
}

}  // namespace beeline::transfer
