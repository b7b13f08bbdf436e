// The lock over the state of a process or an agent: its objects, calls and links. Held for microseconds, never across a
// wait, a GIL or user code. Contended acquisitions spin briefly before they sleep.
#pragma once

#include <pthread.h>

#include <mutex>

namespace beeline::os {

class StateLock {
 public:
  StateLock() {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP);
    pthread_mutex_init(&mutex_, &attributes);
    pthread_mutexattr_destroy(&attributes);
  }
  StateLock(const StateLock&) = delete;
  StateLock& operator=(const StateLock&) = delete;
  ~StateLock() { pthread_mutex_destroy(&mutex_); }

  void lock() { pthread_mutex_lock(&mutex_); }
  void unlock() { pthread_mutex_unlock(&mutex_); }

 private:
  pthread_mutex_t mutex_;
};

using Locked = std::unique_lock<StateLock>;

}  // namespace beeline::os
