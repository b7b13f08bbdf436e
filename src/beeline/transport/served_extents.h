// Registered memory that an owner's side serves by requests: extents by ids that nobody can guess, and the runs of a
// request, checked before memory is touched.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "beeline/os/fork_count.h"
#include "beeline/transport/exposures.h"
#include "beeline/transport/transport.h"

namespace beeline::transport {

// A run as requests have it.
struct RunRecord {
  std::uint64_t extent = 0;  // as the owner's key() named it
  std::uint64_t offset = 0;  // in the extent
  std::uint64_t length = 0;
  std::uint64_t count = 1;
  std::uint64_t stride = 0;
};
static_assert(sizeof(RunRecord) == 40 && std::is_trivially_copyable_v<RunRecord>);

// The reader's side: the id of an extent, of a key that check_extent_key() has found in order.
Status check_extent_key(const ExtentKey& extent);
std::uint64_t extent_id(const ExtentKey& extent);

// Thread-safe.
class ServedExtents {
 private:
  struct Extent {
    std::byte* data = nullptr;
    std::uint64_t length = 0;
    Device device;
    Access access = Access::kRead;
    std::atomic<bool> is_withdrawn{false};
    std::size_t holds = 0;  // needs mutex_
  };

 public:
  // Extents that are being read or filled: they are withdrawn once this has ended.
  class Hold {
   public:
    Hold() = default;
    Hold(Hold&& other) noexcept
        : owner_(std::exchange(other.owner_, nullptr)), extents_(std::exchange(other.extents_, {})) {}
    Hold& operator=(Hold&& other) noexcept;
    ~Hold() { let_go(); }

    // Of the request's run of that number.
    [[nodiscard]] std::byte* data(std::size_t run) const { return extents_[run]->data; }
    [[nodiscard]] const Device& device(std::size_t run) const { return extents_[run]->device; }
    // Somebody waits for it to end, for a registration was undone. Acquire: pairs with the release in forget().
    [[nodiscard]] bool is_withdrawn() const;

   private:
    friend class ServedExtents;
    void let_go();
    ServedExtents* owner_ = nullptr;
    std::vector<Extent*> extents_;
  };

  // As Exporter::key() has it.
  Result<Bytes> key(memory::PublicationId id, const RegionSource::Held& held, Access access);
  // What is held is waited for.
  void withdraw(memory::PublicationId id) { exposures_.withdraw(id); }

  // The extents of the runs: kStale where one was withdrawn, kInvalidArgument where one is not for that, where a run
  // leaves its extent, and where they have more bytes than `max_bytes`.
  Result<Hold> hold(std::span<const RunRecord> runs, Access access, std::uint64_t max_bytes);

 private:
  void forget(std::uint64_t extent);

  const std::uint64_t fork_count_ = os::fork_count();
  std::mutex mutex_;
  std::condition_variable let_go_;
  std::map<std::uint64_t, Extent> extents_;  // needs mutex_
  Exposures exposures_;                      // the last: its end withdraws extents
};

}  // namespace beeline::transport
