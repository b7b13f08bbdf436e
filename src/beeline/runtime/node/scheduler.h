// Who gets which resources, and when. Arithmetic only: no I/O, no clock, one owner.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "beeline/base/status.h"
#include "beeline/runtime/control.h"

namespace beeline::runtime::node {

// Amounts in steps of 1e-4, so that sums of fractions are exact.
using Amount = std::int64_t;
inline constexpr Amount kUnit = 10'000;
using Amounts = std::map<std::string, Amount>;
using Accelerators = std::map<std::string, std::vector<std::int32_t>>;

// Accelerators are slots: a fraction lies on one of them, whole numbers take whole free ones.
bool is_accelerator(const std::string& name);

// Rejects what is negative, not finite, or a mixed number of accelerators.
Result<Amounts> to_amounts(const Resources& resources);
Resources to_resources(const Amounts& amounts);
std::string describe(const Amounts& amounts);  // "{CPU: 1, GPU: 0.5}"

// What a holder has. Given out by the scheduler, handed back to it whole.
struct Allocation {
  Amounts amounts;            // without those that are 0
  Accelerators accelerators;  // slots, ascending
  bool cpu_given_back = false;
};

// Requests of one shape are served in order; a request that does not fit holds back none of another shape.
class Scheduler {
 public:
  // Chosen by the caller; unique among the pending.
  using Ticket = std::uint64_t;
  struct Grant {
    Ticket ticket;
    Allocation allocation;
  };

  static Result<Scheduler> make(const Resources& total);

  // `placement` is needed, beyond `held`, at the moment of placing only. kResourceExhausted when the request
  // exceeds the totals, kInvalidArgument when it makes no sense; nothing is queued then.
  Status request(Ticket ticket, const Resources& held, const Resources& placement = {});
  // False when the ticket is not pending.
  bool cancel(Ticket ticket);
  // Places what fits now, oldest first.
  std::vector<Grant> place();

  void release(const Allocation& allocation);
  // While the holder waits its CPUs go to others; taking them again may overdraw the CPUs, as in Ray.
  void give_back_cpu(Allocation& allocation);
  void take_cpu_again(Allocation& allocation);

  [[nodiscard]] std::size_t pending() const { return shape_of_.size(); }
  [[nodiscard]] Resources total() const { return to_resources(total_); }
  [[nodiscard]] Resources available() const;

 private:
  struct Shape {
    Amounts held;
    Amounts needed;  // at placing: the larger of held and placement, for each resource
    auto operator<=>(const Shape&) const = default;
  };
  struct Pending {
    std::uint64_t order;
    Ticket ticket;
  };

  [[nodiscard]] bool fits(const Shape& shape) const;
  [[nodiscard]] Status check_against_total(const Amounts& needed) const;
  Allocation take(const Amounts& held);

  Amounts total_;
  Amounts free_;                                      // without accelerators; CPU may be negative
  std::map<std::string, std::vector<Amount>> slots_;  // free part of each accelerator
  std::uint64_t next_order_ = 0;
  std::map<Shape, std::deque<Pending>> queues_;  // none is empty
  std::map<Ticket, Shape> shape_of_;
};

}  // namespace beeline::runtime::node
