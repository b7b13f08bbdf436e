// Random programs over a whole session, with and without random SIGKILLs: every call ends with the right value or a
// typed error, calls of one caller stay in order, and every count comes down to nothing. BEELINE_TEST_SEED repeats one.
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <random>
#include <set>
#include <thread>

#include "seed.h"
#include "session/driver.h"

namespace beeline::runtime::session {
namespace {

using store::Entry;
using store::ErrorKind;

struct Item {
  Entry* entry = nullptr;
  std::int64_t value = 0;
  std::vector<std::int64_t> inside;  // values of the references inside it, in order
};

class FuzzTest : public SessionTest {
 protected:
  // The daemon is killed so many times, evenly spread: it is followed by another one, which nobody may notice.
  void play(std::uint64_t seed, bool kills, int steps, int deaths_of_daemon = 0) {
    random_.seed(seed);
    kills_ = kills;
    for (int i = 0; i < 3; ++i) actors_.push_back(create(kills ? -1 : 0));
    next_number_.assign(actors_.size(), 0);
    std::thread waiter([this] { wait_beside(); });
    for (int i = 0; i < steps && !HasFailure(); ++i) {
      step();
      if (deaths_of_daemon > 0 && i % (steps / deaths_of_daemon) == steps / deaths_of_daemon / 2) {
        ::kill(process_->daemon_pid(), SIGKILL);
      }
    }
    {
      const std::lock_guard guard(beside_mutex_);
      beside_over_ = true;
    }
    waiter.join();
    for (auto& item : items_) check(item);
    let_all_go();
  }

 private:
  std::size_t below(std::size_t limit) { return static_cast<std::size_t>(random_() % limit); }
  const Actor& any_actor() { return actors_[below(actors_.size())]; }
  const Item& any_item() { return items_[items_.size() - 1 - below(std::min<std::size_t>(items_.size(), 12))]; }
  // A few recent values, most of them pending still; their sum.
  std::vector<const Item*> some_items() {
    std::vector<const Item*> chosen;
    for (auto left = below(4); left > 0 && !items_.empty(); --left) chosen.push_back(&any_item());
    return chosen;
  }
  static std::vector<Entry*> entries_of(const std::vector<const Item*>& items) {
    std::vector<Entry*> entries;
    for (const auto* item : items) entries.push_back(item->entry);
    return entries;
  }
  static ThinVector<store::ObjectId> ids_of(const std::vector<const Item*>& items) {
    ThinVector<store::ObjectId> ids;
    for (const auto* item : items) ids.push_back(item->entry->id);
    return ids;
  }
  static std::int64_t sum_of(const std::vector<const Item*>& items) {
    std::int64_t total = 0;
    for (const auto* item : items) total += item->value;
    return total;
  }
  std::int32_t some_retries() { return static_cast<std::int32_t>(below(3)) * 3; }
  void add(Entry* entry, std::int64_t value, std::vector<std::int64_t> inside = {}) {
    items_.push_back({entry, value, std::move(inside)});
    if (items_.size() > 40) {
      check_or_drop(items_.front());
      items_.pop_front();
    }
  }

