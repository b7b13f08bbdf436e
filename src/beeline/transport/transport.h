// One-sided access to memory that another agent has registered: what a back end offers, and how it is asked.
//
// A back end is a folder of this layer; builtin.cc alone names them. It moves bytes and knows nothing of tensors,
// names, leases or choice: those are the transfer layer's.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "beeline/base/bytes.h"
#include "beeline/base/status.h"
#include "beeline/memory/peer_arena.h"
#include "beeline/memory/region.h"
#include "beeline/os/tcp_socket.h"
#include "beeline/os/tls.h"
#include "beeline/os/wait.h"

namespace beeline::transport {

// As DLPack numbers them: 1 is host memory, 2 CUDA.
struct Device {
  static constexpr std::int32_t kHost = 1, kCuda = 2;
  std::int32_t type = kHost;
  std::int32_t id = 0;
  [[nodiscard]] bool is_host() const { return type == 1; }
  friend bool operator==(const Device&, const Device&) = default;
};

// Registered memory of an agent, as its peers know it. A value; travels in descriptors.
struct Region {
  static constexpr std::uint64_t kOutsideArena = ~std::uint64_t{0};

  memory::PublicationId id;  // in the owner's table of leases; stale once the registration is undone
  std::uint64_t length = 0;
  std::uint64_t address = 0;                   // in the owner's address space
  std::uint64_t arena_offset = kOutsideArena;  // of the first byte in the owner's arena
  Device device;

  [[nodiscard]] bool in_arena() const { return arena_offset != kOutsideArena; }
  friend bool operator==(const Region&, const Region&) = default;
};

// `count` runs of `length` bytes each, at equal distances on either side. Borrows the region and the local memory.
struct Run {
  const Region* region = nullptr;
  std::uint64_t offset = 0;  // of the first byte within the region
  std::byte* local = nullptr;
  std::uint64_t length = 0;
  std::uint64_t count = 1;
  std::uint64_t stride = 0;        // bytes from one run's start to the next one's, in the region
  std::uint64_t local_stride = 0;  // likewise in local memory
  Device local_device = {};

  [[nodiscard]] std::uint64_t bytes() const { return length * count; }
};

// kInvalidArgument unless every run lies inside its region. Before any byte moves: offsets come from outside.
Status check_bounds(std::span<const Run> runs);
// kInvalidArgument unless every byte of a run that is within bounds lies in one of the extents (by offset, disjoint).
Status check_extents(const Run& run, std::span<const memory::Range> extents);
std::uint64_t bytes_of(std::span<const Run> runs);
// kTorn, with what to do.
Status torn();

enum class Access : std::uint8_t { kRead, kWrite };

// Whoever registered memory, for back ends that serve it to peers. Thread-safe.
class RegionSource {
 public:
  struct Held {
    std::shared_ptr<const void> hold;  // keeps the memory registered
    std::byte* data = nullptr;
    std::uint64_t length = 0;
    Device device;
    std::span<const memory::Range> extents;  // what of the region was registered: by offset, disjoint; kept by `hold`
    const std::atomic<std::uint64_t>* writes = nullptr;  // memory::PublicationSlot::writes
  };
  // kStale when the registration was undone; kInvalidArgument when it was never granted to the agent of that id.
  virtual Result<Held> hold(memory::PublicationId id, Access access, std::string_view agent_id) = 0;

 protected:
  ~RegionSource() = default;
};

// Of events that others read of while they happen.
using SharedCount = std::shared_ptr<std::atomic<std::uint64_t>>;

// The owner's side of a back end whose peers need more than what a descriptor holds. What it gives out travels over the
// agents' own connections, or in references that were registered for the path: nobody else learns of it. Thread-safe.
class Exporter {
 public:
  virtual ~Exporter() = default;
  // By what peers find it. Opaque bytes.
  virtual Result<Bytes> contact() = 0;
  // By what peers reach that memory, which stays where it is until withdraw().
  virtual Result<Bytes> key(memory::PublicationId id, const RegionSource::Held& held, Access access) = 0;
  // Nobody reaches it any more once this returns. Also of ids of which no key was asked for.
  virtual void withdraw(memory::PublicationId id) = 0;
  // Whether memory of this process could be exported, before it is registered: kUnsupported, with what to do, if not.
  virtual Status check(const std::byte* /*data*/, std::uint64_t /*length*/, const Device& /*device*/) {
    return Status::ok();
  }
  // What a stream of the device holds by now is done before peers that ask from now on read; does not wait for it.
  // `stream` is the device API's own handle, 0 the one that is used where none is named.
  virtual Status announce(const Device& /*device*/, std::uintptr_t /*stream*/) { return Status::ok(); }
  // Where those are counted whom it turns away. Before anybody asks for a contact.
  virtual void count_refusals_in(SharedCount /*refused*/) {}
};

// The way to ask a peer's exporters. Each answer is asked for once. Thread-safe.
class OwnerLine {
 public:
  virtual Result<Bytes> contact(std::string_view path, const os::Wait& wait) = 0;
  // kStale when the registration was undone; kInvalidArgument when writing was not granted.
  virtual Result<Bytes> key(std::string_view path, const Region& region, Access access, const os::Wait& wait) = 0;
  // memory::PublicationSlot::writes, as it is now.
  virtual Result<std::uint64_t> writes(const Region& region, const os::Wait& wait) = 0;
  // Has the path's exporter announce what the region's device is to do by now, by the stream that it uses by default.
  // kStale when the registration was undone.
  virtual Status announce(std::string_view /*path*/, const Region& /*region*/, const os::Wait& /*wait*/) {
    return Status::ok();
  }

