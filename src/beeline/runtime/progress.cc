#include "beeline/runtime/progress.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <utility>

#include "beeline/os/thread.h"

namespace beeline::runtime {
namespace {

// As long as waking a thread on another core takes (20 to 40 us in a virtual machine whose core has halted): who spins
// longer would have done better to sleep.
constexpr auto kSpin = std::chrono::microseconds(50);
// A yield that takes longer than this ran somebody else: the core is wanted.
constexpr auto kYieldCheap = std::chrono::microseconds(3);
constexpr std::uint32_t kMaxSpinCredit = 16;
// The helper naps this long between looks while messages keep coming, so that senders need not wake it each time. A
// first one may be the only one.
constexpr auto kNap = std::chrono::microseconds(100);
constexpr int kFirstNaps = 2;
constexpr int kNapsBeforeSleep = 8;
// Once woken, it also looks by itself for what has time (ring::Urgency::kSoon), until as many looks were in vain.
constexpr auto kLook = std::chrono::milliseconds(1);
constexpr int kLooksBeforeSleep = 4;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

Status Progress::start(Work work) {
  work_ = std::move(work);
  // Before anybody can wake it: a wake that the thread has not lived to see must end its first sleep.
  const std::uint32_t ticket = mailbox_.ticket(ring::Sleeper::kHelper);
  mailbox_.entrust(ring::Sleeper::kHelper);
  helper_ = os::start_thread([this, ticket] { run_helper(ticket); });
  return Status::ok();
}

void Progress::stop() {
  {
    const Locked locked(lock_);
    stopping_ = true;
    for (Waiter* waiter : waiters_) {
      waiter->word.fetch_add(1, std::memory_order_seq_cst);
      os::futex_wake(waiter->word, 1);
    }
  }
  mailbox_.wake(ring::Sleeper::kHelper);
  mailbox_.wake(ring::Sleeper::kWaiter);
  if (helper_.joinable()) helper_.join();
  Locked locked(lock_);
  left_.wait(locked, [this] { return present_ == 0; });
}

bool Progress::drain(Locked& locked) {
  bool any = false;
  while (work_.drain()) {
    any = true;
    wake_done_waiters();
    locked.unlock();
    locked.lock();
  }
  return any;
}

void Progress::wake_done_waiters() {
  for (Waiter* waiter : waiters_) {
    if (waiter->woken || !waiter->done()) continue;
    waiter->woken = true;
    waiter->word.fetch_add(1, std::memory_order_seq_cst);
    os::futex_wake(waiter->word, 1);
  }
}

void Progress::notify() {
  wake_done_waiters();
  if (role_ == Role::kWaiter) {
    changed_ = true;
    if (asleep_) mailbox_.wake(ring::Sleeper::kWaiter);
  } else if (role_ == Role::kEntrusted && mailbox_.has_mail()) {
    mailbox_.wake(ring::Sleeper::kHelper);
  }
}

void Progress::poke(Locked& locked) {
  if (stopping_ || role_ != Role::kEntrusted || !mailbox_.has_mail()) return;
  const Presence presence(*this);
  role_ = Role::kWaiter;
  mailbox_.take_back();
  drain(locked);
  work_.idle();
  leave(locked);
}

void Progress::request_chores(ring::Urgency urgency) {
  if (stopping_) return;
  chores_wanted_ = true;
  if (urgency == ring::Urgency::kSoon && looks_left_ > 0) return;
  mailbox_.wake(ring::Sleeper::kHelper);
}

void Progress::expect_lull() {
  if (expects_lull_ || stopping_ || !work_.lull_chores) return;
  expects_lull_ = true;
  mailbox_.wake(ring::Sleeper::kHelper);
}

// Gives the role away: to a thread that waits, else to the helper.
void Progress::leave(Locked& locked) {
  for (Waiter* waiter : waiters_) {
    if (waiter->woken) continue;
    role_ = Role::kEntrusted;  // free: the woken thread takes it
    waiter->woken = true;
    waiter->word.fetch_add(1, std::memory_order_seq_cst);
    os::futex_wake(waiter->word, 1);
    // Until it runs, senders wake the helper.
    break;
  }
  role_ = Role::kEntrusted;
  if (!napping_ && mailbox_.entrust(ring::Sleeper::kHelper)) {
    // Mail came meanwhile, and its sender may not have seen the helper on the page.
    mailbox_.wake(ring::Sleeper::kHelper);
  }
  (void)locked;
}

// Watches the mailbox for as long as a wake-up would take, unless the core is wanted by others; true if mail came.
bool Progress::spin() {
  if (spin_credit_ == 0) {
    // Now and then try again: the other side may have become quick.
    if ((++spins_skipped_ & 15) != 0) return false;
  }
  const auto begin = Clock::now();
  for (;;) {
    for (int i = 0; i < 64; ++i) {
      if (mailbox_.has_mail()) {
        spin_credit_ = std::min(spin_credit_ + 2, kMaxSpinCredit);
        ++stats_.spins_won;
        return true;
      }
      relax();
    }
    const auto before = Clock::now();
    if (before - begin >= kSpin) break;
    ::sched_yield();
    if (Clock::now() - before > kYieldCheap) break;
  }
  ++stats_.spins_in_vain;
  if (spin_credit_ > 0) --spin_credit_;
  return mailbox_.has_mail();
}

WaitOutcome Progress::wait(Locked& locked, Deadline deadline, FunctionRef<bool()> done,
                           FunctionRef<void()> before_sleep) {
  const Presence presence(*this);
  const auto announce = [&] {
    if (before_sleep) before_sleep();
  };
  for (;;) {
    if (done()) return WaitOutcome::kDone;
    if (stopping_) return WaitOutcome::kDone;
    if (role_ != Role::kEntrusted) {
      // Somebody drains: sleep until our condition holds or the role is ours.
      Waiter self;
      self.done = done;
      waiters_.push_back(&self);
      announce();
      const auto seen = self.word.load(std::memory_order_seq_cst);
      auto slept = os::FutexWait::kWoken;
      if (!self.woken) {
        locked.unlock();
        slept = os::futex_wait(self.word, seen, deadline);
        locked.lock();
      }
      std::erase(waiters_, &self);
      if (done()) return WaitOutcome::kDone;
      if (slept == os::FutexWait::kWoken) continue;
      // A wake that we do not use goes on to the next in line.
      if (self.woken && role_ == Role::kEntrusted) leave(locked);
      return slept == os::FutexWait::kTimedOut ? WaitOutcome::kTimedOut : WaitOutcome::kInterrupted;
    }
    role_ = Role::kWaiter;
    mailbox_.take_back();
    auto outcome = WaitOutcome::kDone;
    for (;;) {
      drain(locked);
      work_.idle();
      if (done() || stopping_) break;
      if (deadline.passed()) {
        outcome = WaitOutcome::kTimedOut;
        break;
      }
      changed_ = false;
      locked.unlock();
      const bool mail = spin();
      locked.lock();
      if (mail || changed_ || stopping_ || done()) continue;
      announce();
      if (done()) break;
      expect_lull();
      const auto ticket = mailbox_.ticket(ring::Sleeper::kWaiter);
      ++stats_.sleeps;
      asleep_ = true;
      locked.unlock();
      const auto slept = mailbox_.sleep_draining(ticket, deadline);
      locked.lock();
      asleep_ = false;
      if (slept == os::FutexWait::kInterrupted) {
        drain(locked);
        outcome = done() ? WaitOutcome::kDone : WaitOutcome::kInterrupted;
        break;
      }
    }
    leave(locked);
    return outcome;
  }
}

// As long as something came at one of the last looks. What comes once it has ended wakes the helper.
void Progress::keep_looking(bool had_work) {
  const bool looked = looks_left_ > 0;
  if (had_work || (looked && (mailbox_.has_mail() || chores_wanted_.load()))) {
    looks_left_ = kLooksBeforeSleep;
  } else if (looked) {
    --looks_left_;
  }
  if (looked != (looks_left_ > 0)) mailbox_.set_watched(!looked);
}

void Progress::run_helper(std::uint32_t ticket) {
  ::pthread_setname_np(::pthread_self(), "bee-helper");
  int naps = 0;
  auto lull_end = Deadline::never();
  for (;;) {
    const bool naps_now = naps > 0;
    bool was_woken = false;
    if (naps_now) {
      // Nobody needs to wake us while we nap: mail is looked for at its end.
      timespec pause{0, std::chrono::duration_cast<Nanos>(kNap).count()};
      ::nanosleep(&pause, nullptr);
    } else {
      const auto look = looks_left_ > 0 ? Deadline::after(kLook) : Deadline::never();
      was_woken = mailbox_.sleep_helping(ticket, std::min(look, lull_end)) != os::FutexWait::kTimedOut;
      if (!was_woken && lull_end.passed()) {
        {
          const Locked locked(lock_);
          expects_lull_ = false;
        }
        lull_end = Deadline::never();
        const bool again = work_.lull_chores();
        const Locked locked(lock_);
        expects_lull_ |= again;
      }
    }
    ticket = mailbox_.ticket(ring::Sleeper::kHelper);
    const bool had_chores = chores_wanted_.exchange(false);
    work_.chores();
    Locked locked(lock_);
    napping_ = false;
    if (stopping_) return;
    ++stats_.helper_rounds;
    if (!naps_now) keep_looking(was_woken || had_chores);
    if (expects_lull_ && lull_end.is_never()) lull_end = Deadline::after(work_.lull);
    if (role_ != Role::kEntrusted) {
      naps = 0;
      continue;
    }
    role_ = Role::kHelper;
    mailbox_.take_back();
    const bool any = drain(locked);
    work_.idle();
    if (any && lull_end.is_never() && work_.lull_chores) {
      expects_lull_ = true;
      lull_end = Deadline::after(work_.lull);
    }
    // What was found at a look had time: more of its kind is found at the next.
    naps = any && naps_now ? kNapsBeforeSleep : any && was_woken ? kFirstNaps : std::max(0, naps - 1);
    if (naps > 0 && waiters_.empty() && !mailbox_.has_mail()) {
      role_ = Role::kEntrusted;
      napping_ = true;
      continue;
    }
    leave(locked);
  }
}

}  // namespace beeline::runtime
