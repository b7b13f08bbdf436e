// Another agent, as this one reaches it: a control connection, its arena if it is on this host, and the paths to it.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "beeline/memory/peer_arena.h"
#include "beeline/os/fork_count.h"
#include "beeline/os/unix_socket.h"
#include "beeline/transfer/address.h"
#include "beeline/transfer/descriptor.h"
#include "beeline/transfer/messages.h"
#include "beeline/transfer/paths.h"

namespace beeline::transfer {

// Bytes where their owner has them. Of the host's memory, pages that are written become this process's own; memory of a
// device is the owner's itself. The lease lasts as long as `lease`.
struct Mapped {
  std::shared_ptr<void> lease;
  std::byte* data = nullptr;
  transport::Device device = {};  // as this process numbers it
};

// Thread-safe.
class Peer final : public transport::OwnerLine, public std::enable_shared_from_this<Peer> {
 public:
  // What a peer asks of its agent, on any thread.
  struct Requests {
    // Leases have ended: PeerArena::clean() soon, after cleaning_begins().
    std::function<void(const std::shared_ptr<Peer>& peer)> clean;
    // Tells the owner; set_answer() gets what it says to a question.
    std::function<void(const std::shared_ptr<Peer>& peer, BytesView frame)> tell;
    Warn warn;
  };
  Peer(Address address, transport::PeerFacts facts, std::string unshared,
       std::shared_ptr<const transport::Transports> transports, Requests requests)
      : address_(std::move(address)),
        paths_(std::move(transports), with_owner(std::move(facts), this), std::move(unshared)),
        requests_(std::move(requests)) {
    paths_.warn_by(requests_.warn);
  }

  [[nodiscard]] const Address& address() const { return address_; }
  [[nodiscard]] const transport::PeerFacts& facts() const { return paths_.facts(); }

  // Fills local memory from the peer's. kStale when a registration was undone: before or, on one host, while it was
  // read. kTorn when its owner wrote to it in place meanwhile (Registration::begin_write). kPeerLost when the peer is
  // gone. After a failure the content of local memory is undefined, and nothing writes to it any more. `read_by` says
  // how, the runs say what.
  Status read(std::span<const transport::Run> runs, const Requirement& requirement, const os::Wait& wait,
              ReadBy read_by = nullptr);
  // Whether a path meets the requirement: kUnsupported, with all reasons, where none does. Moves no byte.
  Status check_path(std::span<const transport::Run> runs, const Requirement& requirement, const os::Wait& wait);
  // A notification, see notifications.h: kOk once it waits there. kNotFound where nobody takes those of the topic,
  // kResourceExhausted where it was refused, kInvalidArgument where it is too long. After another failure it may have
  // arrived.
  Status notify(const std::string& topic, BytesView payload, const os::Wait& wait);
  // Around writes to a region that the peer must have granted to this agent: who reads meanwhile gets kTorn. Until the
  // result ends, which does not wait.
  Result<std::shared_ptr<void>> begin_write(const transport::Region& region, const os::Wait& wait);
  // Fills the peer's memory, which it must have granted to this agent.
  Status write(std::span<const transport::Run> runs, const Requirement& requirement, const os::Wait& wait);
  // [offset, offset + length) of the region without a copy. kUnsupported unless it lies in the arena of an agent on
  // this host, or on a device whose memory a path maps; only there it waits.
  Result<Mapped> map(const transport::Region& region, std::uint64_t offset, std::uint64_t length,
                     const os::Wait& wait = {});
  // The same of the host's memory, read-only: writing to it is a fault of the processor.
  Result<Mapped> view(const transport::Region& region, std::uint64_t offset, std::uint64_t length);
  // The region's device as this process numbers it.
  Result<transport::Device> here(const transport::Region& region, const os::Wait& wait);

