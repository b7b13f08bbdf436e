// Where something may run: nodes, their labels, placement groups. Part of control frames (control.h).
//
// A session has one node where its drivers are, number 0. Others are virtual: a set of resources under a number of its
// own within the same daemon.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "beeline/base/msgpack.h"

namespace beeline::runtime {

// Amounts by name ("CPU", "GPU", "memory", custom); "GPU" may be fractional.
using Resources = std::map<std::string, double>;
using Labels = std::map<std::string, std::string>;
using NodeIndex = std::uint32_t;
inline constexpr NodeIndex kNoNode = ~NodeIndex{0};
// Creator's process index in the upper half, the creator's counter in the lower; 0: none.
using GroupId = std::uint64_t;

// The label that every node has: its id.
inline constexpr const char* kNodeIdLabel = "ray.io/node-id";
// 56 hexadecimal digits, as Ray's; the last eight are the number.
std::string node_id(NodeIndex node);
// kNoNode if no node can have that id.
NodeIndex node_of_id(const std::string& id);

// What a label must be: one of the values, or there at all if there are none; `negated`: not that.
struct LabelRule {
  std::string key;
  std::vector<std::string> values;
  bool negated = false;
  MSGPACK_DEFINE_ARRAY(key, values, negated)
  auto operator<=>(const LabelRule&) const = default;
};
bool matches(const Labels& labels, const std::vector<LabelRule>& rules);

enum class NodePolicy : std::uint8_t {
  kFirstFit = 0,  // the first node that has enough
  kSpread = 1,    // the one after the last that was chosen so
  kOne = 2,       // a certain one
};

struct Scheduling {
  std::uint8_t policy = 0;  // NodePolicy
  // Of kOne. Soft: any other where this one is gone or can never have enough.
  NodeIndex node = kNoNode;
  bool soft = false;
  bool spill = false;    // soft, also where it has not enough now
  bool no_wait = false;  // not soft: an error where it has not enough now
  std::vector<LabelRule> required;
  std::vector<LabelRule> preferred;
  GroupId group = 0;         // 0: outside of all groups
  std::int32_t bundle = -1;  // -1: any of the group
  bool capture = false;      // what is called from there runs in the group too, unless it says otherwise
  MSGPACK_DEFINE_ARRAY(policy, node, soft, spill, no_wait, required, preferred, group, bundle, capture)
  auto operator<=>(const Scheduling&) const = default;
};

enum class GroupStrategy : std::uint8_t {
  kPack = 0,          // on as few nodes as can be
  kSpread = 1,        // on as many
  kStrictPack = 2,    // on one
  kStrictSpread = 3,  // each on its own
};

struct Bundle {
  Resources resources;
  std::vector<LabelRule> required;
  MSGPACK_DEFINE_ARRAY(resources, required)
};

}  // namespace beeline::runtime
