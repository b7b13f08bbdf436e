#include "beeline/transport/connection_server.h"

#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "beeline/base/bytes.h"
#include "beeline/os/random.h"
#include "beeline/os/thread.h"
#include "beeline/os/unix_socket.h"

namespace beeline::transport {
namespace {

std::string hexadecimal(std::span<const std::byte> bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : bytes) {
    text += kDigits[std::to_integer<unsigned>(byte >> 4)];
    text += kDigits[std::to_integer<unsigned>(byte & std::byte{15})];
  }
  return text;
}

}  // namespace

ConnectionServer::~ConnectionServer() {
  if (is_forked()) {
    // In a child of fork() its threads are the parent's.
    for (std::thread& acceptor : acceptors_) acceptor.detach();
    for (Connection& connection : connections_) connection.thread.detach();
    return;
  }
  if (stopping_) stopping_->cancel();
  for (std::thread& acceptor : acceptors_) acceptor.join();
  for (Connection& connection : connections_) connection.thread.join();
}

Result<std::string> ConnectionServer::unix_name() {
  const std::lock_guard guard(mutex_);
  if (!unix_name_.empty()) return unix_name_;
  std::array<std::byte, 16> random{};
  os::fill_with_random(random);
  std::string name = "@beeline-" + hexadecimal(random);
  BEELINE_ASSIGN(auto listener, os::listen_unix(name));
  BEELINE_RETURN_IF_ERROR(start(std::move(listener), os::accept_unix));
  unix_name_ = std::move(name);
  return unix_name_;
}

Result<os::TcpAddress> ConnectionServer::tcp_address(const std::string& host) {
  const std::lock_guard guard(mutex_);
  if (tcp_address_.port != 0) return tcp_address_;
  BEELINE_ASSIGN(tcp_address_, listen_with_lock({host, 0}));
  return tcp_address_;
}

Result<os::TcpAddress> ConnectionServer::listen(const os::TcpAddress& address) {
  const std::lock_guard guard(mutex_);
  return listen_with_lock(address);
}

std::size_t ConnectionServer::connections() const {
  const std::lock_guard guard(mutex_);
  const auto is_served = [](const Connection& connection) { return !connection.ended; };
  return static_cast<std::size_t>(std::ranges::count_if(connections_, is_served));
}

Result<os::TcpAddress> ConnectionServer::listen_with_lock(const os::TcpAddress& address) {
  BEELINE_ASSIGN(auto listener, os::listen_tcp(address));
  BEELINE_ASSIGN(os::TcpAddress own, os::local_address(listener.get()));
  BEELINE_RETURN_IF_ERROR(start(std::move(listener), os::accept_tcp));
  return own;
}

// With the lock held.
Status ConnectionServer::start(os::Fd listener, Accept accept) {
  if (stopping_ == nullptr) {
    BEELINE_ASSIGN(stopping_, os::Cancellation::make());
  }
  BEELINE_ASSIGN(auto acceptor, os::try_start_thread([this, fd = listener.get(), accept] { accept_loop(fd, accept); }));
  os::keep_from_children(listener.get());
  acceptors_.push_back(std::move(acceptor));
  listeners_.push_back(std::move(listener));
  return Status::ok();
}

void ConnectionServer::accept_loop(int listener, Accept accept) {
  ::pthread_setname_np(::pthread_self(), options_.thread_name.c_str());
  os::Wait wait;
  wait.cancellation = stopping_.get();
  while (os::wait_ready(listener, POLLIN, wait, "a reader")) {
    auto accepted = accept(listener);
    if (accepted && accepted->is_open()) {
      add(std::move(*accepted), accept == os::accept_tcp);
    } else if (!accepted && accepted.status().system_error() != 0) {
      // Out of descriptors: the reader waits in the backlog until one is free.
      turn_away(os::Fd(), accepted.status());
      wait.deadline = Deadline::after(std::chrono::milliseconds(50));
      (void)os::wait_ready(stopping_->fd(), POLLIN, wait, "a descriptor");
      wait.deadline = Deadline::never();
    }
  }
}

void ConnectionServer::count_refusal() const {
  if (refused_ != nullptr) refused_->fetch_add(1, std::memory_order_relaxed);  // a statistic on its own
}

void ConnectionServer::turn_away(os::Fd fd, const Status& why) {
  if (fd.is_open()) count_refusal();  // else it waits
  if (options_.turn_away) options_.turn_away(std::move(fd), why);
}

void ConnectionServer::add(os::Fd fd, bool must_prove) {
  join_ended();
  os::keep_from_children(fd.get());
  const std::lock_guard guard(mutex_);
  if (connections_.size() >= kMaxConnections) {
    return turn_away(std::move(fd), {Code::kResourceExhausted, "the owner serves " + std::to_string(kMaxConnections) +
                                                                   " connections already, the most there can be"});
  }
  os::Fd opening;
  if (must_prove) {
    make_room_for_opening();
    // With the last descriptor gone it is served all the same, and does not make way.
    if (auto copy = os::duplicate(fd.get())) opening = std::move(*copy);
    os::keep_from_children(opening.get());
  }
  Connection& connection = connections_.emplace_back();
  connection.opening = std::move(opening);
  const auto own = std::make_shared<os::Fd>(std::move(fd));
  auto thread = os::try_start_thread([this, &connection, own] { run(connection, std::move(*own)); });
  if (thread) {
    connection.thread = std::move(*thread);
  } else {
    connections_.pop_back();
    turn_away(std::move(*own), thread.status().with_context("at the owner, for one more connection"));
  }
}

// Who connects and says nothing must not keep out those who can prove who they are: the one that has taken longest
// gives way. With the lock held.
void ConnectionServer::make_room_for_opening() {
  const auto opens = [](const Connection& connection) { return connection.opening.is_open(); };
  if (static_cast<std::size_t>(std::ranges::count_if(connections_, opens)) < kMaxOpenings) return;
  const auto oldest = std::ranges::find_if(connections_, opens);
  ::shutdown(oldest->opening.get(), SHUT_RDWR);
  count_refusal();
  oldest->opening.reset();
}

void ConnectionServer::run(Connection& connection, os::Fd fd) {
  ::pthread_setname_np(::pthread_self(), options_.thread_name.c_str());
  os::Wait wait;
  wait.cancellation = stopping_.get();
  options_.serve({std::move(fd), wait, [this, &connection] {
                    const std::lock_guard guard(mutex_);
                    connection.opening.reset();
                  }});
  const std::lock_guard guard(mutex_);
  connection.opening.reset();
  connection.ended = true;
}

void ConnectionServer::join_ended() {
  std::list<Connection> ended;
  {
    const std::lock_guard guard(mutex_);
    for (auto it = connections_.begin(); it != connections_.end();) {
      const auto next = std::next(it);
      if (it->ended) ended.splice(ended.end(), connections_, it);
      it = next;
    }
  }
  for (Connection& connection : ended) connection.thread.join();
}

}  // namespace beeline::transport
