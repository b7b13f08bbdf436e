// What another agent publishes under a name, as it is told here: the newest version.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "beeline/os/wait.h"
#include "beeline/transfer/descriptor.h"
#include "beeline/transfer/relay.h"

namespace beeline::transfer {

// Thread-safe.
class Subscription {
 public:
  explicit Subscription(std::string name) : name_(std::move(name)) {}

  [[nodiscard]] const std::string& name() const { return name_; }
  // The newest version whose number is larger, waiting for it. kPeerLost when its publisher is gone, kDeadlineExceeded,
  // kInterrupted. Versions that newer ones have replaced meanwhile are passed over.
  Result<Version> newer_than(std::uint64_t number, const os::Wait& wait);
  // The newest one if there is any; does not wait. Its number is 0 if there is none, or none any more.
  [[nodiscard]] Version latest() const;
  // The same where they are nearest, see Relay::obtain(): of a subscription that relays.
  Result<Version> nearest_newer_than(std::uint64_t number, const os::Wait& wait);
  [[nodiscard]] Version nearest_latest() const;
  // Null unless it relays.
  [[nodiscard]] Relay* relay() const { return relay_.get(); }

  // From the agent, with its lock held.
  void start_relaying(std::weak_ptr<Agent> agent, std::shared_ptr<Peer> publisher);
  void publish(Version version);
  void withdraw();  // until a newer one
  void end(const Status& why);

 private:
  const std::string name_;
  std::unique_ptr<Relay> relay_;  // once made it stays
  mutable std::mutex mutex_;
  Version latest_;                         // needs mutex_
  Status ended_;                           // needs mutex_
  std::atomic<std::uint32_t> changes_{0};  // futex
};

}  // namespace beeline::transfer
