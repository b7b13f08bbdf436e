#include "beeline/store/payload.h"

namespace beeline::store {
namespace {

enum PayloadFlag : std::uint8_t {
  kHasPlacement = 1,
  kHasFailure = 2,
  kSkeletonInBuffer = 4,
  kDirect = 8,
  kInline = 16,  // with a placement: the buffers are inline all the same
  kByTransport = 32,
  kByProgramTransport = 64,
};

struct PayloadHeader {
  std::uint8_t flags;
  std::uint8_t error_kind;
  std::uint16_t reserved;
  std::uint32_t skeleton_size;
  std::uint32_t buffer_count;
  std::uint32_t ref_count;
};
static_assert(sizeof(PayloadHeader) == 16);

struct BufferRecord {
  std::uint64_t offset;
  std::uint64_t length_and_writable;  // length << 1 | writable
};
static_assert(sizeof(BufferRecord) == 16);

}  // namespace

std::uint64_t Payload::size_bytes() const {
  std::uint64_t total = skeleton.size();
  for (const auto& buffer : inline_buffers) total += buffer.bytes.size();
  if (placement) {
    for (const auto& buffer : placement->buffers) total += buffer.range.length;
  }
  return total;
}

PayloadPtr make_failure(ErrorKind kind, std::string message, std::uint64_t actor, std::string name) {
  auto payload = std::make_shared<Payload>();
  payload->failure = std::make_unique<Failure>(Failure{kind, std::move(message), actor, std::move(name)});
  return payload;
}

void encode_payload(const Payload& payload, Writer& out) {
  PayloadHeader header{};
  header.skeleton_size = static_cast<std::uint32_t>(payload.skeleton.size());
  header.ref_count = static_cast<std::uint32_t>(payload.refs.size());
  if (payload.skeleton_in_buffer) header.flags |= kSkeletonInBuffer;
  if (payload.placement) {
    header.flags |= kHasPlacement;
    if (payload.placement->direct) header.flags |= kDirect;
    if (payload.placement->way == Way::kTransport) header.flags |= kByTransport;
    if (payload.placement->way == Way::kProgramTransport) header.flags |= kByProgramTransport;
    if (payload.is_inline()) header.flags |= kInline;
  }
  header.buffer_count = static_cast<std::uint32_t>(payload.is_inline() ? payload.inline_buffers.size()
                                                                       : payload.placement->buffers.size());
  if (payload.failure) {
    header.flags |= kHasFailure;
    header.error_kind = static_cast<std::uint8_t>(payload.failure->kind);
  }
  out.write(header);
  out.append(as_bytes(payload.skeleton));
  if (payload.placement) {
    out.write(payload.placement->holder);
    out.write(payload.placement->publication);
    for (const auto& buffer : payload.placement->buffers) {
      out.write(BufferRecord{buffer.range.offset, buffer.range.length << 1 | (buffer.writable ? 1u : 0u)});
    }
  }
  if (payload.is_inline()) {
    for (const auto& buffer : payload.inline_buffers) {
      out.write(static_cast<std::uint8_t>(buffer.writable));
      out.write_string(buffer.bytes);
    }
  }
  if (payload.failure) {
    out.write_string(payload.failure->message);
    out.write(payload.failure->actor);
    out.write_string(payload.failure->name);
  }
  for (const auto& ref : payload.refs) out.write(ref);
}

Result<std::shared_ptr<Payload>> decode_payload(Reader& in) {
  auto payload = std::make_shared<Payload>();
  const auto header = in.read<PayloadHeader>();
  payload->skeleton = std::string(as_text(in.read_bytes(header.skeleton_size)));
  payload->skeleton_in_buffer = (header.flags & kSkeletonInBuffer) != 0;
  const bool has_placement = (header.flags & kHasPlacement) != 0;
  const bool is_inline = !has_placement || (header.flags & kInline) != 0;
  if (has_placement) {
    payload->placement = std::make_unique<Placement>();
    payload->placement->holder = in.read<ProcessIndex>();
    payload->placement->publication = in.read<memory::PublicationId>();
    payload->placement->direct = (header.flags & kDirect) != 0;
    if ((header.flags & kByTransport) != 0) payload->placement->way = Way::kTransport;
    if ((header.flags & kByProgramTransport) != 0) payload->placement->way = Way::kProgramTransport;
  }
  if (!is_inline) {
    if (header.buffer_count > in.left() / sizeof(BufferRecord)) {
      return Status(Code::kCorrupt, "a payload announces more buffers than its message holds");
    }
    payload->placement->buffers.reserve(header.buffer_count);
    for (std::uint32_t i = 0; i < header.buffer_count; ++i) {
      const auto record = in.read<BufferRecord>();
      payload->placement->buffers.push_back(
          {{record.offset, record.length_and_writable >> 1}, (record.length_and_writable & 1) != 0});
    }
  }
  if (is_inline) {
    // An inline buffer takes at least its flag and its length.
    if (header.buffer_count > in.left() / 5) {
      return Status(Code::kCorrupt, "a payload announces more inline buffers than its message holds");
    }
    for (std::uint32_t i = 0; i < header.buffer_count; ++i) {
      const bool writable = in.read<std::uint8_t>() != 0;
      payload->inline_buffers.push_back({in.read_string(), writable});
    }
  }
  if ((header.flags & kHasFailure) != 0) {
    payload->failure = std::make_unique<Failure>();
    payload->failure->kind = static_cast<ErrorKind>(header.error_kind);
    payload->failure->message = in.read_string();
    payload->failure->actor = in.read<std::uint64_t>();
    payload->failure->name = in.read_string();
  }
  if (header.ref_count > in.left() / sizeof(ObjectId)) {
    return Status(Code::kCorrupt, "a payload announces more references than its message holds");
  }
  for (std::uint32_t i = 0; i < header.ref_count; ++i) payload->refs.push_back(in.read<ObjectId>());
  if (!in.ok()) return Status(Code::kCorrupt, "a payload ends early");
  if (payload->skeleton_in_buffer && (!payload->placement || payload->placement->buffers.empty())) {
    return Status(Code::kCorrupt, "a payload's skeleton lies in a buffer that it does not have");
  }
  return payload;
}

}  // namespace beeline::store
