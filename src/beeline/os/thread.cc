#include "beeline/os/thread.h"

#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <utility>

namespace beeline::os {

namespace {

thread_local bool own_thread = false;

}  // namespace

bool is_own_thread() {
  return own_thread;
}

std::thread start_thread(std::function<void()> body) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread([own = std::move(body)] {
    own_thread = true;
    own();
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

std::uint32_t thread_id() {
  static thread_local const auto id = static_cast<std::uint32_t>(::gettid());
  return id;
}

}  // namespace beeline::os
