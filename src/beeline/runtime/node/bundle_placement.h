// Which bundle of a placement group lies on which node. A pure function.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "beeline/runtime/node/resource_pool.h"

namespace beeline::runtime::node {

struct PlacedBundle {
  std::size_t node = 0;  // in the order that was given
  Share share;           // with the slots that it lies on
};

// A place for each bundle, or none. Earlier nodes come first where the strategy leaves a choice.
//
// `allowed[bundle][node]`: whether it may lie there at all (labels). kStrictPack and kStrictSpread find a place if
// there is one, kPack the fewest nodes and kSpread the most that there can be, as long as kSearchSteps suffice, as they
// do for groups of a dozen bundles; beyond, kPack and kSpread may need a node more or less, and each may find a group
// of fractions of accelerators not to fit that would.
inline constexpr int kSearchSteps = 20'000;
std::optional<std::vector<PlacedBundle>> place_bundles(const std::vector<Amounts>& bundles,
                                                       const std::vector<const ResourcePool*>& nodes,
                                                       const std::vector<std::vector<bool>>& allowed,
                                                       GroupStrategy strategy);

}  // namespace beeline::runtime::node
