#include "beeline/transport/abandoned.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <utility>

namespace beeline::transport {

void Abandoned::add(std::shared_ptr<void> connection, int fd) {
  ::shutdown(fd, SHUT_WR);
  const std::lock_guard guard(mutex_);
  connections_.push_back({std::move(connection), fd});
}

Status Abandoned::hear_out(const os::Wait& wait) {
  for (;;) {
    Connection connection;
    {
      const std::lock_guard guard(mutex_);
      if (connections_.empty()) return Status::ok();
      connection = connections_.back();  // stays there: others may wait for it, too
    }
    std::array<std::byte, 4096> answers;
    for (bool is_open = true; is_open;) {
      BEELINE_RETURN_IF_ERROR(os::wait_ready(connection.fd, POLLIN, wait, "the end of a connection"));
      const ssize_t got = ::recv(connection.fd, answers.data(), answers.size(), MSG_DONTWAIT);
      is_open = got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
    }
    const std::lock_guard guard(mutex_);
    std::erase_if(connections_, [&](const Connection& each) { return each.own == connection.own; });
  }
}

}  // namespace beeline::transport
