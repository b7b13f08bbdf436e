// A reader's end of NIXL for one peer: an engine that knows some of the peer's memory, and staging memory that every
// transfer goes through.
//
// NIXL cannot take back a transfer: what was posted moves on after a deadline, a cancellation, and even after its
// request was released. Bytes therefore arrive in memory of the session's own, and are copied from there by the thread
// that waits for them: whatever moves later moves there. It costs a copy that finds its bytes in a cache, and saves
// registering the caller's memory.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "beeline/os/wait.h"
#include "beeline/transport/nixl/engine.h"

namespace beeline::transport::nixl {

// As Run, by addresses.
struct Strip {
  std::byte* local = nullptr;
  std::uint64_t remote = 0;
  std::uint64_t length = 0;
  std::uint64_t count = 1;
  std::uint64_t local_stride = 0;
  std::uint64_t stride = 0;
};

// Memory of the peer, and the metadata by which it is reached. Borrows them.
struct Extent {
  std::uint64_t address = 0;
  std::uint64_t length = 0;
  BytesView metadata;
};

// Thread-safe.
class Session {
 public:
  static Result<std::shared_ptr<Session>> open(const capi::Functions& functions, NixlOptions::Reach reach,
                                               const Contact& contact);
  // Nothing moves from its end on.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Makes the extents reachable. False where one overlaps what was loaded with other bounds or other metadata, which
  // NIXL would mistake for it, or where too many are loaded: they are for another session.
  Result<bool> load(std::span<const Extent> extents);

  // Moves all strips. What is under way when it fails touches nothing of the caller's; `hold` is kept until it is
  // quiet.
  Status transfer(capi::Operation operation, std::span<const Strip> strips, const os::Wait& wait,
                  std::shared_ptr<const void> hold);

  // NIXL has failed in it: what is to be moved next is for another session.
  [[nodiscard]] bool is_broken() const;

 private:
  // What a transfer has under way at once.
  static constexpr std::size_t kSlots = 4;
  static constexpr std::uint64_t kSlotBytes = std::uint64_t{512} << 10;
  static constexpr std::size_t kMaxPairs = 4096;  // of one request
  static constexpr std::size_t kMaxLanes = 32;    // transfers at a time, with those that were given up
  static constexpr std::size_t kMaxLoaded = std::size_t{1} << 16;

  // Some bytes of the caller's, in the order in which they lie in staging memory.
  struct Piece {
    std::byte* local = nullptr;
    std::uint64_t length = 0;
  };
  // One request.
  struct Slot {
    Engine::Request request;
    std::vector<Pair> pairs;
    std::vector<Piece> pieces;
  };
  struct Unmap {
    void operator()(std::byte* memory) const;
  };
  // What one transfer at a time uses.
  struct Lane {
    std::unique_ptr<std::byte, Unmap> staging;
    std::array<Slot, kSlots> slots;
    std::shared_ptr<const void> hold;  // of a transfer that was given up
  };
  class Cursor;

  Session(std::unique_ptr<Engine> engine, std::string peer) : engine_(std::move(engine)), peer_(std::move(peer)) {}
  Result<std::unique_ptr<Lane>> take_lane();
  void give_back(std::unique_ptr<Lane> lane, std::shared_ptr<const void> hold);
  Status run(Lane& lane, capi::Operation operation, std::span<const Strip> strips, const os::Wait& wait);
  Status finish(Engine::Request& request, const os::Wait& wait);
  Status broken(Status status);
  bool is_quiet(Lane& lane);  // needs mutex_
  void watch_given_up();

  const std::uint64_t fork_count_ = os::fork_count();
  mutable std::mutex mutex_;                                         // before the engine's
  std::map<std::uint64_t, std::pair<std::uint64_t, Bytes>> loaded_;  // needs mutex_; by address: end, metadata
  std::vector<std::unique_ptr<Lane>> idle_;                          // needs mutex_
  std::vector<std::unique_ptr<Lane>> given_up_;                      // needs mutex_; bytes may move there yet
  std::size_t lanes_ = 0;                                            // needs mutex_
  bool is_broken_ = false;                                           // needs mutex_
  bool is_ending_ = false;                                           // needs mutex_
  std::condition_variable changed_;
  std::thread watcher_;  // needs mutex_ until it runs; of what was given up
  std::unique_ptr<Engine> engine_;
  const std::string peer_;
};

}  // namespace beeline::transport::nixl
