// A subscriber's part in a fan-out: gets each version whole from whom its publisher says, and gives it on.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "beeline/os/wait.h"
#include "beeline/transfer/descriptor.h"
#include "beeline/transfer/messages.h"
#include "beeline/transfer/peer.h"
#include "beeline/transfer/regions.h"

namespace beeline::transfer {

class Agent;

// One version of what is published under a name. A value.
struct Version {
  std::uint64_t number = 0;
  std::shared_ptr<const Descriptor> tensors;
  std::shared_ptr<Registration> copy = nullptr;  // of a version that this agent relays: keeps it
};

// Thread-safe. Locks nothing else under its own lock.
class Relay {
 public:
  Relay(std::string name, std::weak_ptr<Agent> agent, std::shared_ptr<Peer> publisher)
      : name_(std::move(name)), agent_(std::move(agent)), publisher_(std::move(publisher)) {}

  // The version where it is nearest: as its publisher has it if that shares memory with us, as a relay on this host has
  // it, or as a copy that is read now into memory of this agent, and offered to others. A newer one if there is one
  // already. Parents that fail are given up for others. kStale when the publisher does not keep the version any more;
  // kTorn when it arrived from the publisher itself with another checksum; otherwise as Peer::read().
  Result<Version> obtain(const Version& wanted, const os::Wait& wait);
  // Whether the publisher shares no memory with us.
  [[nodiscard]] bool needs_copies() const { return !publisher_->facts().same_host(); }
  // What was obtained last and can be read yet; its number is 0 if there is none.
  [[nodiscard]] Version latest() const;

  // From the agent: what its publisher says; that it is gone. What recall() gives is to be let go of without a lock.
  void set_parent(messages::Parent parent);
  [[nodiscard]] std::shared_ptr<void> recall(std::uint64_t number);
  void end(const Status& why);

 private:
  // A version that is being read into a block of the arena.
  struct Reading;
  struct Turn;
  Result<std::optional<Version>> take_turn(std::uint64_t number, const os::Wait& wait);
  Result<Version> get(Agent& agent, const Version& wanted, messages::Step step, const os::Wait& wait);
  Result<messages::Parent> ask(Agent& agent, std::uint64_t number, messages::Step step, const os::Wait& wait);
  Result<std::optional<messages::Parent>> hear(const os::Wait& part, const os::Wait& whole);
  Status read_rest(Agent& agent, Peer& peer, const transport::Region& region, Reading& reading, std::uint64_t number,
                   bool is_relay, const os::Wait& wait);
  Version keep_near(const Version& wanted, const std::string& owner, const transport::Region& region,
                    std::shared_ptr<Peer> peer);
  Result<Version> offer(Agent& agent, const Version& wanted, const Reading& reading);
  void tell(Agent& agent, std::uint64_t number, messages::Step step, std::uint64_t serial) const;
  void note_failure(Agent& agent, const std::string& owner, const Status& why) const;
  void wake();
  [[nodiscard]] bool is_good() const;  // needs mutex_

  const std::string name_;
  const std::weak_ptr<Agent> agent_;
  const std::shared_ptr<Peer> publisher_;
  mutable std::mutex mutex_;
  // All of these need mutex_.
  Version near_;                     // obtained last
  std::shared_ptr<Peer> near_peer_;  // whose it is, where it is neither the publisher's nor our own
  std::map<std::uint64_t, std::shared_ptr<Registration>> offered_;  // by number
  bool is_busy_ = false;                                            // a thread obtains a version
  std::uint64_t serial_ = 0;                                        // of what was asked last
  std::optional<messages::Parent> told_;
  Status ended_;
  std::atomic<std::uint32_t> changes_{0};  // futex
};

}  // namespace beeline::transfer
