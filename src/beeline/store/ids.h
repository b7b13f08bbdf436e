// Names of objects and processes within a session.
#pragma once

#include <cstdint>
#include <functional>

namespace beeline::store {

// Index of a process in its session, given by the daemon, never given twice; 0 is no process.
using ProcessIndex = std::uint32_t;

enum class ObjectKind : std::uint32_t {
  kValue = 0,
  kActorLife = 1,  // lives while somebody holds a handle of the actor
};

// The owner made the id; `serial` is a slot of the owner's table (low half) and the slot's use count (high half).
struct ObjectId {
  ProcessIndex owner = 0;
  ObjectKind kind = ObjectKind::kValue;
  std::uint64_t serial = 0;

  bool operator==(const ObjectId&) const = default;
  [[nodiscard]] bool is_nil() const { return owner == 0; }
};
static_assert(sizeof(ObjectId) == 16);

struct ObjectIdHash {
  std::size_t operator()(const ObjectId& id) const {
    return std::hash<std::uint64_t>{}(id.serial * 0x9e3779b97f4a7c15ull ^ (std::uint64_t{id.owner} << 32));
  }
};

}  // namespace beeline::store
