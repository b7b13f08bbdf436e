// Amounts of resources, and a pool that they are taken from: what is free of a node, or what a bundle has reserved.
// Arithmetic only.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "beeline/base/status.h"
#include "beeline/runtime/scheduling.h"

namespace beeline::runtime::node {

// Amounts in steps of 1e-4, so that sums of fractions are exact.
using Amount = std::int64_t;
inline constexpr Amount kUnit = 10'000;
using Amounts = std::map<std::string, Amount>;
// Numbers of devices.
using Accelerators = std::map<std::string, std::vector<std::int32_t>>;

// Accelerators are slots: a fraction lies on one of them, whole numbers take whole free ones.
bool is_accelerator(const std::string& name);
// What such an amount takes of each slot that it lies on.
inline Amount share_of_slot(Amount amount) {
  return amount < kUnit ? amount : kUnit;
}
Amount amount_of(const Amounts& amounts, const std::string& name);

// Rejects what is negative, not finite, or a mixed number of accelerators.
Result<Amounts> to_amounts(const Resources& resources);
Resources to_resources(const Amounts& amounts);
std::string describe(const Amounts& amounts);  // "{CPU: 1, GPU: 0.5}"
std::string describe(Amount amount);

// What was taken of a pool.
struct Share {
  Amounts amounts;            // without those that are 0
  Accelerators accelerators;  // slots, ascending
};

class ResourcePool {
 public:
  struct Slot {
    std::int32_t device = 0;
    Amount left = 0;
  };

  ResourcePool() = default;
  // Of a node: accelerators in whole numbers.
  static Result<ResourcePool> make(const Amounts& total);

  [[nodiscard]] bool fits(const Amounts& needed) const;
  // Whether it would if nothing was taken.
  [[nodiscard]] bool could_fit(const Amounts& needed) const;
  // What fits, by first fit.
  Share take(const Amounts& held);
  // What was taken before, from those slots.
  void retake(const Share& share) { (void)carve(share); }
  // CPUs may be overdrawn by what is taken without asking whether it fits.
  void take_cpus(Amount amount) { free_["CPU"] -= amount; }
  void give_cpus(Amount amount) { free_["CPU"] += amount; }
  void give(const Share& share);

  // A pool of its own of what is taken of this one, from those slots.
  ResourcePool carve(const Share& share);
  // Gives back what is left of a pool that was carved from this one.
  void dissolve(const ResourcePool& carved);

  [[nodiscard]] const Amounts& total() const { return total_; }
  [[nodiscard]] const Amounts& free() const { return free_; }  // without accelerators; CPU may be negative
  [[nodiscard]] const std::map<std::string, std::vector<Slot>>& slots() const { return slots_; }
  [[nodiscard]] Amounts available() const;
  // As it was before anything was taken.
  [[nodiscard]] ResourcePool untouched() const;

 private:
  void give_slot(const std::string& name, std::int32_t device, Amount amount);

  Amounts total_;
  Amounts free_;
  std::map<std::string, std::vector<Slot>> slots_;  // by device
};

}  // namespace beeline::runtime::node
