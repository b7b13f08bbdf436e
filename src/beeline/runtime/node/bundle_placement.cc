#include "beeline/runtime/node/bundle_placement.h"

#include <algorithm>
#include <numeric>

namespace beeline::runtime::node {
namespace {

using Placement = std::vector<PlacedBundle>;

// The names of resources as columns: what a bundle needs and what a node has left.
struct Columns {
  std::vector<std::string> plain;
  std::vector<std::string> slotted;

  explicit Columns(const std::vector<Amounts>& bundles) {
    for (const auto& bundle : bundles) {
      for (const auto& [name, amount] : bundle) {
        auto& names = is_accelerator(name) ? slotted : plain;
        if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
      }
    }
  }
};

struct Need {
  std::vector<Amount> plain;
  std::vector<Amount> slotted;
  bool operator==(const Need&) const = default;
};

struct Room {
  std::vector<Amount> plain;
  std::vector<std::vector<ResourcePool::Slot>> slotted;
  int bundles = 0;  // that lie here
};

// Slots that a bundle took, as indices: by column of accelerators.
using TakenSlots = std::vector<std::vector<std::size_t>>;

class BundlePlacer {
 public:
  BundlePlacer(const std::vector<Amounts>& bundles, const std::vector<const ResourcePool*>& nodes,
               const std::vector<std::vector<bool>>& allowed)
      : columns_(bundles), bundles_(bundles), allowed_(allowed), node_of_(bundles.size()), taken_(bundles.size()) {
    for (const auto& bundle : bundles) needs_.push_back(need_of(bundle));
    for (const auto* node : nodes) rooms_.push_back(room_of(*node));
    order_.resize(bundles.size());
    std::iota(order_.begin(), order_.end(), 0);
    // What is hardest to place comes first: whole accelerators, then much of anything.
    std::stable_sort(order_.begin(), order_.end(), [this](std::size_t a, std::size_t b) {
      return std::pair(needs_[a].slotted, needs_[a].plain) > std::pair(needs_[b].slotted, needs_[b].plain);
    });
  }

  std::optional<Placement> place(GroupStrategy strategy) {
    const int count = static_cast<int>(needs_.size());
    const int nodes = static_cast<int>(rooms_.size());
    least_ = nodes_needed();
    if (least_ > nodes) return std::nullopt;
    bool found = false;
    switch (strategy) {
      case GroupStrategy::kStrictPack:
        found = search_within(kSearchSteps, 1, 1);
        break;
      case GroupStrategy::kStrictSpread:
        found = match() == count;
        break;
      case GroupStrategy::kPack:
        found = pack(std::min(count, nodes));
        break;
      case GroupStrategy::kSpread:
        found = spread();
        break;
    }
    return found ? std::optional(result()) : std::nullopt;
  }

 private:
  [[nodiscard]] Need need_of(const Amounts& bundle) const {
    Need need;
    for (const auto& name : columns_.plain) need.plain.push_back(amount_of(bundle, name));
    for (const auto& name : columns_.slotted) need.slotted.push_back(amount_of(bundle, name));
    return need;
  }

  [[nodiscard]] Room room_of(const ResourcePool& node) const {
    Room room;
    for (const auto& name : columns_.plain) room.plain.push_back(amount_of(node.free(), name));
    for (const auto& name : columns_.slotted) {
      const auto slots = node.slots().find(name);
      room.slotted.push_back(slots == node.slots().end() ? std::vector<ResourcePool::Slot>{} : slots->second);
    }
    return room;
  }

  // At least so many nodes are needed, by the sums alone; more than there are if all do not suffice.
  [[nodiscard]] int nodes_needed() const {
    std::size_t least = 1;
    for (std::size_t column = 0; column < columns_.plain.size() + columns_.slotted.size(); ++column) {
      const bool plain = column < columns_.plain.size();
      const auto at = plain ? column : column - columns_.plain.size();
      Amount sum = 0;
      for (const auto& need : needs_) sum += plain ? need.plain[at] : need.slotted[at];
      std::vector<Amount> rooms;
      for (const auto& room : rooms_) {
        Amount left = plain ? room.plain[at] : 0;
        if (!plain) {
          for (const auto& slot : room.slotted[at]) left += slot.left;
        }
        rooms.push_back(std::max<Amount>(0, left));
      }
      std::sort(rooms.rbegin(), rooms.rend());
      std::size_t used = 0;
      while (sum > 0 && used < rooms.size()) sum -= rooms[used++];
      if (sum > 0) return static_cast<int>(rooms_.size()) + 1;
      least = std::max(least, used);
    }
    return static_cast<int>(least);
  }

  [[nodiscard]] bool fits(std::size_t bundle, std::size_t node) const {
    if (!allowed_[bundle][node]) return false;
    const auto& need = needs_[bundle];
    const auto& room = rooms_[node];
    for (std::size_t i = 0; i < need.plain.size(); ++i) {
      if (need.plain[i] > 0 && need.plain[i] > room.plain[i]) return false;
    }
    for (std::size_t i = 0; i < need.slotted.size(); ++i) {
      const Amount each = share_of_slot(need.slotted[i]);
      if (each == 0) continue;
      const auto enough = std::count_if(room.slotted[i].begin(), room.slotted[i].end(),
                                        [each](const auto& slot) { return slot.left >= each; });
      if (enough * each < need.slotted[i]) return false;
    }
    return true;
  }

