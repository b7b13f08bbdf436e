// Another agent, as this one reaches it: a control connection, its arena if it is on this host, and the paths to it.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "beeline/memory/peer_arena.h"
#include "beeline/os/fork_count.h"
#include "beeline/os/unix_socket.h"
#include "beeline/transfer/address.h"
#include "beeline/transfer/paths.h"

namespace beeline::transfer {

// Bytes where their owner has them; pages that are written become this process's own. The lease lasts as long as
// `lease`.
struct Mapped {
  std::shared_ptr<void> lease;
  std::byte* data = nullptr;
};

// Thread-safe.
class Peer : public std::enable_shared_from_this<Peer> {
 public:
  // What a peer asks of its agent, on any thread.
  struct Requests {
    // Leases have ended: PeerArena::clean() soon, after cleaning_begins().
    std::function<void(const std::shared_ptr<Peer>& peer)> clean;
    // Asks the owner whether it has granted the region; set_grant() gets the answer.
    std::function<void(const std::shared_ptr<Peer>& peer, const transport::Region& region)> ask_grant;
  };
  Peer(Address address, transport::PeerFacts facts, std::string unshared,
       std::shared_ptr<const transport::Transports> transports, Requests requests)
      : address_(std::move(address)),
        paths_(std::move(transports), std::move(facts), std::move(unshared)),
        requests_(std::move(requests)) {}

  [[nodiscard]] const Address& address() const { return address_; }
  [[nodiscard]] const transport::PeerFacts& facts() const { return paths_.facts(); }

  // Fills local memory from the peer's. kStale when a registration was undone: before or, on one host, while it was
  // read. kPeerLost when the peer is gone. After a failure the content of local memory is undefined, and nothing
  // writes to it any more. `read_by` says how, the runs say what.
  Status read(std::span<const transport::Run> runs, const Requirement& requirement, const os::Wait& wait,
              ReadBy read_by = nullptr);
  // Fills the peer's memory, which it must have granted to this agent.
  Status write(std::span<const transport::Run> runs, const Requirement& requirement, const os::Wait& wait);
  // [offset, offset + length) of the region without a copy. kUnsupported unless it lies in the arena of an agent on
  // this host.
  Result<Mapped> map(const transport::Region& region, std::uint64_t offset, std::uint64_t length);

  // Holds on all regions of the runs; nothing where the owner's server takes them itself.
  Result<std::vector<memory::Lease>> lease(std::span<const transport::Run> runs);
  // As read(), of runs that were checked and are leased, by the path that was chosen for them; another one is chosen
  // if it fails.
  Status read_prepared(std::span<const transport::Run> runs, Paths::Chosen& chosen, const Requirement& requirement,
                       const os::Wait& wait, ReadBy read_by = nullptr);
  // After leases have ended: pages are to be dropped, and owners may wait to be told.
  void request_cleaning();
  // kStale if a registration was undone meanwhile.
  Status check_held(std::span<const memory::Lease> leases);
  [[nodiscard]] Paths& paths() { return paths_; }

  [[nodiscard]] Explanation explain(const transport::Region& region, std::uint64_t bytes,
                                    const Requirement& requirement) const {
    return paths_.explain(region, bytes, requirement);
  }

  // From the agent: the connection has ended; the owner has answered.
  void set_gone(const std::string& why);
  void set_grant(memory::PublicationId id, std::uint64_t address, std::uint64_t length, Status verdict);
  // What ends from here on is asked for again.
  void cleaning_begins() { cleaning_.store(false); }
  [[nodiscard]] bool is_gone() const { return gone_.load(std::memory_order_acquire); }

 private:
  Status gone() const;
  Status lost_or(Status status) const;
  [[nodiscard]] Status check_alive() const;
  Status require_grants(std::span<const transport::Run> runs, const os::Wait& wait);
  Status require_grant(const transport::Region& region, const os::Wait& wait);

  const Address address_;
  Paths paths_;
  const Requests requests_;
  const std::uint64_t fork_count_ = os::fork_count();
  mutable std::mutex mutex_;
  std::string why_gone_;  // needs mutex_
  // What was asked for: slot, generation, address, length.
  using Asked = std::tuple<std::uint32_t, std::uint32_t, std::uint64_t, std::uint64_t>;
  std::map<Asked, Status> verdicts_;       // needs mutex_: those that were answered
  std::atomic<std::uint32_t> answers_{0};  // futex
  std::atomic<bool> cleaning_{false};      // asked for, and not begun
  std::atomic<bool> gone_{false};          // release after why_gone_; pairs with the acquire in is_gone()
};

}  // namespace beeline::transfer