 protected:
  ~OwnerLine() = default;
};

// What a back end can do, whoever the peer is.
struct Capabilities {
  static constexpr std::uint64_t kHostMemory = std::uint64_t{1} << 1;
  bool same_host_only = false;
  bool arena_only = false;  // reaches registered memory only where it lies in the owner's arena
  bool maps = false;        // gives access without a copy
  bool writes = false;
  bool named_only = false;  // taken only by callers who name it
  bool of_devices = false;  // one side of a transfer is memory of a device; what is written to always is
  std::uint64_t device_types = kHostMemory;  // of memory on either side: bit n for DLPack's device type n
  double expected_gbps = 0;                  // 10^9 bytes per second, of a large transfer, while nothing was measured

  [[nodiscard]] bool serves(const Device& device) const {
    return device.type >= 0 && device.type < 64 && (device_types >> device.type & 1) != 0;
  }
  // Of one read where a transfer is made in several, each waited for: enough to keep the path busy, little enough to
  // stay in a cache.
  std::uint64_t slice_bytes = std::uint64_t{1} << 20;
};

// What a back end may need to reach an agent. Paths that share memory are proven, not claimed: `arena` came as
// descriptors over a unix socket.
struct PeerFacts {
  std::string name = {};     // for messages
  std::string self_id = {};  // of the agent that asks
  std::string peer_id = {};
  pid_t pid = 0;  // 0: on another host
  std::shared_ptr<memory::PeerArena> arena = {};
  std::vector<os::TcpAddress> tcp = {};
  std::string token = {};
  std::string certificate = {};  // fingerprint of what it shows at its TCP addresses; empty: it speaks no TLS there
  std::shared_ptr<const os::Tls> tls = {};  // of the agent that asks; null: it has none, and plain connections will do
  OwnerLine* owner = nullptr;               // outlives what is connected

  [[nodiscard]] bool same_host() const { return arena != nullptr; }
};

// Bytes of a peer where this process reaches them: valid as long as `hold`.
struct MappedBytes {
  std::shared_ptr<void> hold;
  std::byte* data = nullptr;
  Device device;  // as this process numbers it
};

// kOk where the region lies in the peer's arena; else the reason, and what would help.
Status check_in_arena(const PeerFacts& peer, const Region& region);

// One peer by one back end. Thread-safe.
class Endpoint {
 public:
  virtual ~Endpoint() = default;
  // Fills local memory. The runs are all of one region, within bounds, and leased where the peer is on this host. kTorn
  // where the back end itself finds that the owner wrote meanwhile. When it returns, with
  // whatever outcome, nothing writes to local memory any more; after a failure its content is undefined.
  virtual Status read(std::span<const Run> runs, const os::Wait& wait) = 0;
  // The region's bytes, where Capabilities::maps, as the host's memory; else null. Valid as long as the endpoint; worth
  // reading while leased.
  [[nodiscard]] virtual const std::byte* view(const Region& /*region*/) const { return nullptr; }
  // Fills the peer's memory, where Capabilities::writes. After a failure the content there is undefined.
  virtual Status write(std::span<const Run> runs, const os::Wait& wait) = 0;
  // Until nothing that writes asked for which have failed reaches the peer's memory any more. kPeerLost: it has ended.
  virtual Status quiet(const os::Wait& /*wait*/) { return Status::ok(); }
  // Bytes of a region of device memory without a copy, once what their owner is to do with them is done.
  virtual Result<MappedBytes> map(const Region& /*region*/, std::uint64_t /*offset*/, std::uint64_t /*length*/,
                                  const os::Wait& /*wait*/) {
    return Status(Code::kUnsupported, "it does not map memory of devices");
  }
  // A device of the peer's as this process numbers it. kUnsupported where this process does not see it.
  virtual Result<Device> here(const Device& theirs, const os::Wait& /*wait*/) { return theirs; }
};

// A back end, as one agent has it. Thread-safe.
class Transport {
 public:
  virtual ~Transport() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  [[nodiscard]] virtual const Capabilities& capabilities() const = 0;
  // kOk if the peer's region can be reached; else the reason, and what would help. Moves no byte.
  [[nodiscard]] virtual Status reaches(const PeerFacts& peer, const Region& region) const = 0;
  virtual Result<std::unique_ptr<Endpoint>> connect(const PeerFacts& peer, const os::Wait& wait) const = 0;
  // Null where peers need nothing of the owner's side.
  [[nodiscard]] virtual Exporter* exporter() const { return nullptr; }
  // Until what a stream of a device of this process holds is done, where the back end serves the device: before its
  // memory is read or filled. `stream` as for Exporter::announce().
  virtual Status settle(const Device& /*device*/, std::uintptr_t /*stream*/, const os::Wait& /*wait*/) const {
    return Status::ok();
  }
  // How many copies between devices took a way through the host's memory, for want of a direct one.
  [[nodiscard]] virtual std::uint64_t copies_through_host() const { return 0; }
};
using Transports = std::vector<std::unique_ptr<const Transport>>;

}  // namespace beeline::transport
