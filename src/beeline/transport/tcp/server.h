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
  // Of those, connections whose callers have proven nothing yet.
  static constexpr std::size_t kMaxOpenings = 64;

  static Result<std::unique_ptr<Server>> start(const Options& options, RegionSource& regions, OnControl on_control);
  ~TcpServer() override;
  TcpServer(const TcpServer&) = delete;
  TcpServer& operator=(const TcpServer&) = delete;

  [[nodiscard]] const os::TcpAddress& address() const override { return address_; }
  [[nodiscard]] Stats stats() const override;

 private:
  struct Connection {
    std::unique_ptr<os::ByteStream> stream;  // whether there is one needs mutex_
    std::thread thread;
    bool opens = true;   // counts as an opening; needs mutex_
    bool ended = false;  // needs mutex_
  };
  struct Serving;

  TcpServer(RegionSource& regions, OnControl on_control) : regions_(regions), on_control_(std::move(on_control)) {}
  void accept_loop();
  void add(os::Fd fd);
  void refuse();
  void make_room_for_opening();
  void run(Connection& connection);
  Result<Caller> admit(os::ByteStream& stream, const os::Wait& wait);
  void join_ended();
  Status serve(os::ByteStream& stream, const Caller& caller);
  Status answer_read(os::ByteStream& stream, Serving& serving);
  Status answer_write(os::ByteStream& stream, Serving& serving);

  RegionSource& regions_;
  OnControl on_control_;
  std::function<void()> on_refused_;
  std::string agent_id_, token_;
  std::shared_ptr<const os::Tls> tls_;  // null: it speaks plain
  os::TcpAddress address_;
  os::Fd listener_;
  std::shared_ptr<os::Cancellation> stopping_;
  std::thread acceptor_;
  mutable std::mutex mutex_;
  std::list<Connection> connections_;
  std::atomic<std::uint64_t> refused_{0}, requests_{0}, bytes_read_{0}, bytes_written_{0}, failed_{0};
};

}  // namespace beeline::transport::tcp
