// Structures as msgpack (MSGPACK_DEFINE_ARRAY): for what is said now and then. Bytes travel as msgpack bin. Decoding
// takes bytes from outside: a bad message is kCorrupt, never a crash.
#pragma once

#define MSGPACK_NO_BOOST 1
#include <string>

#include <msgpack.hpp>

#include "beeline/base/bytes.h"
#include "beeline/base/status.h"

namespace beeline {

template <typename Value>
Bytes pack(const Value& value) {
  msgpack::sbuffer packed;
  msgpack::pack(packed, value);
  const auto* data = reinterpret_cast<const std::byte*>(packed.data());
  return {data, data + packed.size()};
}

// A frame: its type as it lies in memory, then the packed message.
template <typename Type, typename Message>
Bytes pack_frame(Type type, const Message& message) {
  const Bytes body = pack(message);
  Bytes frame;
  frame.reserve(sizeof type + body.size());
  Writer writer(frame);
  writer.write(type);
  writer.append(body);
  return frame;
}

template <typename Value>
Result<Value> unpack(BytesView bytes, const char* what) {
  try {
    // No container can have more elements than there are bytes: a hostile length allocates nothing.
    const std::size_t size = bytes.size();
    const msgpack::unpack_limit limit(size, size, size, size, size, 32);
    const auto handle = msgpack::unpack(reinterpret_cast<const char*>(bytes.data()), size, nullptr, nullptr, limit);
    return handle.get().template as<Value>();
  } catch (const std::exception& error) {
    return Status(Code::kCorrupt, std::string(what) + " that does not decode: " + error.what());
  }
}

}  // namespace beeline
