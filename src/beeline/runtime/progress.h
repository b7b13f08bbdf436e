// Who drains this process's mailbox, and how threads wait.
//
// Exactly one thread holds the drain role. A thread that waits takes it: it drains, spins briefly, sleeps. Others that
// wait meanwhile sleep on words of their own and get the role when its holder leaves. When no thread waits, the helper
// thread is entrusted: it never takes the GIL and blocks all signals.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <thread>
#include <vector>

#include "beeline/base/clock.h"
#include "beeline/base/function_ref.h"
#include "beeline/os/state_lock.h"
#include "beeline/ring/mailbox.h"

namespace beeline::runtime {

using os::Locked;
using os::StateLock;

enum class WaitOutcome { kDone, kTimedOut, kInterrupted };

class Progress {
 public:
  struct Work {
    // Handles what arrived, with the state lock held; true if there was anything.
    std::function<bool()> drain;
    // Chores off the critical path, with the state lock held, after the mailbox was seen empty.
    std::function<void()> idle;
    // Slow chores, without the lock, on the helper thread whenever it is woken.
    std::function<void()> chores;
    // Housekeeping, as chores: `lull` after the process slept, was told something or expect_lull(). True: again after
    // as long. False: it did what there was to do; the next time after one of these, so that an idle process sleeps for
    // good.
    std::function<bool()> lull_chores = nullptr;
    Nanos lull = std::chrono::seconds(30);
  };

  Progress(StateLock& lock, ring::Mailbox& mailbox) : lock_(lock), mailbox_(mailbox) {}

  Status start(Work work);
  // Ends every wait, as if done, and the helper. On return no thread uses the mailbox or will.
  void stop();

  // Waits until done() holds; it is asked with the state lock held, which `locked` must hold on entry and holds on
  // return. kInterrupted after a signal: the caller runs its handlers and comes back. `before_sleep` is called,
  // locked, each time before the thread really sleeps.
  WaitOutcome wait(Locked& locked, Deadline deadline, FunctionRef<bool()> done,
                   FunctionRef<void()> before_sleep = nullptr);
  // Drains now if nobody else is at it. The lock is held.
  void poke(Locked& locked);
  // Has the helper run its chores: it is woken for them, or does them when it next looks. The lock is held.
  void request_chores(ring::Urgency urgency = ring::Urgency::kNow);
  // Has the helper do its housekeeping after the lull, unless it will anyhow. The lock is held.
  void expect_lull();
  // Something changed by other means than a message (the control thread): waiters look again. The lock is held.
  void notify();

  struct Stats {
    std::uint64_t sleeps = 0, spins_won = 0, spins_in_vain = 0, helper_rounds = 0;
  };
  [[nodiscard]] const Stats& stats() const { return stats_; }

 private:
  enum class Role { kEntrusted, kHelper, kWaiter };  // kEntrusted: the helper sleeps and is woken by senders
  // Counts a thread among those that stop() waits for. Made and destroyed with the lock held.
  struct Presence {
    explicit Presence(Progress& inside) : progress(inside) { ++progress.present_; }
    Presence(const Presence&) = delete;
    Presence& operator=(const Presence&) = delete;
    ~Presence() {
      if (--progress.present_ == 0 && progress.stopping_) progress.left_.notify_all();
    }
    Progress& progress;
  };
  struct Waiter {
    FunctionRef<bool()> done;
    std::atomic<std::uint32_t> word{0};
    bool woken = false;
  };

  void run_helper(std::uint32_t ticket);
  // Whether the helper goes on looking by itself. The lock is held.
  void keep_looking(bool had_work);
  // Drains until the mailbox is empty. The lock is released now and then for others.
  bool drain(Locked& locked);
  void wake_done_waiters();
  void leave(Locked& locked);
  bool spin();

  StateLock& lock_;
  ring::Mailbox& mailbox_;
  Work work_;
  Role role_ = Role::kEntrusted;
  std::vector<Waiter*> waiters_;   // asleep on words of their own
  bool changed_ = false;           // notify() while a waiter holds the role
  bool asleep_ = false;            // that waiter sleeps until mail comes, or is about to
  bool napping_ = false;           // the helper: it looks in a moment, and no wake would reach it before
  std::uint32_t spin_credit_ = 8;  // falls with each spin in vain
  std::uint32_t spins_skipped_ = 0;
  bool expects_lull_ = false;  // the helper's sleep ends with the lull
  // How often the helper looks yet by itself for what has time; while it does, it is not woken for that.
  int looks_left_ = 0;
  std::atomic<bool> chores_wanted_{false};
  bool stopping_ = false;
  std::uint32_t present_ = 0;  // threads inside wait() or poke()
  std::condition_variable_any left_;
  Stats stats_;
  std::thread helper_;
};

}  // namespace beeline::runtime