  void step() {
    const auto own = static_cast<std::int64_t>(below(1000));
    const auto used = some_items();
    const auto total = own + sum_of(used);
    switch (below(17)) {
      case 0:
        return add(put(own), own);
      case 1:
      case 2:
        return add(call(any_actor(), "sum", numbers({own}), entries_of(used), some_retries()), total);
      case 3: {
        const auto size = static_cast<std::int64_t>(below(4) == 0 ? 150'000 : 3000);
        return add(call(any_actor(), "sum", numbers({own, size}), entries_of(used)), total);
      }
      case 4:
        return add(call("sum", numbers({own}), entries_of(used), some_retries()), total);
      case 5: {
        const auto which = below(actors_.size());
        const auto number = ++next_number_[which];
        return add(call(actors_[which], "seq", numbers({own, number}), entries_of(used), some_retries()), total);
      }
      case 6:
        return add(call("fetch", numbers({own}, ids_of(used)), {}, some_retries()), total);
      case 7:
      case 8: {
        std::vector<std::int64_t> inside;
        for (const auto* item : used) inside.push_back(item->value);
        const auto args = numbers({own}, ids_of(used));
        return add(below(2) == 0 ? call("wrap", args, {}, 3) : call(any_actor(), "wrap", args), own, inside);
      }
      case 9:
        return add(call(any_actor(), "make", numbers({own})), own, {own});
      case 10:
        return add(call(any_actor(), below(2) == 0 ? "relay" : "relay_function",
                        numbers({own, static_cast<std::int64_t>(any_actor().id)})),
                   own, {own});
      case 11:
        return unwrap();
      case 12: {
        const auto size = static_cast<std::int64_t>(below(200'000) + 1);
        return add(
            below(2) == 0 ? call("big", numbers({own, size}), {}, 3) : call(any_actor(), "big", numbers({own, size})),
            own);
      }
      case 13:
        return add(call(any_actor(), "check", numbers({own}), entries_of(used)), total);
      case 14:
        return disturb(own);
      case 15: {
        // Lost with its worker, made again for whoever asks.
        const auto size = static_cast<std::int64_t>(below(200'000) + 1);
        return add(call("direct", numbers({own, size}), entries_of(used), -1), own);
      }
      default:
        return look_at_one();
    }
  }

  // Takes a reference out of a value.
  void unwrap() {
    if (items_.empty()) return;
    const Item item = any_item();
    if (item.inside.empty()) return;
    const auto payload = get(item.entry);
    if (!payload || payload->is_error()) return;
    const auto which = below(item.inside.size());
    if (payload->refs.size() != item.inside.size()) {
      ADD_FAILURE() << "a value came with " << payload->refs.size() << " references of " << item.inside.size();
      return;
    }
    if (Entry* entry = process_->restore(payload->refs[which])) {
      add(entry, item.inside[which]);
    } else {
      ADD_FAILURE() << "a reference inside a live value is gone";
    }
  }

  void disturb(std::int64_t own) {
    switch (below(4)) {
      case 0:
        if (items_.empty()) return;
        cancelled_ = true;
        process_->cancel(*any_item().entry, false, false);
        return;
      case 1: {
        Entry* kept = call(any_actor(), "keep", numbers({own}, ids_of(some_items())));
        return add(kept, own);
      }
      case 2:
        if (kills_) add(call("die", numbers({own}), {}, 3), own);
        return;
      default:
        if (kills_ && below(4) == 0) {
          if (const pid_t pid = pid_of(any_actor()); pid > 0) ::kill(pid, SIGKILL);
        }
    }
  }

  void look_at_one() {
    if (items_.empty()) return;
    const auto which = below(items_.size());
    const Item item = items_[which];
    if (below(2) == 0) {
      // Another thread waits for it as well.
      process_->add_hold(*item.entry);
      const std::lock_guard guard(beside_mutex_);
      beside_.push_back(item);
      return;
    }
    items_.erase(items_.begin() + static_cast<std::ptrdiff_t>(which));
    check_or_drop(item);
  }
  void check_or_drop(const Item& item) {
    if (below(3) == 0) return drop(item.entry);
    check(item);
    drop(item.entry);
  }

  void wait_beside() {
    for (;;) {
      std::vector<Item> taken;
      {
        const std::lock_guard guard(beside_mutex_);
        taken.swap(beside_);
        if (taken.empty() && beside_over_) return;
      }
      for (const auto& item : taken) {
        check(item);
        drop(item.entry);
      }
      if (taken.empty()) ::usleep(200);
    }
  }

  void check(const Item& item) {
    const auto payload = get(item.entry);
    const char* name = item.entry->name != nullptr ? item.entry->name->c_str() : "an object";
    if (!payload) {
      ADD_FAILURE() << "no end of " << name;
    } else if (!payload->is_error()) {
      EXPECT_EQ(numbers_of(*payload).at(0), item.value) << name;
    } else {
      EXPECT_TRUE(may_fail(payload->failure->kind))
          << name << ": kind " << static_cast<int>(payload->failure->kind) << ": " << payload->failure->message;
    }
  }
  bool may_fail(ErrorKind kind) const {
    static const std::set<ErrorKind> kOfKills = {ErrorKind::kActorDied,     ErrorKind::kActorUnavailable,
                                                 ErrorKind::kWorkerCrashed, ErrorKind::kOwnerDied,
                                                 ErrorKind::kObjectLost,    ErrorKind::kReconstruction};
    return (kills_ && kOfKills.contains(kind)) || (cancelled_ && kind == ErrorKind::kCancelled);
  }

  void let_all_go() {
    for (const auto& item : items_) drop(item.entry);
    items_.clear();
    // An actor that was just killed answers once it is back.
    for (const auto& actor : actors_) {
      EXPECT_TRUE(eventually([&] { return answer(actor, "let_go").size() == 1; }));
    }
    for (const auto& actor : actors_) {
      std::vector<std::int64_t> left;
      EXPECT_TRUE(eventually([&] {
        left = answer(actor, "count");
        return left == std::vector<std::int64_t>{0, 0};
      })) << "an actor keeps "
          << (left.empty() ? -1 : left[0]) << " own and " << (left.empty() ? -1 : left[1]) << " foreign objects";
    }
    for (const auto& actor : actors_) drop(actor.life);
    actors_.clear();
    EXPECT_TRUE(eventually([&] { return counts().own == 0 && counts().foreign == 0; }))
        << counts().own << " own and " << counts().foreign << " foreign objects are left";
    EXPECT_EQ(counts().late_borrows, 0u) << "an object was freed while somebody was about to hold it";
  }
  std::vector<std::int64_t> answer(const Actor& actor, const std::string& method) {
    Entry* result = call(actor, method, numbers({0}), {}, 5);
    const auto payload = get(result);
    drop(result);
    return payload && !payload->is_error() ? numbers_of(*payload) : std::vector<std::int64_t>{};
  }

  std::mt19937_64 random_;
  bool kills_ = false;
  std::atomic<bool> cancelled_{false};
  std::vector<Actor> actors_;
  std::vector<std::int64_t> next_number_;
  std::deque<Item> items_;
  std::mutex beside_mutex_;
  std::vector<Item> beside_;
  bool beside_over_ = false;
};

TEST_F(FuzzTest, WithoutDeathsEveryValueIsRight) {
  play(test_seed(), false, is_short() ? 1500 : 6000);
}

TEST_F(FuzzTest, WithDeathsEveryCallEndsWithItsValueOrATypedError) {
  play(test_seed(), true, is_short() ? 1000 : 4000);
}

TEST_F(FuzzTest, WithDeathsOfTheDaemonEveryValueIsRight) {
  play(test_seed(), false, is_short() ? 1500 : 6000, 4);
}

TEST_F(FuzzTest, WithDeathsOfAllEveryCallEndsWithItsValueOrATypedError) {
  play(test_seed(), true, is_short() ? 1000 : 4000, 4);
}

}  // namespace
}  // namespace beeline::runtime::session
