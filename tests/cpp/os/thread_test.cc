#include "beeline/os/thread.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace beeline::os {
namespace {

bool is_blocked(int signal) {
  sigset_t now;
  pthread_sigmask(SIG_SETMASK, nullptr, &now);
  return sigismember(&now, signal) == 1;
}

TEST(ThreadTest, BlocksAllSignalsFromItsBegin) {
  bool own = false, blocked = false;
  start_thread([&] {
    own = is_own_thread();
    blocked = is_blocked(SIGINT);
  }).join();
  EXPECT_TRUE(own);
  EXPECT_TRUE(blocked);
  EXPECT_FALSE(is_own_thread());
  EXPECT_FALSE(is_blocked(SIGINT));
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // their runtimes do not bear the limit
// A process that may have no more memory has no room for another stack.
TEST(ThreadTest, OneThatCannotStartIsAnErrorAndSignalsStayAsTheyWere) {
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit none{1 << 20, 1 << 20};
    ::setrlimit(RLIMIT_AS, &none);
    const auto thread = try_start_thread([] {});
    ::_exit(thread.status().code() == Code::kSystem && !is_blocked(SIGINT) ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}
#endif

}  // namespace
}  // namespace beeline::os
