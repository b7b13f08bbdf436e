// Connections over which a peer may still do what it was asked to, though nobody waits for its answers any more.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "beeline/os/wait.h"

namespace beeline::transport {

// Thread-safe.
class Abandoned {
 public:
  // Says over the socket `fd`, which `connection` keeps open, that nothing more will come.
  void add(std::shared_ptr<void> connection, int fd);
  // Until the peer has ended each of them, as it does when it has done what came over it.
  Status hear_out(const os::Wait& wait);

 private:
  struct Connection {
    std::shared_ptr<void> own;
    int fd = -1;
  };
  std::mutex mutex_;
  std::vector<Connection> connections_;  // needs mutex_
};

}  // namespace beeline::transport
