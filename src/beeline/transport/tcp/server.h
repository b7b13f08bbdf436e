// The owner's side of the TCP back end.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "beeline/transport/connection_server.h"
#include "beeline/transport/server.h"
#include "beeline/transport/tcp/opening.h"

namespace beeline::transport::tcp {

class TcpServer final : public Server {
 public:
  static Result<std::unique_ptr<Server>> start(const Options& options, RegionSource& regions, OnControl on_control);

  [[nodiscard]] const os::TcpAddress& address() const override { return address_; }
  [[nodiscard]] Stats stats() const override;

 private:
  struct Serving;

  TcpServer(const Options& options, RegionSource& regions, OnControl on_control);
  void refuse();
  void run(ConnectionServer::Caller connected);
  Result<Caller> admit(os::ByteStream& stream, const os::Wait& wait);
  Status serve(os::ByteStream& stream, const Caller& caller, const os::Wait& wait);
  Status answer_read(os::ByteStream& stream, Serving& serving);
  Status answer_write(os::ByteStream& stream, Serving& serving);

  RegionSource& regions_;
  const OnControl on_control_;
  const std::function<void()> on_refused_;
  const std::string agent_id_, token_;
  const std::shared_ptr<const os::Tls> tls_;  // null: it speaks plain
  os::TcpAddress address_;
  std::atomic<std::uint64_t> refused_{0}, requests_{0}, bytes_read_{0}, bytes_written_{0}, failed_{0};
  ConnectionServer connections_;  // the last: its threads use the above
};

}  // namespace beeline::transport::tcp
