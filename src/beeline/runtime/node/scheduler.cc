#include "beeline/runtime/node/scheduler.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace beeline::runtime::node {
namespace {

constexpr const char* kCpu = "CPU";

Amount amount_of(const Amounts& amounts, const std::string& name) {
  const auto found = amounts.find(name);
  return found == amounts.end() ? 0 : found->second;
}

std::string format(Amount amount) {
  char text[32];
  std::snprintf(text, sizeof text, "%.10g", static_cast<double>(amount) / kUnit);
  return text;
}

}  // namespace

bool is_accelerator(const std::string& name) {
  return name == "GPU" || name == "TPU" || name == "NPU" || name == "HPU" || name == "neuron_cores";
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

std::string describe(const Amounts& amounts) {
  std::string text = "{";
  for (const auto& [name, amount] : amounts) text += (text.size() > 1 ? ", " : "") + name + ": " + format(amount);
  return text + "}";
}

Result<Scheduler> Scheduler::make(const Resources& total) {
  Scheduler scheduler;
  BEELINE_ASSIGN(scheduler.total_, to_amounts(total));
  for (const auto& [name, amount] : scheduler.total_) {
    if (!is_accelerator(name)) {
      scheduler.free_[name] = amount;
    } else if (amount % kUnit != 0) {
      return Status(Code::kInvalidArgument, "this machine's " + name + " must be a whole number");
    } else {
      scheduler.slots_[name].assign(static_cast<std::size_t>(amount / kUnit), kUnit);
    }
  }
  return scheduler;
}

Status Scheduler::check_against_total(const Amounts& needed) const {
  for (const auto& [name, amount] : needed) {
    if (amount <= amount_of(total_, name)) continue;
    return {Code::kResourceExhausted, "a request for " + describe(needed) + " can never be met: this machine has " +
                                          format(amount_of(total_, name)) + " of " + name + " (all of it: " +
                                          describe(total_) + "). Ask for less, or start with more, e.g. init(" +
                                          (name == "CPU"   ? "num_cpus=" + format(amount)
                                           : name == "GPU" ? "num_gpus=" + format(amount)
                                                           : "resources={\"" + name + "\": " + format(amount) + "}") +
                                          ")"};
  }
  return Status::ok();
}

Status Scheduler::request(Ticket ticket, const Resources& held, const Resources& placement) {
  Shape shape;
  BEELINE_ASSIGN(shape.held, to_amounts(held));
  BEELINE_ASSIGN(shape.needed, to_amounts(placement));
  for (const auto& [name, amount] : shape.held) {
    auto& needed = shape.needed[name];
    needed = std::max(needed, amount);
  }
  BEELINE_RETURN_IF_ERROR(check_against_total(shape.needed));
  if (!shape_of_.emplace(ticket, shape).second) {
    return {Code::kAlreadyExists, "request " + std::to_string(ticket) + " is pending already"};
  }
  queues_[shape].push_back({next_order_++, ticket});
  return Status::ok();
}

bool Scheduler::cancel(Ticket ticket) {
  const auto found = shape_of_.find(ticket);
  if (found == shape_of_.end()) return false;
  const auto queue = queues_.find(found->second);
  std::erase_if(queue->second, [ticket](const Pending& pending) { return pending.ticket == ticket; });
  if (queue->second.empty()) queues_.erase(queue);
  shape_of_.erase(found);
  return true;
}

bool Scheduler::fits(const Shape& shape) const {
  for (const auto& [name, amount] : shape.needed) {
    if (!is_accelerator(name)) {
      if (amount > amount_of(free_, name)) return false;
      continue;
    }
    const auto slots = slots_.find(name);
    if (slots == slots_.end()) return false;
    // A fraction needs one slot with as much left, n whole ones need n free slots.
    const Amount each = std::min(amount, kUnit);
    const auto enough =
        std::count_if(slots->second.begin(), slots->second.end(), [each](Amount left) { return left >= each; });
    if (enough * each < amount) return false;
  }
  return true;
}

Allocation Scheduler::take(const Amounts& held) {
  Allocation allocation;
  allocation.amounts = held;
  for (const auto& [name, amount] : held) {
    if (!is_accelerator(name)) {
      free_[name] -= amount;
      continue;
    }
    auto& slots = slots_.at(name);
    const Amount each = std::min(amount, kUnit);
    Amount missing = amount;
    for (std::size_t i = 0; i < slots.size() && missing > 0; ++i) {
      if (slots[i] < each) continue;
      slots[i] -= each;
      missing -= each;
      allocation.accelerators[name].push_back(static_cast<std::int32_t>(i));
    }
    BEELINE_CHECK(missing == 0, "an allocation that was found to fit does not");
  }
  return allocation;
}

std::vector<Scheduler::Grant> Scheduler::place() {
  std::vector<Grant> grants;
  // Heads of the queues by age. A shape that does not fit now is done with: placing others frees nothing.
  std::map<std::uint64_t, const Shape*> heads;
  for (const auto& [shape, queue] : queues_) heads.emplace(queue.front().order, &shape);
  while (!heads.empty()) {
    const Shape* shape = heads.begin()->second;
    heads.erase(heads.begin());
    if (!fits(*shape)) continue;
    const auto queue = queues_.find(*shape);
    const Ticket ticket = queue->second.front().ticket;
    grants.push_back({ticket, take(shape->held)});
    shape_of_.erase(ticket);
    queue->second.pop_front();
    if (queue->second.empty()) {
      queues_.erase(queue);
    } else {
      heads.emplace(queue->second.front().order, &queue->first);
    }
  }
  return grants;
}

void Scheduler::release(const Allocation& allocation) {
  for (const auto& [name, amount] : allocation.amounts) {
    if (name == kCpu && allocation.cpu_given_back) continue;
    if (!is_accelerator(name)) {
      free_[name] += amount;
      continue;
    }
    for (const auto slot : allocation.accelerators.at(name)) {
      auto& left = slots_.at(name)[static_cast<std::size_t>(slot)];
      left += std::min(amount, kUnit);
      BEELINE_CHECK(left <= kUnit, "more of an accelerator was released than was taken");
    }
  }
}

void Scheduler::give_back_cpu(Allocation& allocation) {
  if (allocation.cpu_given_back) return;
  allocation.cpu_given_back = true;
  if (const Amount amount = amount_of(allocation.amounts, kCpu); amount > 0) free_[kCpu] += amount;
}

void Scheduler::take_cpu_again(Allocation& allocation) {
  if (!allocation.cpu_given_back) return;
  allocation.cpu_given_back = false;
  if (const Amount amount = amount_of(allocation.amounts, kCpu); amount > 0) free_[kCpu] -= amount;
}

Resources Scheduler::available() const {
  Amounts amounts = free_;
  // Overdrawn CPUs show as none.
  for (auto& [name, amount] : amounts) amount = std::max<Amount>(0, amount);
  for (const auto& [name, slots] : slots_) {
    for (const Amount left : slots) amounts[name] += left;
  }
  return to_resources(amounts);
}

}  // namespace beeline::runtime::node
