// The owner's side of the TCP back end: a listener, and a thread for each connection that it admits.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "beeline/transport/server.h"
#include "beeline/transport/tcp/opening.h"

namespace beeline::transport::tcp {

class TcpServer final : public Server {
 public:
  static constexpr std::size_t kMaxConnections = 256;

  static Result<std::unique_ptr<Server>> start(const Options& options, RegionSource& regions, OnControl on_control);
  ~TcpServer() override;
  TcpServer(const TcpServer&) = delete;
  TcpServer& operator=(const TcpServer&) = delete;

  [[nodiscard]] const os::TcpAddress& address() const override { return address_; }
  [[nodiscard]] Stats stats() const override;

 private:
  struct Connection {
    os::Fd fd;
    std::thread thread;
    bool ended = false;  // needs mutex_
  };
  struct Serving;

  TcpServer(RegionSource& regions, OnControl on_control) : regions_(regions), on_control_(std::move(on_control)) {}
  void accept_loop();
  void add(os::Fd fd);
  void refuse();
  void run(Connection& connection);
  void join_ended();
  Status serve(int fd, const Caller& caller);
  Status answer_read(int fd, Serving& serving);
  Status answer_write(int fd, Serving& serving);

  RegionSource& regions_;
  OnControl on_control_;
  std::function<void()> on_refused_;
  std::string token_;
  os::TcpAddress address_;
  os::Fd listener_;
  std::shared_ptr<os::Cancellation> stopping_;
  std::thread acceptor_;
  mutable std::mutex mutex_;
  std::list<Connection> connections_;
  std::atomic<std::uint64_t> refused_{0}, requests_{0}, bytes_read_{0}, bytes_written_{0}, failed_{0};
};

}  // namespace beeline::transport::tcp
