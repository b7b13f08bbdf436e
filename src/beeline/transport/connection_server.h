// The owner's side of back ends that serve memory to readers one by one: listeners, and a thread for each connection.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "beeline/base/function_ref.h"
#include "beeline/os/fd.h"
#include "beeline/os/fork_count.h"
#include "beeline/os/tcp_socket.h"
#include "beeline/os/wait.h"
#include "beeline/transport/transport.h"

namespace beeline::transport {

// Thread-safe. Nothing runs before somebody asks where it listens; its end ends every connection and thread.
class ConnectionServer {
 public:
  static constexpr std::size_t kMaxConnections = 256;
  // Of those, connections by TCP whose callers have proven nothing yet.
  static constexpr std::size_t kMaxOpenings = 64;

  struct Caller {
    os::Fd connection;
    os::Wait wait;  // is cancelled when the server ends
    // To be called once a caller by TCP has proven who it is: until then its connection may end for the sake of others.
    FunctionRef<void()> admit;
  };
  struct Options {
    std::string thread_name;  // at most 15 characters
    // What one connection is about, until it ends; on a thread of its own.
    std::function<void(Caller caller)> serve;
    // For whom there is no room any more, no thread, or (not open) no descriptor, until when it waits; on the thread
    // that accepts.
    std::function<void(os::Fd connection, const Status& why)> turn_away = {};
  };

  explicit ConnectionServer(Options options) : options_(std::move(options)) {}
  ~ConnectionServer();
  ConnectionServer(const ConnectionServer&) = delete;
  ConnectionServer& operator=(const ConnectionServer&) = delete;

  // The name in the abstract namespace at which it listens from the first call on: nobody can guess it, and who
  // connects is of this user.
  Result<std::string> unix_name();
  // Likewise by TCP, at a port of that host that was free: whoever reaches it may connect.
  Result<os::TcpAddress> tcp_address(const std::string& host);
  // Listens at that address, and says which port it got.
  Result<os::TcpAddress> listen(const os::TcpAddress& address);
  // Where those are counted whom it turns away, and those who had to give way; before it listens.
  void count_refusals_in(SharedCount refused) { refused_ = std::move(refused); }
  // Of one whom `serve` turns away.
  void count_refusal() const;
  // How many are being served.
  [[nodiscard]] std::size_t connections() const;

  [[nodiscard]] bool is_forked() const { return fork_count_ != os::fork_count(); }

 private:
  struct Connection {
    std::thread thread;
    os::Fd opening;      // its socket, until a caller by TCP is admitted; needs mutex_
    bool ended = false;  // needs mutex_
  };
  using Accept = Result<os::Fd> (*)(int listener);

  Status start(os::Fd listener, Accept accept);
  void accept_loop(int listener, Accept accept);
  Result<os::TcpAddress> listen_with_lock(const os::TcpAddress& address);
  void turn_away(os::Fd fd, const Status& why);
  void add(os::Fd fd, bool must_prove);
  void make_room_for_opening();
  void run(Connection& connection, os::Fd fd);
  void join_ended();

  const Options options_;
  SharedCount refused_;  // may be null
  const std::uint64_t fork_count_ = os::fork_count();
  mutable std::mutex mutex_;
  std::string unix_name_;                       // needs mutex_; empty until it listens
  os::TcpAddress tcp_address_;                  // likewise, port 0
  std::shared_ptr<os::Cancellation> stopping_;  // needs mutex_ until something runs
  std::list<os::Fd> listeners_;                 // needs mutex_
  std::list<std::thread> acceptors_;            // likewise
  std::list<Connection> connections_;           // likewise
};

}  // namespace beeline::transport
