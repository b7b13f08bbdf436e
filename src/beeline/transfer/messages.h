// What agents say to each other over their control connections: frames of a u16 type and a msgpack array. None of it is
// on the path of a transfer. docs/wire_format.md describes the same as a format.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "beeline/base/msgpack.h"
#include "beeline/transport/transport.h"

namespace beeline::transfer::messages {

enum class Type : std::uint16_t {
  kHello = 1,        // from the side that connected; the first
  kWelcome = 2,      // the answer; over a unix socket with two descriptors: the arena's data and control file
  kRefused = 3,      // the answer to whoever is not let in; then the connection ends
  kReturned = 4,     // the last hold on undone registrations came back
  kSubscribe = 5,    // to a publisher: tell the versions of a name, the newest now if there is one
  kUnsubscribe = 6,  // no more
  kPublished = 7,    // to subscribers: a version
  kAsk = 8,          // to an owner: what a path needs to know of it, or of a region
  kAnswer = 9,       // the answer
  kWithdrawn = 10,   // to subscribers: no version can be fetched any more; numbers go on where they were
  kSeek = 11,        // to a publisher: from whom do I get a version?
  kParent = 12,      // the answer
  kOffer = 13,       // to a publisher: others may get it from me
  kRecall = 14,      // to who offered: nobody is sent to you any more
  kNotify = 15,      // to whoever takes notifications of a topic; is answered as kAsk is
  kWritten = 16,     // to an owner: what Question::kBeginWrite has begun has ended
};

inline constexpr std::uint32_t kVersion = 3;

struct Hello {
  std::uint32_t version = kVersion;
  std::string id;
  std::string name;
  std::string address = {};  // the caller's, where others find it; empty: it relays nothing
  MSGPACK_DEFINE_ARRAY(version, id, name, address)
};

struct Welcome {
  std::uint32_t version = kVersion;
  std::string id;
  std::string name;
  std::uint32_t holder = 0;  // the caller's index in the lease table; without descriptors of no meaning
  MSGPACK_DEFINE_ARRAY(version, id, name, holder)
};

struct Refused {
  std::uint8_t code = 0;  // Code
  std::string message;
  MSGPACK_DEFINE_ARRAY(code, message)
};

struct Returned {
  std::vector<std::pair<std::uint32_t, std::uint32_t>> ids;  // slot, generation
  MSGPACK_DEFINE_ARRAY(ids)
};

enum class Question : std::uint8_t {
  kMayWrite = 0,    // was the region granted to me? The answer is empty
  kContact = 1,     // by what do I find the path's end? Of no region
  kReadKey = 2,     // by what does the path reach the region?
  kWriteKey = 3,    // likewise, of a region that was granted
  kWrites = 4,      // memory::PublicationSlot::writes of the region, now: a u64
  kNotified = 5,    // only answered: has the notification with that serial been taken? `path` is its topic
  kAnnounce = 6,    // what its device is to do by now comes first: let the path's exporter announce it. Empty
  kBeginWrite = 7,  // do others see from here on that I write to the region? Empty; until kWritten with its serial
};

struct Ask {
  std::uint8_t question = 0;  // Question
  std::string path;           // empty: of every path
  std::uint32_t slot = 0, generation = 0;
  std::uint64_t address = 0, length = 0;  // of the region, as the asker knows it
  std::uint64_t serial = 0;               // tells apart what is asked again because it changes; 0: once and for all
  MSGPACK_DEFINE_ARRAY(question, path, slot, generation, address, length, serial)
  friend auto operator<=>(const Ask&, const Ask&) = default;
};

// About a region, once and for all.
inline Ask ask_about(Question question, std::string_view path, const transport::Region& region) {
  return {static_cast<std::uint8_t>(question),
          std::string(path),
          region.id.slot,
          region.id.generation,
          region.address,
          region.length,
          0};
}

struct Answer {
  Ask asked;
  std::uint8_t code = 0;  // Code
  std::string message;
  Bytes content;  // the exporter's; opaque
  MSGPACK_DEFINE_ARRAY(asked, code, message, content)
};

struct Notify {
  std::string topic;
  std::uint64_t serial = 0;
  Bytes payload;
  MSGPACK_DEFINE_ARRAY(topic, serial, payload)
};

struct Written {
  std::uint64_t serial = 0;  // of the question
  MSGPACK_DEFINE_ARRAY(serial)
};

struct Topic {
  std::string name;
  MSGPACK_DEFINE_ARRAY(name)
};

// The first so many schemas that a publisher tells over a connection are known to both sides from then on, and are told
// by their hashes.
inline constexpr std::size_t kKnownSchemas = 64;

struct Published {
  std::string name;
  std::uint64_t number = 0;
  Bytes tensors;  // a descriptor
  MSGPACK_DEFINE_ARRAY(name, number, tensors)
};

enum class Step : std::uint8_t {
  kFirst = 0,    // from whom?
  kFailed = 1,   // whom I was told, or have mapped, failed: from whom else?
  kOverdue = 2,  // I was told nobody in a while: from anybody, unless those I wait for get on with it
  kInsists = 3,  // I was told nobody in time: from anybody
  kGaveUp = 4,   // from nobody any more; is not answered
  kGetsOn = 5,   // some more of it has arrived; likewise
};

struct Seek {
  std::string name;
  std::uint64_t number = 0;
  std::uint8_t step = 0;     // Step
  std::uint64_t serial = 0;  // tells apart what one reader asks
  MSGPACK_DEFINE_ARRAY(name, number, step, serial)
};

// Where a reader has the bytes of a version's one region.
struct CopiedRegion {
  std::uint32_t slot = 0, generation = 0;
  std::uint64_t length = 0, address = 0;
  std::uint64_t arena_offset = 0;
  MSGPACK_DEFINE_ARRAY(slot, generation, length, address, arena_offset)

  static CopiedRegion of(const transport::Region& region) {
    return {region.id.slot, region.id.generation, region.length, region.address, region.arena_offset};
  }
  [[nodiscard]] transport::Region region() const { return {{slot, generation}, length, address, arena_offset, {}}; }
};

struct Parent {
  std::string name;
  std::uint64_t number = 0;
  std::uint64_t serial = 0;
  std::uint8_t code = 0;  // Code
  std::string message;
  std::string owner;  // an address; empty: the publisher itself, as it has said in Published
  CopiedRegion copy;
  MSGPACK_DEFINE_ARRAY(name, number, serial, code, message, owner, copy)
};

struct Offer {
  std::string name;
  std::uint64_t number = 0;
  CopiedRegion copy;
  MSGPACK_DEFINE_ARRAY(name, number, copy)
};

struct Recall {
  std::string name;
  std::uint64_t number = 0;
  MSGPACK_DEFINE_ARRAY(name, number)
};

template <typename Message>
Bytes encode(Type type, const Message& message) {
  return pack_frame(type, message);
}

inline Type type_of(BytesView frame) {
  return Reader(frame).read<Type>();
}

// kCorrupt unless the frame is a message of that type.
template <typename Message>
Result<Message> decode(Type type, BytesView frame) {
  Reader reader(frame);
  if (reader.read<Type>() != type || !reader.ok()) return Status(Code::kCorrupt, "a message of another type");
  return unpack<Message>(frame.subspan(sizeof(Type)), "a message between agents");
}

}  // namespace beeline::transfer::messages
