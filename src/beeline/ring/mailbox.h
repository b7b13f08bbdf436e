// Where a process is told that something arrived: one bit per channel and one place to sleep. The page is shared
// with every peer. Exactly one thread of the owner drains; senders wake whoever holds that role.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

#include "beeline/base/clock.h"
#include "beeline/base/status.h"
#include "beeline/os/fd.h"
#include "beeline/os/futex.h"

namespace beeline::ring {

inline constexpr std::uint32_t kMaxChannels = 4096;

// Who sleeps and must be woken: the draining thread, or the helper thread while no other thread waits.
enum class Sleeper : std::uint32_t { kNobody = 0, kWaiter = 1, kHelper = 2 };

// How soon the owner must see what was written. What has time does not wake the helper in place of a thread that is
// busy, as long as the helper looks by itself (see Progress); a thread that waits is woken for either.
enum class Urgency : std::uint8_t { kNow, kSoon };

struct MailboxPage {
  static constexpr std::uint64_t kMagic = 0x32786f626d4c4542;  // "BELmbox2"

  std::uint64_t magic;
  alignas(64) std::atomic<std::uint32_t> sleeper;  // Sleeper
  std::atomic<std::uint32_t> waiter_word;          // futex; counts wakes
  std::atomic<std::uint32_t> helper_word;          // futex; counts wakes
  std::atomic<std::uint32_t> watched;              // 1: the helper looks by itself, again and again
  alignas(64) std::atomic<std::uint64_t> summary;  // bit i: word i of channels may be set
  alignas(64) std::array<std::atomic<std::uint64_t>, kMaxChannels / 64> channels;
};
static_assert(sizeof(MailboxPage) == 192 + kMaxChannels / 8);
static_assert(offsetof(MailboxPage, summary) == 128 && offsetof(MailboxPage, channels) == 192);

// A peer's mailbox: rings its bell. Thread-safe.
class Doorbell {
 public:
  Doorbell() = default;
  static Result<Doorbell> attach(const os::Fd& memory, std::uint32_t channel);

  // Everything this thread wrote before is visible to the owner when it sees the bit.
  void ring(Urgency urgency = Urgency::kNow) const;

 private:
  os::Mapping mapping_;
  MailboxPage* page_ = nullptr;
  std::uint32_t channel_ = 0;
};

// One's own mailbox.
class Mailbox {
 public:
  Mailbox() = default;
  static Result<Mailbox> create();

  [[nodiscard]] int fd() const { return memory_.get(); }

  // Calls visit(channel) for each channel whose bell rang since the last call; true if there was any. Only the
  // holder of the drain role calls it.
  template <typename Visit>
  bool collect(Visit&& visit) {
    if (page_->summary.load(std::memory_order_relaxed) == 0) return false;
    std::uint64_t words = page_->summary.exchange(0, std::memory_order_seq_cst);
    while (words != 0) {
      const auto word = static_cast<std::uint32_t>(std::countr_zero(words));
      words &= words - 1;
      std::uint64_t bits = page_->channels[word].exchange(0, std::memory_order_seq_cst);
      while (bits != 0) {
        const auto bit = static_cast<std::uint32_t>(std::countr_zero(bits));
        bits &= bits - 1;
        visit(word * 64 + bit);
      }
    }
    return true;
  }
  [[nodiscard]] bool has_mail() const { return page_->summary.load(std::memory_order_seq_cst) != 0; }
  // Marks a channel for the next collect(): its ring holds more than was taken.
  void mark(std::uint32_t channel);

  // The number of wakes of `who` so far. Take it while what you wait for cannot change unseen, then sleep on it.
  [[nodiscard]] std::uint32_t ticket(Sleeper who) const;
  // Sleeps as the draining thread until mail comes, wake() is called after the ticket was taken, the deadline passes
  // or a signal interrupts. Returns at once when there is mail.
  os::FutexWait sleep_draining(std::uint32_t ticket, Deadline deadline);
  // Sleeps as the helper until a sender or wake() wakes it, or the deadline passes; entrust() decides whether senders
  // do.
  os::FutexWait sleep_helping(std::uint32_t ticket, Deadline deadline);
  // Leaves the waking of `who` to senders without sleeping in it: from now on they wake that one.
  // True if mail is waiting already.
  bool entrust(Sleeper who);
  // Takes the mailbox back: senders need not wake anyone.
  void take_back() { page_->sleeper.store(static_cast<std::uint32_t>(Sleeper::kNobody), std::memory_order_seq_cst); }
  // Ends a sleep of `who` from within the process.
  void wake(Sleeper who);
  // Whether the helper looks by itself from now on, so that it need not be woken for what has time. What came before
  // the end of that is seen by has_mail() after it.
  void set_watched(bool watched) { page_->watched.store(watched ? 1 : 0, std::memory_order_seq_cst); }

 private:
  os::Fd memory_;
  os::Mapping mapping_;
  MailboxPage* page_ = nullptr;
};

}  // namespace beeline::ring