  // In how many ways that differ it can lie on a node where it fits: a fraction, on slots with different rests.
  [[nodiscard]] int ways(std::size_t bundle, std::size_t node) const {
    for (std::size_t i = 0; i < needs_[bundle].slotted.size(); ++i) {
      const Amount amount = needs_[bundle].slotted[i];
      if (amount == 0 || amount >= kUnit) continue;
      std::vector<Amount> rests;
      for (const auto& slot : rooms_[node].slotted[i]) {
        if (slot.left >= amount && std::find(rests.begin(), rests.end(), slot.left) == rests.end()) {
          rests.push_back(slot.left);
        }
      }
      return static_cast<int>(rests.size());
    }
    return 1;
  }

  void put(std::size_t bundle, std::size_t node, int way = 0) {
    auto& room = rooms_[node];
    const auto& need = needs_[bundle];
    for (std::size_t i = 0; i < need.plain.size(); ++i) room.plain[i] -= need.plain[i];
    TakenSlots taken(need.slotted.size());
    bool chosen = false;
    for (std::size_t i = 0; i < need.slotted.size(); ++i) {
      const bool fraction = need.slotted[i] > 0 && need.slotted[i] < kUnit;
      taken[i] = choose(room.slotted[i], need.slotted[i], fraction && !chosen ? way : 0);
      chosen |= fraction;
      for (const auto slot : taken[i]) room.slotted[i][slot].left -= share_of_slot(need.slotted[i]);
    }
    ++room.bundles;
    used_ += room.bundles == 1 ? 1 : 0;
    node_of_[bundle] = node;
    taken_[bundle] = std::move(taken);
  }

  // The first slots that suffice; of a fraction, the first with the `way`-th rest.
  static std::vector<std::size_t> choose(const std::vector<ResourcePool::Slot>& slots, Amount amount, int way) {
    const Amount each = share_of_slot(amount);
    std::vector<std::size_t> chosen;
    std::vector<Amount> rests;
    for (std::size_t slot = 0; slot < slots.size() && static_cast<Amount>(chosen.size()) * each < amount; ++slot) {
      if (slots[slot].left < each) continue;
      if (amount < kUnit && way > 0) {
        if (std::find(rests.begin(), rests.end(), slots[slot].left) == rests.end()) rests.push_back(slots[slot].left);
        if (static_cast<int>(rests.size()) <= way) continue;
      }
      chosen.push_back(slot);
    }
    return chosen;
  }

  void take_away(std::size_t bundle) {
    auto& room = rooms_[node_of_[bundle]];
    const auto& need = needs_[bundle];
    for (std::size_t i = 0; i < need.plain.size(); ++i) room.plain[i] += need.plain[i];
    for (std::size_t i = 0; i < need.slotted.size(); ++i) {
      for (const auto slot : taken_[bundle][i]) room.slotted[i][slot].left += share_of_slot(need.slotted[i]);
    }
    --room.bundles;
    used_ -= room.bundles == 0 ? 1 : 0;
  }

  void clear() {
    while (placed_ > 0) take_away(order_[--placed_]);
  }

  // Each bundle on the first node that `better` puts first among those where it fits. False leaves nothing placed.
  template <typename Better>
  bool place_greedily(const Better& better) {
    for (const auto bundle : order_) {
      std::optional<std::size_t> best;
      for (std::size_t node = 0; node < rooms_.size(); ++node) {
        if (fits(bundle, node) && (!best || better(rooms_[node], rooms_[*best]))) best = node;
      }
      if (!best) {
        clear();
        return false;
      }
      put(bundle, *best);
      ++placed_;
    }
    return true;
  }

  // Whether the rest can be placed so that the nodes in use are as many as wanted. False leaves what was placed before.
  bool search(int least, int most) {
    if (placed_ == order_.size()) return used_ >= least;
    if (used_ + static_cast<int>(order_.size() - placed_) < least) return false;
    const auto bundle = order_[placed_];
    // Bundles that are alike may as well lie in order.
    const bool alike = least <= 1 && placed_ > 0 && needs_[order_[placed_ - 1]] == needs_[bundle] &&
                       allowed_[order_[placed_ - 1]] == allowed_[bundle];
    for (std::size_t node = alike ? node_of_[order_[placed_ - 1]] : 0; node < rooms_.size(); ++node) {
      if (rooms_[node].bundles == 0 && used_ >= most) continue;
      if (!fits(bundle, node)) continue;
      const int count = ways(bundle, node);
      for (int way = 0; way < count; ++way) {
        if (--steps_ < 0) return false;
        put(bundle, node, way);
        ++placed_;
        if (search(least, most)) return true;
        --placed_;
        take_away(bundle);
      }
    }
    return false;
  }

