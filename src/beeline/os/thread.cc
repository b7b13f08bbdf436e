#include "beeline/os/thread.h"

#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <utility>

namespace beeline::os {

namespace {

thread_local bool own_thread = false;

class AllSignalsBlocked {
 public:
  AllSignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~AllSignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  AllSignalsBlocked(const AllSignalsBlocked&) = delete;
  AllSignalsBlocked& operator=(const AllSignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

}  // namespace

bool is_own_thread() {
  return own_thread;
}

std::thread start_thread(std::function<void()> body) {
  const AllSignalsBlocked blocked;  // the thread inherits that
  return std::thread([own = std::move(body)] {
    own_thread = true;
    own();
  });
}

std::uint32_t thread_id() {
  static thread_local const auto id = static_cast<std::uint32_t>(::gettid());
  return id;
}

}  // namespace beeline::os
