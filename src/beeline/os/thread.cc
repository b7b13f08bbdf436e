#include "beeline/os/thread.h"

#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <utility>

namespace beeline::os {

std::thread start_thread(std::function<void()> body) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::move(body));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

std::uint32_t thread_id() {
  static thread_local const auto id = static_cast<std::uint32_t>(::gettid());
  return id;
}

}  // namespace beeline::os
