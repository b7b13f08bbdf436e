// A ring of records in shared memory: one producer, one consumer, no locks. claim -> commit on one side,
// peek -> pop on the other; a full ring is a return value. A producer that dies between claim and commit leaves
// nothing visible.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "beeline/base/bytes.h"
#include "beeline/base/status.h"

namespace beeline::ring {

// What lies at the start of the shared memory. The data follows at kRingDataOffset.
struct RingControl {
  static constexpr std::uint64_t kMagic = 0x31676e69724c4542;  // "BELring1"

  std::uint64_t magic;
  std::uint64_t capacity;  // bytes of data, a power of two
  // Position up to which the producer has committed. Release; pairs with the consumer's acquire in peek().
  alignas(64) std::atomic<std::uint64_t> tail;
  // Position up to which the consumer has popped. Release; pairs with the producer's acquire in claim().
  alignas(64) std::atomic<std::uint64_t> head;
  // Set by a producer that found the ring full and wants the doorbell rung when there is room.
  alignas(64) std::atomic<std::uint32_t> producer_waits;
};
static_assert(sizeof(RingControl) == 256 && offsetof(RingControl, tail) == 64 && offsetof(RingControl, head) == 128);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

// Precedes each record; records are padded to 8 bytes.
struct RecordHeader {
  std::uint32_t size;  // of the payload
  std::uint16_t type;  // 0: skip to the end of the ring
  std::uint16_t flags;
};
static_assert(sizeof(RecordHeader) == 8);

inline constexpr std::size_t kRingDataOffset = sizeof(RingControl);
constexpr std::size_t ring_footprint(std::size_t capacity) {
  return kRingDataOffset + capacity;
}
// A record and the skip before it always fit into an empty ring up to this payload.
constexpr std::size_t max_record(std::size_t capacity) {
  return capacity / 2 - sizeof(RecordHeader) - 8;
}

// What both ends know of the memory.
class RingEnd {
 protected:
  // A ring that the other side created; kCorrupt if it is none.
  Status attach_to(std::byte* memory, std::size_t size);

  RingControl* control_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t capacity_ = 0;
};

// The producing end. Thread-compatible: one thread at a time.
class Producer : RingEnd {
 public:
  Producer() = default;
  // `memory` holds ring_footprint(capacity) zeroed bytes; writes the control block.
  static Producer create(std::byte* memory, std::size_t capacity);
  // A ring that the other side created; kCorrupt if it is none.
  static Result<Producer> attach(std::byte* memory, std::size_t size);

  // Room for a payload of `size` bytes (<= max_record), or nothing when the ring is full.
  std::byte* claim(std::size_t size);
  // Makes the claimed record visible.
  void commit(std::uint16_t type, std::uint16_t flags);
  // After claim() failed: asks for the doorbell when room appears. False if there is room by now.
  bool request_space(std::size_t size);
  [[nodiscard]] std::size_t capacity() const { return capacity_; }

 private:
  [[nodiscard]] std::uint64_t space() const;

  std::uint64_t tail_ = 0;
  std::uint64_t known_head_ = 0;
  std::uint64_t claimed_at_ = 0;
  std::uint32_t claimed_size_ = 0;
};

struct Record {
  std::uint16_t type;
  std::uint16_t flags;
  BytesView payload;  // valid until pop()
};

// The consuming end. Thread-compatible.
class Consumer : RingEnd {
 public:
  enum class Peek { kRecord, kEmpty, kCorrupt };

  Consumer() = default;
  static Result<Consumer> attach(std::byte* memory, std::size_t size);

  // The next record. kCorrupt: the producer wrote nonsense; the ring must be abandoned.
  Peek peek(Record& record);
  void pop();
  // Gives popped space back to the producer; true when it asked to be told.
  bool release();

 private:
  std::uint64_t head_ = 0;
  std::uint64_t known_tail_ = 0;
  std::uint64_t next_ = 0;
};

}  // namespace beeline::ring
