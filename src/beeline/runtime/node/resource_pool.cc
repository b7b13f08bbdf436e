#include "beeline/runtime/node/resource_pool.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace beeline::runtime::node {
namespace {

// Each has a slot of its own in memory.
constexpr Amount kMaxAccelerators = 65536;

}  // namespace

bool is_accelerator(const std::string& name) {
  return name == "GPU" || name == "TPU" || name == "NPU" || name == "HPU" || name == "neuron_cores";
}

Amount amount_of(const Amounts& amounts, const std::string& name) {
  const auto found = amounts.find(name);
  return found == amounts.end() ? 0 : found->second;
}

Result<Amounts> to_amounts(const Resources& resources) {
  Amounts amounts;
  for (const auto& [name, value] : resources) {
    // 2^50 units and less add up without overflow.
    if (!std::isfinite(value) || value < 0 || value > 1e11) {
      return Status(Code::kInvalidArgument, "resource " + name + " must be a number from 0 to 1e11");
    }
    if (is_accelerator(name) && value > 1 && value != std::floor(value)) {
      return Status(Code::kInvalidArgument,
                    std::to_string(value) + " of " + name + ": more than one accelerator must be a whole number");
    }
    const auto amount = static_cast<Amount>(std::llround(value * kUnit));
    if (amount > 0) amounts[name] = amount;
  }
  return amounts;
}

Resources to_resources(const Amounts& amounts) {
  Resources resources;
  for (const auto& [name, amount] : amounts) resources[name] = static_cast<double>(amount) / kUnit;
  return resources;
}

std::string describe(Amount amount) {
  char text[32];
  std::snprintf(text, sizeof text, "%.10g", static_cast<double>(amount) / kUnit);
  return text;
}

std::string describe(const Amounts& amounts) {
  std::string text = "{";
  for (const auto& [name, amount] : amounts) text += (text.size() > 1 ? ", " : "") + name + ": " + describe(amount);
  return text + "}";
}

Result<ResourcePool> ResourcePool::make(const Amounts& total) {
  ResourcePool pool;
  pool.total_ = total;
  for (const auto& [name, amount] : total) {
    if (!is_accelerator(name)) {
      pool.free_[name] = amount;
    } else if (amount % kUnit != 0) {
      return Status(Code::kInvalidArgument, "a node's " + name + " must be a whole number");
    } else if (amount / kUnit > kMaxAccelerators) {
      return Status(Code::kInvalidArgument, "a node has at most " + std::to_string(kMaxAccelerators) + " of " + name);
    } else {
      auto& slots = pool.slots_[name];
      for (std::int32_t device = 0; device < amount / kUnit; ++device) slots.push_back({device, kUnit});
    }
  }
  return pool;
}

bool ResourcePool::fits(const Amounts& needed) const {
  for (const auto& [name, amount] : needed) {
    if (!is_accelerator(name)) {
      if (amount > amount_of(free_, name)) return false;
      continue;
    }
    const auto slots = slots_.find(name);
    if (slots == slots_.end()) return false;
    // A fraction needs one slot with as much left, n whole ones need n free slots.
    const Amount each = share_of_slot(amount);
    const auto enough = std::count_if(slots->second.begin(), slots->second.end(),
                                      [each](const Slot& slot) { return slot.left >= each; });
    if (enough * each < amount) return false;
  }
  return true;
}

bool ResourcePool::could_fit(const Amounts& needed) const {
  return std::all_of(needed.begin(), needed.end(),
                     [this](const auto& entry) { return entry.second <= amount_of(total_, entry.first); });
}

Share ResourcePool::take(const Amounts& held) {
  Share share;
  share.amounts = held;
  for (const auto& [name, amount] : held) {
    if (!is_accelerator(name)) {
      free_[name] -= amount;
      continue;
    }
    const Amount each = share_of_slot(amount);
    Amount missing = amount;
    for (auto& slot : slots_.at(name)) {
      if (missing <= 0) break;
      if (slot.left < each) continue;
      slot.left -= each;
      missing -= each;
      share.accelerators[name].push_back(slot.device);
    }
    BEELINE_CHECK(missing == 0, "an allocation that was found to fit does not");
  }
  return share;
}

void ResourcePool::give_slot(const std::string& name, std::int32_t device, Amount amount) {
  auto& slots = slots_.at(name);
  const auto slot = std::find_if(slots.begin(), slots.end(), [device](const Slot& s) { return s.device == device; });
  BEELINE_CHECK(slot != slots.end(), "an accelerator was given back to a pool that never had it");
  slot->left += amount;
  BEELINE_CHECK(slot->left <= kUnit, "more of an accelerator was given back than was taken");
}

void ResourcePool::give(const Share& share) {
  for (const auto& [name, amount] : share.amounts) {
    if (!is_accelerator(name)) {
      free_[name] += amount;
      continue;
    }
    for (const auto device : share.accelerators.at(name)) give_slot(name, device, share_of_slot(amount));
  }
}

ResourcePool ResourcePool::carve(const Share& share) {
  ResourcePool carved;
  carved.total_ = share.amounts;
  for (const auto& [name, amount] : share.amounts) {
    if (!is_accelerator(name)) {
      free_[name] -= amount;
      carved.free_[name] = amount;
      continue;
    }
    const Amount each = share_of_slot(amount);
    for (const auto device : share.accelerators.at(name)) {
      give_slot(name, device, -each);
      carved.slots_[name].push_back({device, each});
    }
  }
  return carved;
}

void ResourcePool::dissolve(const ResourcePool& carved) {
  for (const auto& [name, amount] : carved.free_) free_[name] += amount;
  for (const auto& [name, slots] : carved.slots_) {
    for (const auto& slot : slots) give_slot(name, slot.device, slot.left);
  }
}

Amounts ResourcePool::available() const {
  Amounts amounts = free_;
  // Overdrawn CPUs show as none.
  for (auto& [name, amount] : amounts) amount = std::max<Amount>(0, amount);
  for (const auto& [name, slots] : slots_) {
    for (const auto& slot : slots) amounts[name] += slot.left;
  }
  return amounts;
}

ResourcePool ResourcePool::untouched() const {
  auto pool = make(total_);
  BEELINE_CHECK(pool.is_ok(), "only nodes are asked what they were");
  return std::move(pool).value();
}

}  // namespace beeline::runtime::node
