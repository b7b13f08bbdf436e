#include "beeline/os/process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "beeline/base/clock.h"

namespace beeline::os {
namespace {

TEST(ProcessTest, AProcessIsEndingFromItsKillOnAndAfterItWasReaped) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    for (;;) ::pause();
  }
  EXPECT_FALSE(is_ending(child));
  ASSERT_EQ(::kill(child, SIGSTOP), 0);
  EXPECT_FALSE(is_ending(child)) << "a stopped process goes on";
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  const auto deadline = Deadline::after(std::chrono::seconds(10));
  while (!is_ending(child) && !deadline.passed()) ::usleep(100);
  EXPECT_TRUE(is_ending(child)) << "a zombie";
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_TRUE(is_ending(child));
  EXPECT_FALSE(is_ending(::getpid()));
}

}  // namespace
}  // namespace beeline::os
