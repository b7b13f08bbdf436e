// The ways to one peer: which can reach a region, how fast each has been, and which is taken. Says why.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "beeline/base/function_ref.h"
#include "beeline/transfer/counters.h"
#include "beeline/transport/transport.h"

namespace beeline::transfer {

// How a path's bytes get to where they are wanted, where that is more than Endpoint::read(). May be asked again, of
// another path, after a failure. Empty: Endpoint::read().
using ReadBy = FunctionRef<Status(transport::Endpoint& endpoint, const transport::Capabilities& capabilities,
                                  const os::Wait& wait)>;

// Told what somebody ought to know of though the call that met it went well. On any thread, without locks.
using Warn = std::function<void(const std::string& message)>;

// What the caller insists on. Nothing: the best path there is.
struct Requirement {
  std::string path;     // by name; empty: any
  double min_gbps = 0;  // 10^9 bytes per second, by the estimate for the transfer's size
  bool verify = false;  // whether a fetch compares checksums
};

struct Candidate {
  std::string path;
  bool usable = false;
  std::string reason;     // why not, or why it is (not) taken
  double gbps = 0;        // estimate
  bool measured = false;  // by such transfers to this peer, not assumed
};

struct Explanation {
  std::vector<Candidate> candidates;  // in order of preference
  std::string chosen;                 // empty: none will do
  std::uint64_t failovers = 0;        // transfers to this peer that changed paths
};

// Thread-safe.
class Paths {
 public:
  // `unshared`: why the peer shares no memory with us, if it does not.
  Paths(std::shared_ptr<const transport::Transports> transports, transport::PeerFacts facts, std::string unshared);

  // Counts there what moves from here on; before the first transfer.
  void count_in(std::shared_ptr<Counters> counters, const std::string& peer_id);
  // Is told of transfers that changed paths; likewise.
  void warn_by(Warn warn) { warn_ = std::move(warn); }
  // Access without a copy to ranges of the arena of a peer on this host; see memory::PeerArena::acquire().
  Result<memory::Lease> map(memory::PublicationId id, std::span<const memory::Range> ranges);
  // The same of one range, read-only; see memory::PeerArena::acquire_view().
  Result<memory::PeerArena::View> view(memory::PublicationId id, memory::Range range);
  // Bytes of device memory where their owner has them, by the first path that gives that, and counted. kUnsupported,
  // with all reasons, when none does.
  Result<transport::MappedBytes> map_device(const transport::Region& region, std::uint64_t offset, std::uint64_t length,
                                            const os::Wait& wait);
  // The region's device as this process numbers it. kUnsupported, with all reasons, where no path knows.
  Result<transport::Device> here(const transport::Region& region, const os::Wait& wait);
  // What failed before a path was taken, or was of no use once the bytes were there.
  void note_failure(Operation operation, std::uint64_t bytes, Code why, Clock::time_point begin = Clock::now());

  [[nodiscard]] const transport::PeerFacts& facts() const { return facts_; }
  enum class Direction : std::uint8_t { kRead, kWrite };
  // Of a transfer with memory of that device of this process.
  [[nodiscard]] Explanation explain(const transport::Region& region, std::uint64_t bytes,
                                    const Requirement& requirement, Direction direction = Direction::kRead,
                                    const transport::Device& local = {}) const;

  // Connects each path that will do for a region of that kind: explain() then knows of those that do not work.
  void probe(const transport::Region& region, const os::Wait& wait);

  // A path that is connected. A value.
  struct Chosen {
    std::size_t path = 0;
    std::shared_ptr<transport::Endpoint> endpoint;
  };
  // Of runs of one kind of region; the next one where a path does not connect.
  Result<Chosen> choose(std::span<const transport::Run> runs, const Requirement& requirement, const os::Wait& wait);
  // By the path that was chosen, or by another one, which is then `chosen`, if it fails before the peer does.
  Status read(std::span<const transport::Run> runs, Chosen& chosen, const Requirement& requirement,
              const os::Wait& wait, ReadBy read_by = nullptr);

