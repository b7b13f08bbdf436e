// Short messages that other agents send under a topic, for instance that bytes which they pushed are there.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "beeline/base/bytes.h"
#include "beeline/os/fd.h"
#include "beeline/os/wait.h"

namespace beeline::transfer {

inline constexpr std::size_t kMaxNotification = std::size_t{64} << 10;  // bytes of a payload
inline constexpr std::size_t kMaxNotificationTopic = 1024;

struct Notification {
  std::string sender_id;  // the id of an agent's life
  std::string sender;     // its name
  Bytes payload;
};

// Those that have come under one topic and were not taken yet: of each sender in the order in which it sent them.
// Thread-safe.
class Notifications {
 public:
  enum class WhenFull : std::uint8_t {
    kRefuse,      // who sends is told
    kDropOldest,  // the one that has waited longest goes, and is counted
  };
  static Result<std::shared_ptr<Notifications>> make(std::string topic, std::size_t limit, WhenFull when_full);

  [[nodiscard]] std::size_t limit() const { return limit_; }
  [[nodiscard]] WhenFull when_full() const { return when_full_; }
  // The one that has waited longest; waits for it. kPeerLost when the agent was closed and none is left.
  Result<Notification> next(const os::Wait& wait);
  // The same without waiting.
  std::optional<Notification> poll();
  // Readable when something may have come or the agent was closed: for event loops, which poll() once they have
  // drained it.
  [[nodiscard]] int fd() const { return event_.get(); }
  // Why next() fails once none is left; kOk while the agent is there.
  [[nodiscard]] Status ended() const;

  struct Stats {
    std::uint64_t waiting = 0;  // now
    std::uint64_t refused = 0, dropped = 0;
  };
  [[nodiscard]] Stats stats() const;

  // From the agent. kResourceExhausted when it is refused.
  Status add(Notification notification);
  void end(const Status& why);

 private:
  Notifications(std::string topic, std::size_t limit, WhenFull when_full)
      : topic_(std::move(topic)), limit_(limit), when_full_(when_full) {}
  std::optional<Notification> take();  // needs mutex_
  void wake();

  const std::string topic_;
  const std::size_t limit_;
  const WhenFull when_full_;
  os::Fd event_;
  mutable std::mutex mutex_;
  std::deque<Notification> waiting_;         // needs mutex_
  std::uint64_t refused_ = 0, dropped_ = 0;  // likewise
  Status ended_;                             // likewise
  std::atomic<std::uint32_t> changes_{0};    // futex
};

}  // namespace beeline::transfer
