#include "beeline/runtime/scheduling.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

namespace beeline::runtime {
namespace {

constexpr std::size_t kNumberDigits = 8;
// uuid5(NAMESPACE_DNS, "node"), and zeros: the same in every session, so that programs may keep it.
constexpr const char* kNodeIdPrefix = "a47a0839419d59269c4ac66b2e04df1e0000000000000000";

}  // namespace

std::string node_id(NodeIndex node) {
  char digits[kNumberDigits + 1];
  std::snprintf(digits, sizeof digits, "%08x", node);
  return std::string(kNodeIdPrefix) + digits;
}

NodeIndex node_of_id(const std::string& id) {
  const std::string prefix(kNodeIdPrefix);
  if (id.size() != prefix.size() + kNumberDigits || !id.starts_with(prefix)) return kNoNode;
  NodeIndex node = kNoNode;
  const auto [end, error] = std::from_chars(id.data() + prefix.size(), id.data() + id.size(), node, 16);
  return error == std::errc() && end == id.data() + id.size() ? node : kNoNode;
}

bool matches(const Labels& labels, const std::vector<LabelRule>& rules) {
  return std::all_of(rules.begin(), rules.end(), [&labels](const LabelRule& rule) {
    const auto label = labels.find(rule.key);
    const bool is_so =
        label != labels.end() &&
        (rule.values.empty() || std::find(rule.values.begin(), rule.values.end(), label->second) != rule.values.end());
    return is_so != rule.negated;
  });
}

}  // namespace beeline::runtime
