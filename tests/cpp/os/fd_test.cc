// What children of fork() have of their parent's descriptors.
#include "beeline/os/fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

#include "beeline/os/unix_socket.h"

namespace beeline::os {
namespace {

// A child that lives until it is killed.
class Child {
 public:
  Child() : pid_(::fork()) {
    if (pid_ != 0) return;
    for (;;) ::pause();
  }
  ~Child() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

 private:
  pid_t pid_;
};

// What the child's function returns.
template <typename Body>
int in_child(Body&& body) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(body());
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool has_ended(const Fd& socket, int within_ms) {
  pollfd entry{socket.get(), POLLIN, 0};
  char byte = 0;
  return ::poll(&entry, 1, within_ms) == 1 && ::recv(socket.get(), &byte, 1, MSG_DONTWAIT) == 0;
}

TEST(ChildrenTest, AConnectionThatIsKeptFromThemEndsWithItsProcess) {
  auto [kept, other] = std::move(*make_socket_pair());
  auto [shared, fourth] = std::move(*make_socket_pair());
  keep_from_children(kept.get());
  const Child child;
  kept.reset();
  shared.reset();
  EXPECT_TRUE(has_ended(other, 10'000));
  EXPECT_FALSE(has_ended(fourth, 0)) << "the child has it";
}

TEST(ChildrenTest, TheNumberIsTakenInAChildUntilItsOwnerClosesIt) {
  auto [kept, other] = std::move(*make_socket_pair());
  keep_from_children(kept.get());
  EXPECT_EQ(in_child([&] {
              char byte = 0;
              if (::recv(kept.get(), &byte, 1, MSG_DONTWAIT) >= 0 || errno != ENOTSOCK) return 1;
              if ((::fcntl(kept.get(), F_GETFD) & FD_CLOEXEC) == 0) return 2;
              const int number = kept.get();
              kept.reset();
              return ::fcntl(number, F_GETFD) < 0 ? 0 : 3;
            }),
            0);
  const char byte = 'x';
  EXPECT_EQ(::send(kept.get(), &byte, 1, 0), 1) << "the parent's is as it was";
}

TEST(ChildrenTest, ANumberThatIsUsedAnewIsNotKeptFromThem) {
  for (const bool is_released : {false, true}) {
    auto [kept, other] = std::move(*make_socket_pair());
    const int number = kept.get();
    keep_from_children(number);
    if (is_released) {
      ::close(kept.release());
    } else {
      kept.reset();
    }
    const Fd anew(::fcntl(other.get(), F_DUPFD_CLOEXEC, number));
    ASSERT_EQ(anew.get(), number);
    EXPECT_EQ(in_child([&] {
                int type = 0;
                socklen_t size = sizeof type;
                return ::getsockopt(number, SOL_SOCKET, SO_TYPE, &type, &size) == 0 ? 0 : 1;
              }),
              0);
  }
}

TEST(ChildrenTest, ChildrenOfChildrenAsWell) {
  auto [kept, other] = std::move(*make_socket_pair());
  keep_from_children(kept.get());
  EXPECT_EQ(in_child([&] {
              auto [own, its] = std::move(*make_socket_pair());
              keep_from_children(own.get());
              const Child grandchild;
              own.reset();
              return has_ended(its, 10'000) ? 0 : 1;
            }),
            0);
}

}  // namespace
}  // namespace beeline::os
