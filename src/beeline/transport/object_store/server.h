// The owner's side: a listener, and a thread for each reader.
#pragma once

#include <atomic>
#include <condition_variable>
#include <list>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "beeline/os/fork_count.h"
#include "beeline/os/unix_socket.h"
#include "beeline/os/wait.h"
#include "beeline/transport/exposures.h"
#include "beeline/transport/object_store/messages.h"

namespace beeline::transport::object_store {

// Thread-safe. Nothing runs before the first reader asks for its contact.
class Server final : public Exporter {
 public:
  static constexpr std::size_t kMaxConnections = 256;

  Server() = default;
  ~Server() override;
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  Result<Bytes> contact() override;
  Result<Bytes> key(memory::PublicationId id, const RegionSource::Held& held, Access access) override;
  void withdraw(memory::PublicationId id) override { exposures_.withdraw(id); }

 private:
  struct Extent {
    std::byte* data = nullptr;
    std::uint64_t length = 0;
    Access access = Access::kRead;
    std::size_t copies = 0;  // that go on
  };
  struct Connection {
    os::FrameSocket socket;
    std::thread thread;
    bool ended = false;  // needs mutex_
  };

  Status listen();
  void accept_loop();
  void add(os::Fd fd);
  void join_ended();
  void run(Connection& connection);
  Status serve(os::FrameSocket& socket);
  Status copy(const Request& request, std::span<const RunRecord> runs, std::byte* chunk);
  // Holds the extents of the runs; null where one was withdrawn, or is not for that.
  Status hold(std::span<const RunRecord> runs, Access access, std::vector<Extent*>& held);
  void let_go(std::span<Extent* const> held);
  void forget(std::uint64_t extent);

  const std::uint64_t fork_count_ = os::fork_count();
  std::mutex extents_mutex_;
  std::condition_variable copied_;
  std::map<std::uint64_t, Extent> extents_;  // needs extents_mutex_; ids that nobody can guess
  std::mutex mutex_;
  std::string name_;  // needs mutex_; empty until it listens
  os::Fd listener_;   // likewise
  std::shared_ptr<os::Cancellation> stopping_;
  std::thread acceptor_;
  std::list<Connection> connections_;  // needs mutex_
  Exposures exposures_;                // the last: its end withdraws extents
};

}  // namespace beeline::transport::object_store