  // Moves the runs, all of one kind of region, by the best path; by the next one where a path fails before the peer
  // does. kUnsupported, with all reasons, when none will do: before a byte moves. What `read_by` takes is no measure of
  // the path's speed.
  Status read(std::span<const transport::Run> runs, const Requirement& requirement, const os::Wait& wait,
              ReadBy read_by = nullptr);
  Status write(std::span<const transport::Run> runs, const Requirement& requirement, const os::Wait& wait);

 private:
  struct Path {
    const transport::Transport* transport = nullptr;
    struct Measured {
      std::atomic<double> gbps{0};
      std::atomic<std::uint32_t> samples{0};
    };
    // By direction, whether either side's memory is the host's, and size: each may go another way.
    std::array<std::array<Measured, kSizeClasses>, 8> measured;
    std::atomic<std::uint32_t> connecting{0};       // futex: 1 while a thread does
    std::shared_ptr<transport::Endpoint> endpoint;  // needs mutex_
    Status failure;                                 // needs mutex_: why it is not tried before retry_at
    std::atomic<Clock::rep> retry_at{Clock::time_point::min().time_since_epoch().count()};
  };

  void count_map(std::uint64_t bytes, Clock::time_point begin, const Status& outcome);
  static Operation operation_of(Direction direction) {
    return direction == Direction::kRead ? Operation::kFetch : Operation::kPush;
  }
  struct Need {
    Direction direction = Direction::kRead;
    const transport::Region* region = nullptr;
    std::uint64_t bytes = 0;
    const Requirement* requirement = nullptr;
    transport::Device local = {};
  };
  Status move(Direction direction, std::span<const transport::Run> runs, Chosen& chosen, const Requirement& requirement,
              const os::Wait& wait, ReadBy read_by = nullptr);
  // `failed`: what paths this transfer has tried, and why they failed; grows.
  Result<Chosen> choose(const Need& need, std::string& failed, const os::Wait& wait);
  void note_failover(const Need& need, std::string& failed, std::size_t taken);
  Status read_once(const Path& path, transport::Endpoint& endpoint, std::span<const transport::Run> runs,
                   const os::Wait& wait, ReadBy read_by) const;
  // Whether the path will do; if not, `reason` says why, unless it is null.
  bool will_do(const Path& path, const Need& need, std::string* reason) const;
  struct Speed {
    double gbps = 0;
    bool measured = false;
  };
  // The cell of the statistics of a path for such transfers.
  template <typename AnyPath>
  static auto& cell_of(AnyPath& path, const Need& need);
  static Speed speed(const Path& path, const Need& need);
  // What the first path that will do, and connects, answers. kUnsupported, with all reasons, when none does.
  template <typename Answer>
  Result<Answer> first_answer(const Need& need, const os::Wait& wait,
                              FunctionRef<Result<Answer>(std::size_t path, transport::Endpoint& endpoint)> ask);
  // The path that is taken; paths_.size() when none will do.
  [[nodiscard]] std::size_t best(const Need& need) const;
  [[nodiscard]] Explanation explain(const Need& need) const;
  Result<std::shared_ptr<transport::Endpoint>> endpoint(Path& path, const os::Wait& wait);
  void fail(Path& path, const Status& status);
  void count_failure(std::size_t path, const Need& need, Clock::time_point begin, const Status& why);
  // Until what writes asked for that have failed, by whatever path, is done or dropped: or it would come after what is
  // written from now on.
  Status quiet(const os::Wait& wait);
  void note_unquiet(const std::shared_ptr<transport::Endpoint>& endpoint);
  static void note_speed(Path& path, const Need& need, Nanos took);

  std::shared_ptr<const transport::Transports> transports_;
  transport::PeerFacts facts_;
  std::string unshared_;
  std::vector<std::unique_ptr<Path>> paths_;
  std::optional<PeerCounters> counters_;
  Warn warn_;
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<transport::Endpoint>> unquiet_;  // needs mutex_: by which a write has failed
  std::atomic<bool> is_quiet_{true};                           // whether there are none
  std::atomic<std::uint64_t> failovers_{0};
};

}  // namespace beeline::transfer
