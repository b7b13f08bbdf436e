// The control thread: descriptors and timers, watched and forgotten from anywhere.
#include "beeline/os/control_loop.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "no_threads.h"
#include "patience.h"

namespace beeline::os {
namespace {

class ControlLoopTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(loop_.start().is_ok()); }
  void TearDown() override { loop_.stop(); }
  template <typename Holds>
  bool eventually(Holds&& holds) {
    const auto deadline = Deadline::after(kPatience);
    for (;;) {
      {
        const Locked locked(lock_);
        if (holds()) return true;
      }
      if (deadline.passed()) return false;
      std::this_thread::yield();
    }
  }
  static Fd event() {
    auto fd = make_eventfd();
    EXPECT_TRUE(fd.is_ok());
    return std::move(*fd);
  }
  StateLock lock_;
  ControlLoop loop_{lock_};
};

TEST_F(ControlLoopTest, AHandlerIsCalledUntilItIsForgotten) {
  const Fd fd = event();
  int calls = 0;
  {
    const Locked locked(lock_);
    loop_.watch(fd.get(), false, [&](std::uint32_t) {
      ++calls;
      drain_eventfd(fd.get());
    });
  }
  signal_eventfd(fd.get());
  EXPECT_TRUE(eventually([&] { return calls == 1; }));
  signal_eventfd(fd.get());
  EXPECT_TRUE(eventually([&] { return calls == 2; }));
  const Locked locked(lock_);
  loop_.forget(fd.get());
  signal_eventfd(fd.get());
  loop_.forget(fd.get());
}

TEST_F(ControlLoopTest, AHandlerMayForgetAnotherWhoseEventWasReceivedAlready) {
  const Fd first = event();
  const Fd second = event();
  int calls = 0;
  const auto handler = [&](int mine, int other) {
    return [this, &calls, mine, other](std::uint32_t) {
      ++calls;
      loop_.forget(mine);
      loop_.forget(other);
    };
  };
  {
    // Both are ready before the loop can look.
    const Locked locked(lock_);
    loop_.watch(first.get(), false, handler(first.get(), second.get()));
    loop_.watch(second.get(), false, handler(second.get(), first.get()));
    signal_eventfd(first.get());
    signal_eventfd(second.get());
  }
  bool over = false;
  {
    const Locked locked(lock_);
    loop_.after(std::chrono::milliseconds(5), [&] { over = true; });
  }
  EXPECT_TRUE(eventually([&] { return over && calls > 0; }));
  EXPECT_EQ(calls, 1);
}

TEST_F(ControlLoopTest, WatchingAgainReplacesTheHandler) {
  const Fd fd = event();
  int old_calls = 0;
  int new_calls = 0;
  {
    const Locked locked(lock_);
    loop_.watch(fd.get(), false, [&](std::uint32_t) { ++old_calls; });
    loop_.watch(fd.get(), true, [&](std::uint32_t) {
      ++new_calls;
      loop_.forget(fd.get());
    });
  }
  EXPECT_TRUE(eventually([&] { return new_calls == 1; })) << "an eventfd is writable";
  EXPECT_EQ(old_calls, 0);
}

TEST_F(ControlLoopTest, TimersRunInTheOrderOfTheirTimes) {
  std::vector<int> order;
  {
    const Locked locked(lock_);
    loop_.after(std::chrono::milliseconds(20), [&] { order.push_back(3); });
    loop_.after(std::chrono::milliseconds(1), [&] {
      order.push_back(1);
      loop_.after(Nanos::zero(), [&] { order.push_back(2); });
    });
    loop_.after(std::chrono::hours(24 * 365), [&] { order.push_back(4); });
  }
  EXPECT_TRUE(eventually([&] { return order.size() == 3; }));
  const Locked locked(lock_);
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

TEST(ControlLoopThreadTest, WithoutAThreadTheStartIsAnErrorAndCanBeTriedAgain) {
  const LimitedUser user;
  if (!user.is_so()) GTEST_SKIP() << "this process cannot become another user's, and root's threads have no limit";
  StateLock lock;
  ControlLoop loop(lock);
  {
    const NoThreads none;
    EXPECT_EQ(loop.start().system_error(), EAGAIN);
  }
  EXPECT_TRUE(loop.start());
  loop.stop();
}

TEST_F(ControlLoopTest, NothingRunsAfterStop) {
  const Fd fd = event();
  int calls = 0;
  {
    const Locked locked(lock_);
    loop_.watch(fd.get(), false, [&](std::uint32_t) { ++calls; });
    signal_eventfd(fd.get());
  }
  EXPECT_TRUE(eventually([&] { return calls > 0; }));
  loop_.stop();
  const int after = calls;
  signal_eventfd(fd.get());
  const Locked locked(lock_);
  loop_.watch(fd.get(), false, [&](std::uint32_t) { ++calls; });
  loop_.after(Nanos::zero(), [&] { ++calls; });
  EXPECT_EQ(calls, after);
}

}  // namespace
}  // namespace beeline::os
