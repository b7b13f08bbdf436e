// Processes that may have no more threads, as far as a test reaches.
#pragma once

#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

namespace beeline {

// Makes the process another user's where it is root's, whom the kernel does not limit; root's again at the end. Not
// between the two ends of a unix socket, which know each other by their users.
class LimitedUser {
 public:
  LimitedUser() {
    constexpr uid_t kNobody = 65534;
    was_root_ = ::getuid() == 0;
    is_so_ = !was_root_ || ::setresuid(kNobody, kNobody, 0) == 0;
    ::prctl(PR_SET_DUMPABLE, 1);  // its /proc/self stays its own
  }
  ~LimitedUser() {
    if (was_root_ && is_so_ && ::setresuid(0, 0, 0) == 0) ::prctl(PR_SET_DUMPABLE, 1);
  }
  LimitedUser(const LimitedUser&) = delete;
  LimitedUser& operator=(const LimitedUser&) = delete;
  // Whether the kernel has let it.
  [[nodiscard]] bool is_so() const { return is_so_; }

 private:
  bool was_root_ = false, is_so_ = false;
};

// No thread starts any more; those that run stay. For a LimitedUser.
class NoThreads {
 public:
  NoThreads() {
    ::getrlimit(RLIMIT_NPROC, &before_);
    rlimit none = before_;
    none.rlim_cur = 0;
    ::setrlimit(RLIMIT_NPROC, &none);
  }
  ~NoThreads() { ::setrlimit(RLIMIT_NPROC, &before_); }
  NoThreads(const NoThreads&) = delete;
  NoThreads& operator=(const NoThreads&) = delete;

 private:
  rlimit before_{};
};

}  // namespace beeline