  bool search_within(int steps, int least, int most) {
    steps_ = steps;
    return search(least, most);
  }

  // What lies now on few nodes; then whether fewer do.
  bool pack(int most) {
    const auto fewer = [](const Room& a, const Room& b) { return a.bundles > 0 && b.bundles == 0; };
    const bool greedy = place_greedily(fewer);
    const int reached = greedy ? used_ : most + 1;
    if (greedy && reached <= least_) return true;
    clear();
    const int tries = std::max(1, reached - least_);
    for (int limit = least_; limit < reached; ++limit) {
      // The last one covers all that the greedy way has not found.
      if (search_within(!greedy && limit == reached - 1 ? kSearchSteps : kSearchSteps / tries, 0, limit)) return true;
    }
    return greedy && place_greedily(fewer);
  }

  bool spread() {
    const int most = match();
    unmatch();
    const auto emptier = [](const Room& a, const Room& b) { return a.bundles < b.bundles; };
    const bool greedy = place_greedily(emptier);
    const int reached = greedy ? used_ : 0;
    if (greedy && reached >= most) return true;
    clear();
    const int tries = std::max(1, most - reached);
    for (int wanted = most; wanted > reached; --wanted) {
      const bool last = !greedy && wanted == 1;
      if (search_within(last ? kSearchSteps : kSearchSteps / tries, wanted, static_cast<int>(rooms_.size())))
        return true;
    }
    return greedy && place_greedily(emptier);
  }

  // Bundles on nodes of their own, as many as possible (Kuhn's algorithm). Returns how many; the bundles of them lie
  // there afterwards.
  int match() {
    std::vector<std::optional<std::size_t>> bundle_on(rooms_.size());
    std::vector<std::vector<std::size_t>> options(needs_.size());
    for (std::size_t bundle = 0; bundle < needs_.size(); ++bundle) {
      for (std::size_t node = 0; node < rooms_.size(); ++node) {
        if (fits(bundle, node)) options[bundle].push_back(node);
      }
    }
    int matched = 0;
    for (std::size_t bundle = 0; bundle < needs_.size(); ++bundle) {
      std::vector<bool> seen(rooms_.size());
      matched += augment(bundle, options, bundle_on, seen) ? 1 : 0;
    }
    for (std::size_t node = 0; node < rooms_.size(); ++node) {
      if (!bundle_on[node]) continue;
      put(*bundle_on[node], node);
      matched_.push_back(*bundle_on[node]);
    }
    return matched;
  }

  void unmatch() {
    for (const auto bundle : matched_) take_away(bundle);
    matched_.clear();
  }

  static bool augment(std::size_t bundle, const std::vector<std::vector<std::size_t>>& options,
                      std::vector<std::optional<std::size_t>>& bundle_on, std::vector<bool>& seen) {
    // Nobody is moved without need, so that earlier bundles lie on earlier nodes.
    for (const auto node : options[bundle]) {
      if (bundle_on[node]) continue;
      bundle_on[node] = bundle;
      return true;
    }
    for (const auto node : options[bundle]) {
      if (seen[node]) continue;
      seen[node] = true;
      if (!augment(*bundle_on[node], options, bundle_on, seen)) continue;
      bundle_on[node] = bundle;
      return true;
    }
    return false;
  }

  [[nodiscard]] Placement result() const {
    Placement placement;
    for (std::size_t bundle = 0; bundle < needs_.size(); ++bundle) {
      PlacedBundle placed{node_of_[bundle], {bundles_[bundle], {}}};
      for (std::size_t i = 0; i < columns_.slotted.size(); ++i) {
        if (needs_[bundle].slotted[i] == 0) continue;
        for (const auto slot : taken_[bundle][i]) {
          placed.share.accelerators[columns_.slotted[i]].push_back(rooms_[node_of_[bundle]].slotted[i][slot].device);
        }
      }
      placement.push_back(std::move(placed));
    }
    return placement;
  }

  Columns columns_;
  const std::vector<Amounts>& bundles_;
  const std::vector<std::vector<bool>>& allowed_;
  std::vector<Need> needs_;
  std::vector<Room> rooms_;
  std::vector<std::size_t> order_;
  std::size_t placed_ = 0;  // of order_
  int used_ = 0;            // nodes with bundles
  int least_ = 1;           // nodes, by the sums alone
  int steps_ = 0;
  std::vector<std::size_t> matched_;
  std::vector<std::size_t> node_of_;
  std::vector<TakenSlots> taken_;
};

}  // namespace

std::optional<std::vector<PlacedBundle>> place_bundles(const std::vector<Amounts>& bundles,
                                                       const std::vector<const ResourcePool*>& nodes,
                                                       const std::vector<std::vector<bool>>& allowed,
                                                       GroupStrategy strategy) {
  if (nodes.empty()) return std::nullopt;
  return BundlePlacer(bundles, nodes, allowed).place(strategy);
}

}  // namespace beeline::runtime::node
