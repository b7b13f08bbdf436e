#include "targets.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "beeline/memory/lease_table.h"
#include "beeline/memory/peer_arena.h"
#include "beeline/os/unix_socket.h"
#include "beeline/ring/mailbox.h"
#include "beeline/ring/ring.h"
#include "beeline/runtime/control.h"
#include "beeline/runtime/messages.h"
#include "beeline/runtime/metrics.h"
#include "beeline/store/payload.h"
#include "beeline/transfer/address.h"
#include "beeline/transfer/counters.h"
#include "beeline/transfer/descriptor.h"
#include "beeline/transfer/messages.h"
#include "beeline/transfer/spans.h"
#include "beeline/transport/cuda_ipc/keys.h"
#include "beeline/transport/nccl/messages.h"
#include "beeline/transport/nccl/opening.h"
#include "beeline/transport/nixl/engine.h"
#include "beeline/transport/tcp/opening.h"
#include "beeline/transport/tcp/stream.h"

namespace beeline::fuzz {
namespace {

// Reads every byte, so that a sanitizer sees a view that leaves its memory.
void touch(BytesView bytes) {
  unsigned sum = 0;
  for (const auto byte : bytes) sum += std::to_integer<unsigned>(byte);
  BEELINE_CHECK(sum <= 255 * bytes.size(), "a sum of bytes");
}

template <typename... Messages>
void decode_each(BytesView frame) {
  (static_cast<void>(runtime::control::decode<Messages>(frame)), ...);
}

os::Fd file_of(BytesView bytes, std::size_t size) {
  auto file = os::make_memfd("fuzz", size);
  BEELINE_CHECK(file.is_ok(), "a memfd for a fuzz input");
  auto mapping = os::Mapping::map(file->get(), 0, size, os::Access::kReadWrite, os::Sharing::kShared);
  BEELINE_CHECK(mapping.is_ok(), "its mapping");
  std::copy_n(bytes.begin(), std::min(size, bytes.size()), mapping->data());
  return std::move(*file);
}

}  // namespace

void ring_records(BytesView input) {
  constexpr std::size_t kCapacity = 512;
  Reader reader(input);
  const auto head = reader.read<std::uint16_t>();
  const auto length = reader.read<std::uint16_t>();
  alignas(64) std::array<std::byte, ring::ring_footprint(kCapacity)> memory{};
  ring::Producer::create(memory.data(), kCapacity);
  auto* control = reinterpret_cast<ring::RingControl*>(memory.data());
  control->head.store(head);
  control->tail.store(std::uint64_t{head} + length);
  const auto data = reader.read_bytes(std::min(reader.left(), kCapacity));
  std::copy(data.begin(), data.end(), memory.begin() + ring::kRingDataOffset);
  (void)ring::Producer::attach(memory.data(), memory.size());
  auto consumer = ring::Consumer::attach(memory.data(), memory.size());
  if (!consumer.is_ok()) return;
  ring::Record record{};
  std::size_t records = 0;
  while (consumer->peek(record) == ring::Consumer::Peek::kRecord) {
    touch(record.payload);
    consumer->pop();
    BEELINE_CHECK(++records <= kCapacity / sizeof(ring::RecordHeader), "a ring holds no more records than headers");
  }
}

void payload(BytesView input) {
  Reader reader(input);
  const auto decoded = store::decode_payload(reader);
  if (!decoded.is_ok()) return;
  // What was understood is written as something that is understood in the same way.
  Bytes again;
  Writer writer(again);
  store::encode_payload(*decoded.value(), writer);
  Reader second(again);
  auto twice = store::decode_payload(second);
  BEELINE_CHECK(twice.is_ok() && second.left() == 0, "an encoding of ours decodes");
  Bytes third;
  Writer third_writer(third);
  store::encode_payload(*twice.value(), third_writer);
  BEELINE_CHECK(third == again, "encoding is stable");
}

void control_frame(BytesView input) {
  using namespace runtime::control;
  (void)type_of(input);
  decode_each<Register, Registered, CreateActor, Reply, WatchActor, ActorUpdate, LookupActor, ActorInfo, ListActors,
              NamedActors, KillActor, ActorReady, ActorExited, RequestLease, LeaseGranted, LeaseFailed, ReturnLease,
              AssignActor, AssignLease, GetState, ReportUsage, Usage, State, LogLines, Fork, ForkZygote, Forked,
              ChildExited, CreateGroup, RemoveGroup, WatchGroup, GroupUpdate, GetGroups, Groups, AddNode, NodeAdded,
              RemoveNode, Prestart, EnvironmentMade>(input);
}

void frame_socket(BytesView input) {
  auto ends = os::make_socket_pair();
  BEELINE_CHECK(ends.is_ok(), "a socket pair");
  os::FrameSocket socket(std::move(ends->second));
  // The first byte says in pieces of which size the rest arrives.
  const std::size_t piece = input.empty() ? 1 : std::to_integer<std::size_t>(input[0]) % 64 + 1;
  std::size_t received = 0;
  for (std::size_t at = 1; at < std::min<std::size_t>(input.size(), 16384); at += piece) {
    const auto part = input.subspan(at, std::min(piece, input.size() - at));
    if (::send(ends->first.get(), part.data(), part.size(), MSG_NOSIGNAL) < 0) return;
    os::Frame frame;
    for (;;) {
      auto outcome = socket.receive(frame);
      if (!outcome.is_ok()) return;
      if (*outcome != os::FrameSocket::Receive::kFrame) break;
      received += frame.bytes.size();
      BEELINE_CHECK(received < input.size(), "no more is received than was sent");
    }
  }
}

void hello(BytesView input) {
  Reader reader(input);
  const auto greeting = reader.read<runtime::Hello>();
  const auto rest = reader.read_bytes(reader.left());
  (void)ring::Doorbell::attach(file_of(rest, sizeof(ring::MailboxPage)), greeting.channel);
  // The control file of an arena that lies about itself: nonsense, or only its capacity.
  auto control = file_of(rest, sizeof(memory::ControlTable));
  auto mapping =
      os::Mapping::map(control.get(), 0, sizeof(memory::ControlHeader), os::Access::kReadWrite, os::Sharing::kShared);
  BEELINE_CHECK(mapping.is_ok(), "a mapping of the control file");
  if ((greeting.reserved & 1) != 0) {
    auto& header = *reinterpret_cast<memory::ControlHeader*>(mapping->data());
    header.magic = memory::kControlMagic;
    header.version = memory::kControlVersion;
    header.holders = memory::kMaxHolders;
    header.publications = memory::kMaxPublications;
  }
  auto arena = memory::PeerArena::attach(file_of({}, 1 << 16), std::move(control), greeting.holder);
  if (!arena.is_ok()) return;
  const memory::Range range{static_cast<std::uint64_t>(greeting.pid), greeting.channel};
  (void)(*arena)->acquire({greeting.process % memory::kMaxPublications, greeting.channel}, {&range, 1});
}

namespace {

void check_descriptor(const Result<transfer::Descriptor>& decoded) {
  if (!decoded.is_ok()) return;
  for (std::size_t i = 0; i < decoded->places.size(); ++i) {
    const auto& spec = decoded->spec(i);
    const auto extent = transfer::extent_of(spec);
    const auto& place = decoded->places[i];
    BEELINE_CHECK(spec.elements() == 0 ||
                      (static_cast<std::uint64_t>(-extent.first) <= place.offset &&
                       place.offset + static_cast<std::uint64_t>(extent.end) <= decoded->regions[place.region].length),
                  "a tensor lies inside its region");
  }
  const auto again = transfer::Descriptor::decode(decoded->encode());
  BEELINE_CHECK(again.is_ok() && again->places == decoded->places && again->regions == decoded->regions &&
                    again->schema->tensors.size() == decoded->schema->tensors.size(),
                "an encoding of ours decodes to the same");
  if (!decoded->names.empty()) return;  // those that are no UTF-8 lose what is none, and may be the same then
  const auto from_json = transfer::Descriptor::from_json(decoded->to_json());
  BEELINE_CHECK(from_json.is_ok() && from_json->places == decoded->places && from_json->regions == decoded->regions,
                "our JSON decodes to the same");
}

}  // namespace

void descriptor(BytesView input) {
  check_descriptor(transfer::Descriptor::decode(input));
}

void descriptor_json(BytesView input) {
  check_descriptor(transfer::Descriptor::from_json(as_text(input)));
}

void agent(BytesView input) {
  namespace messages = transfer::messages;
  (void)messages::decode<messages::Hello>(messages::Type::kHello, input);
  (void)messages::decode<messages::Welcome>(messages::Type::kWelcome, input);
  (void)messages::decode<messages::Refused>(messages::Type::kRefused, input);
  (void)messages::decode<messages::Returned>(messages::Type::kReturned, input);
  (void)messages::decode<messages::Seek>(messages::Type::kSeek, input);
  (void)messages::decode<messages::Parent>(messages::Type::kParent, input);
  (void)messages::decode<messages::Offer>(messages::Type::kOffer, input);
  (void)messages::decode<messages::Recall>(messages::Type::kRecall, input);
  (void)messages::decode<messages::Notify>(messages::Type::kNotify, input);
  (void)messages::decode<messages::Written>(messages::Type::kWritten, input);
  (void)messages::decode<messages::Ask>(messages::Type::kAsk, input);
  (void)messages::decode<messages::Answer>(messages::Type::kAnswer, input);
  for (const auto type : {messages::Type::kSubscribe, messages::Type::kUnsubscribe, messages::Type::kWithdrawn}) {
    (void)messages::decode<messages::Topic>(type, input);
  }
  if (const auto published = messages::decode<messages::Published>(messages::Type::kPublished, input)) {
    check_descriptor(transfer::Descriptor::decode(published->tensors));
  }
  const auto address = transfer::Address::parse(std::string(as_text(input)));
  if (!address.is_ok()) return;
  const auto again = transfer::Address::parse(address->text());
  BEELINE_CHECK(again.is_ok() && *again == *address, "a text of ours is read as it was");
}

void counters(BytesView input) {
  const auto reading = transfer::decode_counters(input);
  if (!reading.is_ok()) return;
  BEELINE_CHECK(
      sizeof(transfer::CountersHeader) + (reading->rows.size() + 1) * sizeof(transfer::CounterRow) <= input.size(),
      "rows lie in the file");
  for (const auto& row : reading->rows) {
    BEELINE_CHECK(static_cast<std::size_t>(row.operation) < transfer::kCountedOperations &&
                      row.size_class < transfer::kSizeClasses && row.path.size() <= sizeof(transfer::CounterRow::path),
                  "a row is of a kind that there is");
  }
}

void metrics(BytesView input) {
  const auto reading = runtime::decode_metrics(input);
  if (!reading.is_ok()) return;
  for (const auto& series : reading->series) {
    const bool is_histogram = series.kind == runtime::MetricKind::kHistogram;
    BEELINE_CHECK(series.counts.size() == (is_histogram ? series.bounds.size() + 1 : 0),
                  "a histogram has a counter for each bound, and one more");
  }
}

namespace {

const os::Wait kPatience(Deadline::after(std::chrono::hours(24)));

// A peer that says so much, and no more; and the stream on which it does.
struct Hostile {
  explicit Hostile(BytesView input) {
    auto sockets = os::make_socket_pair();
    BEELINE_CHECK(sockets.is_ok(), "a pair of sockets");
    own = os::plain_stream(std::move(sockets->first));
    other = os::plain_stream(std::move(sockets->second));
    const BytesView said = input.first(std::min<std::size_t>(input.size(), 4096));
    std::vector<iovec> pieces{{const_cast<std::byte*>(said.data()), said.size()}};
    BEELINE_CHECK(send_all(*own, pieces, kPatience).is_ok(), "a socket takes a few bytes");
    ::shutdown(own->fd(), SHUT_WR);
  }
  std::unique_ptr<os::ByteStream> own, other;
};

}  // namespace

void opening(BytesView input) {
  namespace tcp = transport::tcp;
  for (const bool is_to_listener : {true, false}) {
    const Hostile hostile(input);
    os::ByteStream& stream = *hostile.other;
    const Status status =
        is_to_listener ? tcp::admit_connection(stream, "listener", "token", kPatience).status()
                       : tcp::open_connection(stream, tcp::Purpose::kStream, "caller", "listener", "token", kPatience);
    BEELINE_CHECK(!status.is_ok(), "bytes that know no token open nothing");
  }
}

void keys(BytesView input) {
  namespace cuda_ipc = transport::cuda_ipc;
  namespace nixl = transport::nixl;
  (void)unpack<cuda_ipc::Contact>(input, "a contact");
  if (const auto key = unpack<cuda_ipc::MemoryKey>(input, "a key")) {
    (void)cuda_ipc::plain_of<os::cuda::IpcHandle>(key->memory, "a handle");
  }
  (void)unpack<nixl::Contact>(input, "a contact");
  (void)unpack<nixl::ExtentContact>(input, "a key");
}

void nccl(BytesView input) {
  namespace nccl = transport::nccl;
  std::vector<transport::RunRecord> runs;
  if (nccl::decode_request(input, runs)) {
    BEELINE_CHECK(!runs.empty() && runs.size() * sizeof runs.front() < input.size(), "runs lie in their frame");
  }
  (void)nccl::decode_reply(input);
  (void)unpack<nccl::Contact>(input, "a contact");
  const Bytes secret(nccl::kSecretBytes, std::byte{1});
  for (const bool is_to_owner : {true, false}) {
    const Hostile hostile(input);
    const Status status = is_to_owner ? nccl::admit_connection(*hostile.other, secret, kPatience)
                                      : nccl::open_connection(*hostile.other, secret, kPatience);
    BEELINE_CHECK(!status.is_ok(), "bytes that know no secret open nothing");
  }
}

void spans(BytesView input) {
  // A file is larger than what a fuzzer makes: its front, and what it says of slots here and there.
  Reader reader(input);
  (void)transfer::decode_spans(input, input, input);
  const auto head = reader.read_bytes(sizeof(transfer::SpansHeader));
  if (!reader.ok()) return;
  std::array<Bytes, 3> copies;
  for (Bytes& copy : copies) {
    copy.resize(sizeof(transfer::SpansFile));
    std::copy(head.begin(), head.end(), copy.begin());
  }
  while (reader.left() > 0) {
    const auto which = reader.read<std::uint16_t>();
    const auto slot = reader.read_bytes(std::min(reader.left(), sizeof(transfer::SpanSlot)));
    const std::size_t at = sizeof(transfer::SpansHeader) +
                           which % (transfer::kSpanRings * transfer::kSpansOfRing) * sizeof(transfer::SpanSlot);
    // In one of the copies alone, now and then.
    for (std::size_t i = 0; i < copies.size(); ++i) {
      if (which % 7 == 0 && i == which % copies.size()) continue;
      std::copy(slot.begin(), slot.end(), copies[i].begin() + static_cast<std::ptrdiff_t>(at));
    }
  }
  const auto reading = transfer::decode_spans(copies[0], copies[1], copies[2]);
  if (!reading.is_ok()) return;
  BEELINE_CHECK(reading->spans.size() <= transfer::kSpanRings * transfer::kSpansOfRing, "spans lie in the file");
  for (const auto& span : reading->spans) {
    BEELINE_CHECK(static_cast<std::size_t>(span.operation) < transfer::kOperations &&
                      span.name.size() <= transfer::kSpanNameBytes && span.row < transfer::kMaxCounterRows,
                  "a span is of a kind that there is");
  }
}

}  // namespace beeline::fuzz
