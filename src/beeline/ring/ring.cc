#include "beeline/ring/ring.h"

#include <cstring>
#include <new>

namespace beeline::ring {
namespace {

constexpr std::uint64_t padded(std::uint64_t size) {
  return (sizeof(RecordHeader) + size + 7) & ~std::uint64_t{7};
}
constexpr bool is_power_of_two(std::uint64_t value) {
  return value != 0 && (value & (value - 1)) == 0;
}

}  // namespace

Status RingEnd::attach_to(std::byte* memory, std::size_t size) {
  control_ = reinterpret_cast<RingControl*>(memory);
  if (size < kRingDataOffset || control_->magic != RingControl::kMagic || !is_power_of_two(control_->capacity) ||
      ring_footprint(control_->capacity) > size) {
    return {Code::kCorrupt, "shared memory of " + std::to_string(size) + " bytes holds no ring"};
  }
  data_ = memory + kRingDataOffset;
  capacity_ = static_cast<std::size_t>(control_->capacity);
  return Status::ok();
}

Producer Producer::create(std::byte* memory, std::size_t capacity) {
  BEELINE_CHECK(is_power_of_two(capacity), "a ring's capacity is a power of two");
  auto* control = new (memory) RingControl{};
  control->magic = RingControl::kMagic;
  control->capacity = capacity;
  Producer producer;
  producer.control_ = control;
  producer.data_ = memory + kRingDataOffset;
  producer.capacity_ = capacity;
  return producer;
}

Result<Producer> Producer::attach(std::byte* memory, std::size_t size) {
  Producer producer;
  BEELINE_RETURN_IF_ERROR(producer.attach_to(memory, size));
  producer.tail_ = producer.control_->tail.load(std::memory_order_relaxed);
  producer.known_head_ = producer.control_->head.load(std::memory_order_acquire);
  if (producer.tail_ - producer.known_head_ > producer.capacity_ || (producer.tail_ & 7) != 0) {
    return Status(Code::kCorrupt, "a ring whose positions cannot be: " + std::to_string(producer.known_head_) + " to " +
                                      std::to_string(producer.tail_) + " of " + std::to_string(producer.capacity_) +
                                      " bytes");
  }
  return producer;
}

std::uint64_t Producer::space() const {
  return capacity_ - (tail_ - known_head_);
}

std::byte* Producer::claim(std::size_t size) {
  const std::uint64_t needed = padded(size);
  const std::uint64_t at = tail_ & (capacity_ - 1);
  const std::uint64_t to_end = capacity_ - at;
  // A record does not wrap: when it does not fit before the end, the rest is skipped.
  const std::uint64_t total = needed <= to_end ? needed : to_end + needed;
  if (space() < total) {
    known_head_ = control_->head.load(std::memory_order_acquire);
    if (space() < total) return nullptr;
  }
  claimed_at_ = tail_;
  if (needed > to_end) {
    new (data_ + at) RecordHeader{0, 0, 0};
    claimed_at_ += to_end;
  }
  claimed_size_ = static_cast<std::uint32_t>(size);
  return data_ + (claimed_at_ & (capacity_ - 1)) + sizeof(RecordHeader);
}

void Producer::commit(std::uint16_t type, std::uint16_t flags) {
  new (data_ + (claimed_at_ & (capacity_ - 1))) RecordHeader{claimed_size_, type, flags};
  tail_ = claimed_at_ + padded(claimed_size_);
  control_->tail.store(tail_, std::memory_order_release);
}

bool Producer::request_space(std::size_t size) {
  control_->producer_waits.store(1, std::memory_order_seq_cst);
  // seq_cst on both sides: either we see the new head here, or the consumer sees the request in release().
  known_head_ = control_->head.load(std::memory_order_seq_cst);
  const std::uint64_t at = tail_ & (capacity_ - 1);
  const std::uint64_t needed = padded(size);
  const std::uint64_t total = needed <= capacity_ - at ? needed : capacity_ - at + needed;
  if (space() < total) return true;
  control_->producer_waits.store(0, std::memory_order_relaxed);
  return false;
}

Result<Consumer> Consumer::attach(std::byte* memory, std::size_t size) {
  Consumer consumer;
  BEELINE_RETURN_IF_ERROR(consumer.attach_to(memory, size));
  consumer.head_ = consumer.control_->head.load(std::memory_order_relaxed);
  if ((consumer.head_ & 7) != 0) {
    return Status(Code::kCorrupt, "a ring read up to byte " + std::to_string(consumer.head_) + ", within a record");
  }
  consumer.known_tail_ = consumer.head_;
  return consumer;
}

Consumer::Peek Consumer::peek(Record& record) {
  for (;;) {
    if (head_ == known_tail_) {
      known_tail_ = control_->tail.load(std::memory_order_acquire);
      if (head_ == known_tail_) return Peek::kEmpty;
      if (known_tail_ - head_ > capacity_ || (known_tail_ & 7) != 0) return Peek::kCorrupt;
    }
    const std::uint64_t at = head_ & (capacity_ - 1);
    RecordHeader header;
    std::memcpy(&header, data_ + at, sizeof header);
    if (header.type == 0) {
      const std::uint64_t skip = capacity_ - at;
      if (skip > known_tail_ - head_) return Peek::kCorrupt;
      head_ += skip;
      continue;
    }
    const std::uint64_t total = padded(header.size);
    if (total > known_tail_ - head_ || total > capacity_ - at) return Peek::kCorrupt;
    next_ = head_ + total;
    record = {header.type, header.flags, {data_ + at + sizeof(RecordHeader), header.size}};
    return Peek::kRecord;
  }
}

void Consumer::pop() {
  head_ = next_;
}

bool Consumer::release() {
  control_->head.store(head_, std::memory_order_seq_cst);
  if (control_->producer_waits.load(std::memory_order_seq_cst) == 0) [[likely]]
    return false;
  return control_->producer_waits.exchange(0, std::memory_order_seq_cst) != 0;
}

}  // namespace beeline::ring