  // Holds on all regions of the runs; nothing where the owner's server takes them itself.
  Result<std::vector<memory::Lease>> lease(std::span<const transport::Run> runs,
                                           Operation operation = Operation::kFetch);
  // As read(), of runs that were checked and are leased, by the path that was chosen for them; another one is chosen
  // if it fails.
  Status read_prepared(std::span<const transport::Run> runs, Paths::Chosen& chosen, const Requirement& requirement,
                       const os::Wait& wait, ReadBy read_by = nullptr);
  // After leases have ended: pages are to be dropped, and owners may wait to be told.
  void request_cleaning();
  // How often the owner has written in place to the regions, summed: around several reads that are to give one state.
  // kTorn where it is writing. On another host it is asked.
  Result<std::uint64_t> writes_to(std::span<const transport::Region* const> regions, const os::Wait& wait);
  // Around reading so many bytes under the leases, on one host. The second one takes what the first gave: kTorn if the
  // owner wrote meanwhile, kStale if it has undone a registration.
  Result<std::uint64_t> begin_reading(std::span<const memory::Lease> leases, std::uint64_t bytes);
  Status end_reading(std::span<const memory::Lease> leases, std::uint64_t writes, std::uint64_t bytes);
  [[nodiscard]] Paths& paths() { return paths_; }

  // See Paths::explain().
  [[nodiscard]] Explanation explain(const transport::Region& region, std::uint64_t bytes,
                                    const Requirement& requirement,
                                    Paths::Direction direction = Paths::Direction::kRead,
                                    const transport::Device& local = {}) const {
    return paths_.explain(region, bytes, requirement, direction, local);
  }

  Result<Bytes> contact(std::string_view path, const os::Wait& wait) override;
  Result<Bytes> key(std::string_view path, const transport::Region& region, transport::Access access,
                    const os::Wait& wait) override;
  Result<std::uint64_t> writes(const transport::Region& region, const os::Wait& wait) override;
  Status announce(std::string_view path, const transport::Region& region, const os::Wait& wait) override;

  // The keys that came with references to its regions: they are not asked for.
  void learn(const Descriptor& descriptor);

  // From the agent: the connection has ended; the owner has answered.
  void set_gone(const std::string& why);
  void set_answer(const messages::Ask& asked, Result<Bytes> answer);
  // What ends from here on is asked for again.
  void cleaning_begins() { cleaning_.store(false); }
  [[nodiscard]] bool is_gone() const { return gone_.load(std::memory_order_acquire); }

 private:
  [[nodiscard]] std::optional<Bytes> given_key(const messages::Ask& asked) const;
  Status gone() const;
  Status lost_or(Status status) const;
  [[nodiscard]] Status check_alive() const;
  // Of memory of a device only that it is inside the region.
  Status check_mappable(const transport::Region& region, std::uint64_t offset, std::uint64_t length);
  Status require_grants(std::span<const transport::Run> runs, const os::Wait& wait);
  Result<Bytes> ask(const messages::Ask& asked, const os::Wait& wait);
  Result<Bytes> ask(const messages::Ask& asked, BytesView frame, const os::Wait& wait);
  std::uint64_t next_serial();
  void forget(const messages::Ask& asked);
  // What may be another answer each time.
  Result<Bytes> ask_anew(messages::Ask asked, const os::Wait& wait);
  Result<Mapped> map_device(const transport::Region& region, std::uint64_t offset, std::uint64_t length,
                            const os::Wait& wait);
  // Ends one thread's wait for an answer.
  struct Waiting {
    Peer& peer;
    const messages::Ask& asked;
    ~Waiting() {
      const std::lock_guard guard(peer.mutex_);
      const auto found = peer.asked_.find(asked);
      if (--found->second == 0) peer.asked_.erase(found);
    }
  };
  static transport::PeerFacts with_owner(transport::PeerFacts facts, transport::OwnerLine* owner) {
    facts.owner = owner;
    return facts;
  }

  const Address address_;
  Paths paths_;
  const Requests requests_;
  const std::uint64_t fork_count_ = os::fork_count();
  mutable std::mutex mutex_;
  std::string why_gone_;                            // needs mutex_
  std::map<messages::Ask, Result<Bytes>> answers_;  // needs mutex_; of a slot that is used anew only the newest
  // Needs mutex_; by path and slot, of a slot that is used anew only the newest. Others may have made them up: what the
  // owner itself has answered comes first.
  std::map<std::pair<std::string, std::uint32_t>, std::pair<messages::Ask, Bytes>> given_;
  std::map<messages::Ask, std::size_t>
      asked_;                      // needs mutex_: how many threads wait; of the owner no other answer is taken
  std::uint64_t last_serial_ = 0;  // needs mutex_
  std::atomic<std::uint32_t> answered_{0};  // futex
  std::atomic<bool> cleaning_{false};       // asked for, and not begun
  std::atomic<bool> gone_{false};           // release after why_gone_; pairs with the acquire in is_gone()
};

}  // namespace beeline::transfer
