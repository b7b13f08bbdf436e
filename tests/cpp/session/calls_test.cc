// Calls between real processes, one rule at a time: order, dependencies, retries, nested references, ends.
#include <signal.h>

#include <algorithm>
#include <thread>

#include "session/driver.h"

namespace beeline::runtime::session {
namespace {

using store::ErrorKind;

class CallsTest : public SessionTest {};

TEST_F(CallsTest, ValuesGoThereAndBack) {
  const Actor actor = create();
  Entry* sum = call(actor, "sum", numbers({5}), {put(7)});
  EXPECT_EQ(number(sum), 12);
  EXPECT_EQ(number(call("sum", numbers({1}), {sum})), 13);
}

TEST_F(CallsTest, ACallThatWaitsForAnArgumentHoldsBackLaterOnesOfItsCaller) {
  const Actor first = create();
  const Actor second = create();
  std::vector<Entry*> results;
  for (std::int64_t i = 1; i <= 200; ++i) {
    std::vector<Entry*> dependencies;
    if (i % 3 == 0) dependencies.push_back(call(first, "idle", numbers({i, i % 7 * 100})));
    if (i % 7 == 0) dependencies.push_back(call("sum", numbers({i})));
    results.push_back(call(second, "seq", numbers({0, i}), dependencies));
  }
  for (std::size_t i = 0; i < results.size(); ++i) {
    const auto n = static_cast<std::int64_t>(i + 1);
    EXPECT_EQ(number(results[i]), (n % 3 == 0 ? n : 0) + (n % 7 == 0 ? n : 0)) << n;
  }
}

TEST_F(CallsTest, MessagesLargerThanTheRingKeepTheirPlaceInTheOrder) {
  const Actor actor = create();
  std::vector<Entry*> results;
  for (std::int64_t i = 1; i <= 60; ++i) {
    // Up to 400 KB through rings of 128 KB, both ways, among small ones.
    auto args = std::make_shared<store::Payload>();
    args->skeleton = "0 " + std::to_string(i) + " " + std::string(i % 4 == 0 ? 400'000 : 10, ' ');
    results.push_back(call(actor, "seq", args));
    results.push_back(call(actor, "sum", numbers({i, i % 5 == 0 ? 300'000 : 1})));
  }
  for (std::size_t i = 0; i < results.size(); i += 2) {
    EXPECT_NE(get(results[i]), nullptr);
    EXPECT_EQ(error(results[i]), ErrorKind::kNone);
    EXPECT_EQ(number(results[i + 1]), static_cast<std::int64_t>(i / 2 + 1));
  }
}

TEST_F(CallsTest, AnActorCallsItself) {
  const Actor actor = create();
  Entry* relayed = call(actor, "relay", numbers({9, static_cast<std::int64_t>(actor.id)}));
  const auto outer = get(relayed);
  ASSERT_TRUE(outer && !outer->is_error());
  Entry* inner = process_->restore(outer->refs.at(0));
  EXPECT_EQ(number(inner), 9);
}

TEST_F(CallsTest, TwoActorsThatMeetAtTheSameMomentHearEachOther) {
  for (int round = 0; round < (is_short() ? 2 : 6); ++round) {
    const Actor left = create();
    const Actor right = create();
    number(call(left, "sum", numbers({0})));
    number(call(right, "sum", numbers({0})));
    std::vector<Entry*> results;
    for (std::int64_t i = 0; i < 20; ++i) {
      results.push_back(call(left, "relay", numbers({i, static_cast<std::int64_t>(right.id)})));
      results.push_back(call(right, "relay", numbers({i, static_cast<std::int64_t>(left.id)})));
    }
    for (std::size_t i = 0; i < results.size(); ++i) {
      const auto outer = get(results[i]);
      ASSERT_TRUE(outer && !outer->is_error());
      Entry* inner = process_->restore(outer->refs.at(0));
      EXPECT_EQ(number(inner), static_cast<std::int64_t>(i / 2));
      drop(inner);
      drop(results[i]);
    }
    drop(left.life);
    drop(right.life);
  }
}

TEST_F(CallsTest, AnExceptionIsRetriedAsOftenAsAllowed) {
  const Actor actor = create();
  Entry* third = call(actor, "flaky", numbers({4, 2}), {}, 3, kCallRetryExceptions);
  EXPECT_EQ(number(third), 4);
  EXPECT_EQ(numbers_of(*process_->payload(*third)).at(1), 2) << "attempts before";
  EXPECT_EQ(error(call(actor, "flaky", numbers({4, 2}), {}, 1, kCallRetryExceptions)), ErrorKind::kTask);
  EXPECT_EQ(number(call("flaky", numbers({6, 1}), {}, 1)), 6);
}

TEST_F(CallsTest, AConsumerOfARetriedCallGetsTheLastAttemptsValue) {
  const Actor consumer = create();
  for (std::int64_t i = 0; i < 50; ++i) {
    Entry* produced = call("flaky", numbers({i, 2}), {}, 3);
    EXPECT_EQ(number(call(consumer, "sum", numbers({1}), {produced})), i + 1);
  }
}

TEST_F(CallsTest, AFunctionWhoseWorkerDiesRunsAgainOrFailsTyped) {
  EXPECT_EQ(number(call("die", numbers({3}), {}, 1)), 3);
  EXPECT_EQ(error(call("die", numbers({3}), {}, 0)), ErrorKind::kWorkerCrashed);
  EXPECT_EQ(number(call("sum", numbers({1}))), 1) << "the session goes on";
}

TEST_F(CallsTest, CallsToAnActorThatDiesEndTyped) {
  const Actor actor = create();
  number(call(actor, "sum", numbers({0})));
  const Actor consumer = create();
  Entry* lost = call(actor, "die", numbers({1}));
  Entry* behind = call(actor, "sum", numbers({1}));
  Entry* dependent = call(consumer, "sum", numbers({1}), {behind});
  for (Entry* entry : {lost, behind, dependent}) EXPECT_EQ(error(entry), ErrorKind::kActorDied);
  EXPECT_EQ(error(call(actor, "sum", numbers({1}))), ErrorKind::kActorDied);
}

TEST_F(CallsTest, CallsToAnActorThatSendsNonsenseEndTypedAndSayWhy) {
  const Actor actor = create();
  number(call(actor, "sum", numbers({0})));
  const pid_t pid = pid_of(actor);
  Entry* garbled = call(actor, "garble", numbers({1}));
  Entry* behind = call(actor, "sum", numbers({1}));
  for (Entry* entry : {garbled, behind}) {
    EXPECT_EQ(error(entry), ErrorKind::kActorDied);
    const std::string message = process_->payload(*entry)->failure->message;
    EXPECT_NE(message.find("unknown type 99"), std::string::npos) << message;
    EXPECT_NE(message.find("(pid " + std::to_string(pid) + ")"), std::string::npos) << message;
  }
  EXPECT_EQ(error(call("garble", numbers({1}), {}, 0)), ErrorKind::kWorkerCrashed);
  EXPECT_EQ(number(call("garble", numbers({1}), {}, 1)), 1) << "as any worker that ends";
}

TEST_F(CallsTest, CallsOfAProcessThatSentNonsenseEndTypedToo) {
  const Actor actor = create();
  number(call(actor, "sum", numbers({0})));
  const auto process = process_->actor_state(actor.id).process;
  std::vector<Entry*> results = {call(actor, "sum", numbers({1}))};
  {
    const Locked locked(process_->lock());
    process_->peers().send(process, static_cast<Message>(99), {});
  }
  for (std::int64_t i = 0; i < 3; ++i) results.push_back(call(actor, "sum", numbers({i})));
  for (std::size_t i = 1; i < results.size(); ++i) EXPECT_EQ(error(results[i]), ErrorKind::kActorDied);
  const std::string message = process_->payload(*results.back())->failure->message;
  EXPECT_NE(message.find("unknown type 99"), std::string::npos) << message;
  EXPECT_EQ(number(call(create(), "sum", numbers({1}))), 1) << "the session goes on";
}

TEST_F(CallsTest, CallsThatMayBeRetriedSurviveARestartInOrder) {
  const Actor actor = create(-1);
  number(call(actor, "sum", numbers({0})));
  std::vector<Entry*> results = {call(actor, "die", numbers({0}), {}, 3)};
  for (std::int64_t i = 1; i <= 100; ++i) results.push_back(call(actor, "seq", numbers({i, i}), {}, 3));
  for (std::size_t i = 0; i < results.size(); ++i) EXPECT_EQ(number(results[i]), static_cast<std::int64_t>(i));
}

TEST_F(CallsTest, ACallCancelledBeforeItStartedNeverRunsAndHoldsUpNobody) {
  const Actor producer = create();
  const Actor actor = create();
  Entry* slow = call(producer, "idle", numbers({1, 200'000}));
  Entry* waiting = call(actor, "seq", numbers({0, 1}), {slow});
  Entry* later = call(actor, "seq", numbers({0, 2}));
  EXPECT_TRUE(process_->cancel(*waiting, false, false));
  EXPECT_EQ(error(waiting), ErrorKind::kCancelled);
  EXPECT_EQ(number(later), 0);
  EXPECT_EQ(number(slow), 1);
  EXPECT_FALSE(process_->cancel(*later, false, false)) << "it is over";
}

TEST_F(CallsTest, ReferencesInsideResultsLiveAsLongAsSomebodyHoldsThem) {
  const Actor maker = create();
  const Actor keeper = create();
  for (std::int64_t i = 0; i < 100; ++i) {
    Entry* made = call(maker, "make", numbers({i}));
    const auto outer = get(made);
    ASSERT_TRUE(outer && !outer->is_error());
    const auto inner = outer->refs.at(0);
    // The keeper borrows from the maker, which it has never met; then the driver lets go at once.
    Entry* kept = call(keeper, "keep", numbers({i}, {inner}));
    EXPECT_EQ(number(kept), i);
    EXPECT_EQ(number(call(keeper, "fetch", numbers({0}, {inner}))), i);
    drop(kept);
    drop(made);
  }
  number(call(keeper, "let_go", numbers({0})));
  EXPECT_TRUE(eventually([&] { return number(call(maker, "count", numbers({}))) == 0; }));
}

TEST_F(CallsTest, ABorrowFromAStrangerComesBeforeTheReleaseOfItsFriend) {
  // The first message between two processes needs their handshake; a release on links that exist is quicker.
  for (int round = 0; round < (is_short() ? 5 : 15); ++round) {
    const Actor maker = create();
    const Actor keeper = create();
    number(call(keeper, "sum", numbers({0})));
    Entry* made = call(maker, "make", numbers({round}));
    const auto outer = get(made);
    ASSERT_TRUE(outer && !outer->is_error());
    const auto inner = outer->refs.at(0);
    Entry* kept = call(keeper, "keep", numbers({0}, {inner}));
    drop(made);
    number(kept);
    EXPECT_EQ(number(call(keeper, "fetch", numbers({0}, {inner}))), round);
    drop(kept);
    drop(maker.life);
    drop(keeper.life);
  }
}

TEST_F(CallsTest, AnActorThatNobodyHoldsFinishesItsCallsAndEnds) {
  const Actor actor = create();
  std::vector<Entry*> results;
  for (std::int64_t i = 1; i <= 50; ++i) results.push_back(call(actor, "seq", numbers({i, i})));
  drop(actor.life);
  for (std::size_t i = 0; i < results.size(); ++i) EXPECT_EQ(number(results[i]), static_cast<std::int64_t>(i + 1));
  EXPECT_TRUE(eventually(
      [&] { return process_->actor_state(actor.id).state == static_cast<std::uint8_t>(control::ActorState::kDead); }));
}

TEST_F(CallsTest, LargeValuesOutliveTheWorkerThatStoredThem) {
  const Actor maker = create();
  Entry* big = call(maker, "big", numbers({77, 300'000}));
  ASSERT_TRUE(get(big) && get(big)->placement);
  ::kill(pid_of(maker), SIGKILL);
  ASSERT_TRUE(eventually(
      [&] { return process_->actor_state(maker.id).state == static_cast<std::uint8_t>(control::ActorState::kDead); }));
  EXPECT_EQ(number(call("check", numbers({0}), {big})), 77);
}

TEST_F(CallsTest, ManyThreadsWaitAtOnce) {
  const Actor actor = create();
  constexpr int kThreads = 8;
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (std::int64_t i = 0; i < 300; ++i) {
        Entry* result = call(actor, "sum", numbers({i * kThreads + t}));
        Entry* const one[] = {result};
        if (process_->wait(one, 1, Deadline::after(kPatience)) != WaitOutcome::kDone ||
            numbers_of(*process_->payload(*result)).at(0) != i * kThreads + t) {
          ++wrong;
        }
        process_->drop_hold(*result);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(CallsTest, EverythingIsCountedDownToNothing) {
  {
    const Actor actor = create();
    std::vector<Entry*> held;
    for (std::int64_t i = 0; i < 100; ++i) {
      held.push_back(put(i));
      held.push_back(call(actor, "wrap", numbers({i}, {held.back()->id})));
      held.push_back(call("fetch", numbers({0}, {held[held.size() - 2]->id})));
      EXPECT_EQ(number(held.back()), i);
    }
    for (Entry* entry : held) drop(entry);
    EXPECT_TRUE(eventually([&] { return counts().own <= 1; })) << counts().own;
    drop(actor.life);
  }
  EXPECT_TRUE(eventually([&] { return counts().own == 0 && counts().foreign == 0; }));
}

}  // namespace
}  // namespace beeline::runtime::session
