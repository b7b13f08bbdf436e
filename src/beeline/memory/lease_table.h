// The shared table of an arena's publications and of who holds them: the content of its control memfd.
// docs/memory.md is the format's description; offsets and generations only, no pointers.
//
// Each process that consumes owns one bit in every bitmap, so that the table survives any process's death:
// the producer clears a dead holder's bits. All operations are seq_cst, because the two protocols that run on
// it are Dekker's: (a) a consumer sets its bit, then reads the state; the producer sets the state to retired,
// then reads the bits; (b) a consumer clears its bit, then reads the state; the producer as in (a).
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "beeline/memory/region.h"

namespace beeline::memory {

inline constexpr std::uint64_t kControlMagic = 0x314C52544E4C4542;  // "BELNTRL1", little-endian
inline constexpr std::uint32_t kControlVersion = 1;
inline constexpr std::uint32_t kMaxHolders = 4096;
inline constexpr std::uint32_t kMaxPublications = 65536;

// kMovedOut: the bytes lie elsewhere, whoever offers them says where. Of values of a session alone.
enum class SlotState : std::uint32_t { kFree = 0, kPublished = 1, kRetired = 2, kMovedOut = 3 };

// One bit per holder. Thread-safe and process-safe.
struct HolderBitmap {
  std::atomic<std::uint64_t> words[kMaxHolders / 64];

  // Both return whether the bit was set before.
  bool set(std::uint32_t holder) { return (words[holder / 64].fetch_or(bit(holder)) & bit(holder)) != 0; }
  bool clear(std::uint32_t holder) { return (words[holder / 64].fetch_and(~bit(holder)) & bit(holder)) != 0; }
  [[nodiscard]] bool has(std::uint32_t holder) const { return (words[holder / 64].load() & bit(holder)) != 0; }
  // Looks only at the first `holders` bits, the highest index ever given out.
  [[nodiscard]] std::uint32_t count(std::uint32_t holders) const {
    std::uint32_t total = 0;
    for (std::uint32_t i = 0; i < (holders + 63) / 64; ++i) {
      total += static_cast<std::uint32_t>(std::popcount(words[i].load()));
    }
    return total;
  }

 private:
  static constexpr std::uint64_t bit(std::uint32_t holder) { return std::uint64_t{1} << (holder % 64); }
};

struct PublicationSlot {
  std::atomic<std::uint64_t> state;    // generation << 32 | SlotState
  std::atomic<std::uint64_t> mutated;  // the generation whose bytes its producer wrote while others read; no new leases
  // How often the producer has written the bytes in place << 16 | how many of its writes go on.
  std::atomic<std::uint64_t> writes;
  // The generation whose bytes in the arena are no more what its owner has: it has forked since, and what either side
  // of a fork() writes shows there alone.
  std::atomic<std::uint64_t> detached;
  std::uint64_t reserved[4];
  HolderBitmap held;     // has a lease whose pages are not clean yet
  HolderBitmap reading;  // may still read the producer's bytes

  static constexpr std::uint64_t kOneWrite = std::uint64_t{1} << 16;
  static constexpr bool is_being_written(std::uint64_t writes) { return writes % kOneWrite != 0; }
  static constexpr std::uint64_t pack(std::uint32_t generation, SlotState state) {
    return std::uint64_t{generation} << 32 | static_cast<std::uint32_t>(state);
  }
};

struct ControlHeader {
  std::uint64_t magic;
  std::uint32_t version;
  std::uint32_t publications;  // slots in the table
  std::uint32_t holders;       // bits in a bitmap
  std::int32_t producer_pid;
  std::uint64_t capacity_bytes;  // of the data file
  std::uint64_t reserved[4];
  std::atomic<std::int32_t> holder_pids[kMaxHolders];  // 0 where the index is free; for people, not for decisions
};

struct ControlTable {
  ControlHeader header;
  PublicationSlot slots[kMaxPublications];
};

static_assert(std::atomic<std::uint64_t>::is_always_lock_free && std::atomic<std::int32_t>::is_always_lock_free);
static_assert(std::is_standard_layout_v<ControlTable>);
static_assert(sizeof(HolderBitmap) == 512);
static_assert(offsetof(PublicationSlot, writes) == 16 && offsetof(PublicationSlot, held) == 64 &&
              offsetof(PublicationSlot, reading) == 576);
static_assert(sizeof(PublicationSlot) == 1088);
static_assert(offsetof(ControlHeader, publications) == 12 && offsetof(ControlHeader, producer_pid) == 20);
static_assert(offsetof(ControlHeader, capacity_bytes) == 24 && offsetof(ControlHeader, holder_pids) == 64);
static_assert(sizeof(ControlHeader) == 16448 && offsetof(ControlTable, slots) == 16448);
static_assert(sizeof(ControlTable) == 16448 + std::size_t{65536} * 1088);

}  // namespace beeline::memory
