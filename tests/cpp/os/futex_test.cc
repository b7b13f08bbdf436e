// Sleeping on a word: wakes, deadlines, signals, and other processes.
#include "beeline/os/futex.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "beeline/os/fd.h"

namespace beeline::os {
namespace {

TEST(FutexTest, AWordThatHasChangedIsNotSleptOn) {
  std::atomic<std::uint32_t> word{5};
  EXPECT_EQ(futex_wait(word, 4, Deadline::never()), FutexWait::kWoken);
}

TEST(FutexTest, ASleepEndsAtItsDeadline) {
  std::atomic<std::uint32_t> word{0};
  EXPECT_EQ(futex_wait(word, 0, Deadline::after(std::chrono::milliseconds(2))), FutexWait::kTimedOut);
  EXPECT_EQ(futex_wait(word, 0, Deadline::after(Nanos(-1))), FutexWait::kTimedOut);
}

TEST(FutexTest, ASignalInterrupts) {
  struct sigaction action{};
  struct sigaction before{};
  action.sa_handler = [](int) {};
  ASSERT_EQ(::sigaction(SIGUSR1, &action, &before), 0);
  std::atomic<std::uint32_t> word{0};
  std::atomic<bool> done{false};
  const pthread_t sleeper = ::pthread_self();
  std::thread signaller([&] {
    while (!done) {
      ::pthread_kill(sleeper, SIGUSR1);
      std::this_thread::yield();
    }
  });
  EXPECT_EQ(futex_wait(word, 0, Deadline::after(std::chrono::seconds(20))), FutexWait::kInterrupted);
  done = true;
  signaller.join();
  ::sigaction(SIGUSR1, &before, nullptr);
}

TEST(FutexTest, TwoProcessesTakeTurns) {
  auto file = make_memfd("futex", 4096);
  ASSERT_TRUE(file.is_ok());
  auto mapping = Mapping::map(file->get(), 0, 4096, Access::kReadWrite, Sharing::kShared);
  ASSERT_TRUE(mapping.is_ok());
  auto* word = new (mapping->data()) std::atomic<std::uint32_t>(0);
  constexpr std::uint32_t kTurns = 2000;
  const auto take_turns = [&](std::uint32_t parity) {
    for (std::uint32_t turn = parity; turn < kTurns; turn += 2) {
      for (auto seen = word->load(); seen != turn; seen = word->load()) {
        if (futex_wait(*word, seen, Deadline::after(std::chrono::seconds(20))) == FutexWait::kTimedOut) return false;
      }
      word->store(turn + 1);
      futex_wake(*word, 1);
    }
    return true;
  };
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(take_turns(1) ? 0 : 1);
  EXPECT_TRUE(take_turns(0));
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(word->load(), kTurns);
}

}  // namespace
}  // namespace beeline::os
