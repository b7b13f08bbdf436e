#include "beeline/transfer/spans.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <utility>

#include "beeline/transfer/agent_file.h"
#include "beeline/transfer/counters.h"

namespace beeline::transfer {
namespace {

static_assert(kMaxCounterRows <= 1u << 16, "a slot has 16 bits for a row");

constexpr std::uint8_t kCodes = static_cast<std::uint8_t>(Code::kTorn) + 1;

Status bad_spans(const std::string& what) {
  return {Code::kCorrupt, "no spans of an agent: " + what};
}

// Which span of its ring a slot holds; none while it is written, or before.
struct Holding {
  bool any = false;
  std::uint64_t number = 0;
};
Holding holding(std::uint64_t sequence) {
  return sequence == 0 || sequence % 2 != 0 ? Holding{} : Holding{true, sequence / 2 - 1};
}

BytesView slot_of(BytesView file, std::size_t ring, std::size_t slot) {
  return file.subspan(sizeof(SpansHeader) + (ring * kSpansOfRing + slot) * sizeof(SpanSlot), sizeof(SpanSlot));
}

Status read_span(BytesView slot, SpansReading& reading) {
  Reader reader(slot);
  reader.read<std::uint64_t>();
  SpansReading::Span span;
  span.begin_ns = reader.read<std::int64_t>();
  span.nanoseconds = reader.read<std::uint64_t>();
  span.bytes = reader.read<std::uint64_t>();
  span.thread = reader.read<std::uint32_t>();
  span.row = reader.read<std::uint16_t>();
  const auto operation = reader.read<std::uint8_t>();
  const auto outcome = reader.read<std::uint8_t>();
  if (operation >= kOperations || outcome >= kCodes || span.row >= kMaxCounterRows) {
    return bad_spans("a span of operation " + std::to_string(operation) + ", outcome " + std::to_string(outcome) +
                     ", row " + std::to_string(span.row));
  }
  span.operation = static_cast<Operation>(operation);
  span.outcome = static_cast<Code>(outcome);
  // Others leave what the slot's last publication was called.
  if (span.operation == Operation::kPublish) span.name = field_text(reader.read_bytes(kSpanNameBytes));
  reading.spans.push_back(std::move(span));
  return Status::ok();
}

}  // namespace

Result<std::unique_ptr<Spans>> Spans::create(std::string path, std::string_view id) {
  BEELINE_ASSIGN(auto fd, create_agent_file(path));
  std::unique_ptr<Spans> spans(new Spans());
  spans->fd_ = std::move(fd);
  spans->path_ = std::move(path);
  const Status status = [&]() -> Status {
    // Blocks are taken now: a full disk is an error here, and no signal at a store.
    const int error = ::posix_fallocate(spans->fd_.get(), 0, sizeof(SpansFile));
    if (error != 0) return Status::from_errno("reserve space for spans", error);
    BEELINE_ASSIGN(spans->mapping_, os::Mapping::map(spans->fd_.get(), 0, sizeof(SpansFile), os::Access::kReadWrite,
                                                     os::Sharing::kShared));
    return Status::ok();
  }();
  if (!status) {
    spans->remove();
    return status;
  }
  SpansHeader& header = spans->file().header;
  header.version = kSpansVersion;
  header.slot_bytes = sizeof(SpanSlot);
  header.slots_of_ring = kSpansOfRing;
  header.pid = ::getpid();
  header.long_ns = static_cast<std::uint64_t>(kLongSpan.count());
  write_field(header.id, id);
  header.magic = kSpansMagic;
  return spans;
}

void Spans::remove() {
  if (path_.empty()) return;
  ::unlink(path_.c_str());
  path_.clear();
}

void Spans::write_name(SpanSlot& slot, std::string_view name) {
  char text[kSpanNameBytes] = {};
  write_field(text, name);
  for (std::size_t i = 0; i < std::size(slot.name); ++i) {
    std::uint64_t part = 0;
    std::memcpy(&part, text + i * sizeof part, sizeof part);
    slot.name[i].store(part, std::memory_order_release);
  }
}

Result<SpansReading> decode_spans(BytesView first, BytesView file, BytesView last) {
  for (const BytesView copy : {first, file, last}) {
    if (copy.size() < sizeof(SpansFile)) {
      return bad_spans("it has " + std::to_string(copy.size()) + " bytes of " + std::to_string(sizeof(SpansFile)));
    }
  }
  Reader reader(last);
  if (reader.read<std::uint64_t>() != kSpansMagic) return bad_spans("it does not begin with \"BELspan1\"");
  const auto version = reader.read<std::uint32_t>();
  if (version != kSpansVersion) {
    return bad_spans("it is of version " + std::to_string(version) + ", this release reads version " +
                     std::to_string(kSpansVersion) + ": read it by the release that the agent runs");
  }
  const auto slot_bytes = reader.read<std::uint32_t>();
  const auto slots = reader.read<std::uint32_t>();
  SpansReading reading;
  reading.pid = reader.read<std::int32_t>();
  reader.read<std::uint64_t>();
  reading.id = field_text(reader.read_bytes(sizeof(SpansHeader::id)));
  if (slot_bytes != sizeof(SpanSlot) || slots != kSpansOfRing || reading.pid <= 0) {
    return bad_spans("rings of " + std::to_string(slots) + " slots, " + std::to_string(slot_bytes) +
                     " bytes each, of process " + std::to_string(reading.pid));
  }
  for (std::size_t ring = 0; ring < kSpanRings; ++ring) {
    Reader state(reader.read_bytes(sizeof(SpanRing)));
    const auto next = state.read<std::uint64_t>();
    const auto dropped = state.read<std::uint64_t>();
    const std::uint64_t kept = std::min<std::uint64_t>(next, kSpansOfRing);
    std::uint64_t found = 0;
    for (std::size_t i = 0; i < kSpansOfRing; ++i) {
      const BytesView slot = slot_of(file, ring, i);
      const auto before = Reader(slot_of(first, ring, i)).read<std::uint64_t>();
      const auto after = Reader(slot_of(last, ring, i)).read<std::uint64_t>();
      const Holding held = holding(after);
      if (held.any && held.number % kSpansOfRing != i) return bad_spans("span " + std::to_string(held.number));
      if (!held.any || before != after) continue;
      ++found;
      BEELINE_RETURN_IF_ERROR(read_span(slot, reading));
    }
    reading.recorded += next;
    reading.overwritten += next - kept;
    reading.dropped += dropped;
    // What was dropped has left an older one in its slot, or somebody who is still at it.
    reading.changing += kept - std::min(kept, found);
  }
  std::ranges::sort(reading.spans, {}, [](const auto& span) { return std::pair(span.begin_ns, span.nanoseconds); });
  return reading;
}

Result<SpansReading> read_spans(const std::string& path) {
  BEELINE_ASSIGN(const auto fd, open_agent_file(path));
  std::array<Bytes, 3> copies;
  // One call after the other, and each begins at the front: the order that decode_spans() asks for.
  for (Bytes& copy : copies) {
    BEELINE_RETURN_IF_ERROR(append_from(fd.get(), 0, sizeof(SpansFile), copy).with_context(path));
  }
  auto reading = decode_spans(copies[0], copies[1], copies[2]);
  if (!reading) return reading.status().with_context(path);
  return reading;
}

}  // namespace beeline::transfer
