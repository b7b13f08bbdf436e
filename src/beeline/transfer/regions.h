// What this agent has registered: memory that peers may reach, who may write to it, and what keeps it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "beeline/memory/arena.h"
#include "beeline/os/fork_count.h"
#include "beeline/transport/transport.h"

namespace beeline::transfer {

class Regions;

// Bytes of this process.
struct Piece {
  std::byte* data = nullptr;
  std::uint64_t size = 0;
  transport::Device device = {};
  friend bool operator==(const Piece&, const Piece&) = default;
};

// Pieces that were registered together; in one region those of the arena, in others those outside it, by device. Undone
// when the last owner lets go: no peer begins to read from then on, and what keeps the memory is dropped once none is
// at it any more.
class Registration {
 public:
  ~Registration();
  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;

  [[nodiscard]] const std::vector<transport::Region>& regions() const { return regions_; }
  // Which region holds piece `index`, and at which offset it begins there.
  struct Position {
    std::uint32_t region = 0;
    std::uint64_t offset = 0;
  };
  [[nodiscard]] Position position(std::size_t index) const { return positions_[index]; }
  // Around writes in place by this process: who reads meanwhile gets kTorn.
  void begin_write() const;
  void end_write() const;

 private:
  friend class Regions;
  Registration() = default;

  std::shared_ptr<Regions> home_;
  std::vector<transport::Region> regions_;
  std::vector<Position> positions_;
  std::vector<Piece> pieces_;
  std::vector<std::vector<memory::Range>> extents_;  // by region: what of it was registered, by offset, disjoint
  std::shared_ptr<void> keep_alive_;
};

// Thread-safe.
class Regions final : public transport::RegionSource, public std::enable_shared_from_this<Regions> {
 public:
  static std::shared_ptr<Regions> make(std::shared_ptr<memory::Arena> arena,
                                       std::shared_ptr<const transport::Transports> transports);
  // Says there how many regions are registered, from here on; before the first one.
  void count_in(transport::SharedCount registrations);

  // Blocks of the arena are pinned; memory outside it is kept by `keep_alive`, which is dropped on any thread, the
  // agent's control thread among them, without a lock held. The same pieces of the arena are registered once: a block
  // that is pinned is not given out again, so an address found in the cache still means what it meant. Memory outside
  // it has no such promise and is not looked up.
  Result<std::shared_ptr<Registration>> add(std::span<const Piece> pieces, std::shared_ptr<void> keep_alive,
                                            memory::Arena::Content content = memory::Arena::Content::kAsWritten);

  // Lets the agent of that id write to the region, until the registration is undone.
  Status grant(memory::PublicationId id, const std::string& agent_id);
  // kInvalidArgument unless it was, and lies there; kStale when the registration was undone.
  [[nodiscard]] Status check_grant(memory::PublicationId id, std::uint64_t address, std::uint64_t length,
                                   std::string_view agent_id) const;

  // A write in place by a peer, which readers are told of as of Registration::begin_write()'s. Keeps the region
  // registered.
  class GrantedWrite {
   public:
    GrantedWrite(std::shared_ptr<memory::Arena> arena, memory::PublicationId id, std::shared_ptr<const void> hold);
    ~GrantedWrite() { end(); }
    GrantedWrite(const GrantedWrite&) = delete;
    GrantedWrite& operator=(const GrantedWrite&) = delete;

    void end();

   private:
    const std::shared_ptr<memory::Arena> arena_;
    const memory::PublicationId id_;
    const std::shared_ptr<const void> hold_;
    bool has_ended_ = false;
  };
  // Fails as check_grant().
  Result<std::shared_ptr<GrantedWrite>> begin_write(memory::PublicationId id, std::uint64_t address,
                                                    std::uint64_t length, std::string_view agent_id);

  // Of a region by a peer's back end.
  Result<Held> hold(memory::PublicationId id, transport::Access access, std::string_view agent_id) override;

  // By what the exporter's peers reach the region: kStale and kInvalidArgument as hold() gives them. It is withdrawn
  // when the registration is undone, before its memory is anything else.
  Result<Bytes> export_key(transport::Exporter& exporter, memory::PublicationId id, transport::Access access,
                           std::string_view agent_id);

  // Drops what kept memory of undone registrations that no peer holds any more; returns how many still wait.
  std::size_t sweep();

  struct Stats {
    std::uint64_t registrations = 0;  // now
    std::uint64_t reused = 0;         // found in the cache
    std::uint64_t waiting = 0;        // undone, held by a peer yet
  };
  [[nodiscard]] Stats stats() const;

 private:
  friend class Registration;
  // A region as its server needs it.
  struct Known {
    std::uint32_t generation = 0;
    std::weak_ptr<Registration> registration;
    std::byte* data = nullptr;
    std::uint64_t length = 0;
    std::span<const memory::Range> extents;  // the registration's
    transport::Device device;
    std::set<std::string, std::less<>> writers;
    bool is_exported = false;
  };
  struct Waiting {
    std::vector<memory::PublicationId> ids;
    std::shared_ptr<void> keep_alive;
  };

  Regions(std::shared_ptr<memory::Arena> arena, std::shared_ptr<const transport::Transports> transports)
      : arena_(std::move(arena)), transports_(std::move(transports)) {}
  // Needs mutex_: what is known of a region that is registered, or null.
  [[nodiscard]] const Known* look_up(memory::PublicationId id) const;
  static Status check_writer(const Known& known, std::string_view agent_id);
  std::shared_ptr<Registration> find(std::uint64_t hash, std::span<const Piece> pieces);
  // Publishes the pieces of one kind and describes them as a region.
  Status add_region(Registration& registration, std::span<const std::size_t> indices,
                    std::span<const std::uint64_t> arena_offsets, memory::Arena::Content content);
  void undo(Registration& registration);
  void count();  // needs mutex_

  const std::uint64_t fork_count_ = os::fork_count();
  std::shared_ptr<memory::Arena> arena_;
  const std::shared_ptr<const transport::Transports> transports_;
  mutable std::mutex mutex_;
  std::unordered_map<std::uint32_t, Known> known_;                             // by slot
  std::unordered_multimap<std::uint64_t, std::weak_ptr<Registration>> cache_;  // by hash of the pieces
  std::vector<Waiting> waiting_;
  std::uint64_t reused_ = 0;
  transport::SharedCount registrations_;
};

}  // namespace beeline::transfer
