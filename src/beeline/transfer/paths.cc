#include "beeline/transfer/paths.h"

#include <algorithm>
#include <climits>
#include <utility>

#include "beeline/os/futex.h"

namespace beeline::transfer {
namespace {

using transport::Region;
using transport::Run;

// A path that failed is left alone for so long.
constexpr auto kCooldown = std::chrono::seconds(5);
// A path further down the order is taken only if it has been faster by this factor: measurements are noisy.
constexpr double kClearlyFaster = 1.25;
// Fewer measurements than these say nothing: the first ones fill caches and page tables.
constexpr std::uint32_t kEnough = 4;
// What the newest measurement weighs.
constexpr double kNewest = 0.25;

// Whether another path may do what this one could not: the transfer itself was in order.
bool is_of_path(const Status& status) {
  switch (status.code()) {
    case Code::kUnsupported:
    case Code::kPeerLost:
    case Code::kSystem:
    case Code::kResourceExhausted:
      return true;
    default:
      return false;
  }
}

// Lets the next thread connect, whichever way this one's attempt ends.
struct Connecting {
  std::atomic<std::uint32_t>& flag;
  ~Connecting() {
    flag.store(0);
    os::futex_wake(flag, INT_MAX);
  }
};

std::string number(double gbps) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.3g", gbps);
  return text.data();
}

void append(std::string& failed, const Status& why) {
  failed += (failed.empty() ? "" : "; ") + why.message();
}

std::string list_of(const Explanation& explanation) {
  std::string text;
  for (const Candidate& candidate : explanation.candidates) {
    text += (text.empty() ? "" : "; ") + candidate.path + ": " + candidate.reason;
  }
  return text;
}

}  // namespace

Paths::Paths(std::shared_ptr<const transport::Transports> transports, transport::PeerFacts facts, std::string unshared)
    : transports_(std::move(transports)), facts_(std::move(facts)), unshared_(std::move(unshared)) {
  for (const auto& transport : *transports_) {
    paths_.push_back(std::make_unique<Path>());
    paths_.back()->transport = transport.get();
  }
}

void Paths::count_in(std::shared_ptr<Counters> counters, const std::string& peer_id) {
  std::vector<std::string> names;
  for (const auto& path : paths_) names.emplace_back(path->transport->name());
  names.emplace_back("none");
  counters_.emplace(std::move(counters), peer_id, facts_.name, std::move(names));
}

Result<memory::Lease> Paths::map(memory::PublicationId id, std::span<const memory::Range> ranges) {
  const auto begin = Clock::now();
  std::uint64_t bytes = 0;
  for (const memory::Range& range : ranges) bytes += range.length;
  auto lease = facts_.arena->acquire(id, ranges);
  count_map(bytes, begin, lease.status());
  return lease;
}

Result<memory::PeerArena::View> Paths::view(memory::PublicationId id, memory::Range range) {
  const auto begin = Clock::now();
  auto viewed = facts_.arena->acquire_view(id, range);
  count_map(range.length, begin, viewed.status());
  return viewed;
}

void Paths::count_map(std::uint64_t bytes, Clock::time_point begin, const Status& outcome) {
  if (!outcome) return note_failure(Operation::kMap, bytes, outcome.code(), begin);
  const auto maps = [](const auto& path) { return path->transport->capabilities().maps; };
  const auto path = std::ranges::find_if(paths_, maps);
  if (counters_ && path != paths_.end()) {
    const auto at = static_cast<std::size_t>(path - paths_.begin());
    counters_->moved(at, Operation::kMap, bytes, begin, Clock::now() - begin);
  }
}

void Paths::note_failure(Operation operation, std::uint64_t bytes, Code why, Clock::time_point begin) {
  if (counters_) counters_->failed(paths_.size(), operation, bytes, begin, why, false);
}

void Paths::count_failure(std::size_t path, const Need& need, Clock::time_point begin, const Status& why) {
  if (counters_) counters_->failed(path, operation_of(need.direction), need.bytes, begin, why.code(), is_of_path(why));
}

template <typename AnyPath>
auto& Paths::cell_of(AnyPath& path, const Need& need) {
  const std::size_t kind = (need.direction == Direction::kWrite ? 4u : 0u) | (need.region->device.is_host() ? 0u : 2u) |
                           (need.local.is_host() ? 0u : 1u);
  return path.measured[kind][size_class(need.bytes)];
}

Paths::Speed Paths::speed(const Path& path, const Need& need) {
  // Relaxed: statistics on their own.
  const auto& cell = cell_of(path, need);
  if (cell.samples.load(std::memory_order_relaxed) >= kEnough) {
    return {cell.gbps.load(std::memory_order_relaxed), true};
  }
  return {path.transport->capabilities().expected_gbps, false};
}

bool Paths::will_do(const Path& path, const Need& need, std::string* reason) const {
  const auto no = [reason](const auto& why) {
    if (reason != nullptr) *reason = why();
    return false;
  };
  const auto& capabilities = path.transport->capabilities();
  const Requirement& requirement = *need.requirement;
  if (!requirement.path.empty() && requirement.path != path.transport->name()) {
    return no([&] { return "the caller requires " + requirement.path; });
  }
  if (capabilities.named_only && requirement.path.empty()) return no([] { return "it is taken only by who names it"; });
  const bool is_of_host = need.region->device.is_host();
  if (need.direction == Direction::kWrite && !capabilities.writes) return no([] { return "it does not write"; });
  if (capabilities.of_devices && is_of_host && (need.local.is_host() || need.direction == Direction::kWrite)) {
    return no([] { return "the memory is the host's"; });
  }
  if (capabilities.same_host_only && !facts_.same_host()) return no([&] { return unshared_; });
  if (const Status reached = path.transport->reaches(facts_, *need.region); !reached) {
    return no([&] { return reached.message(); });
  }
  if (!capabilities.serves(need.local)) {
    return no([&] { return "it does not serve local memory of device type " + std::to_string(need.local.type); });
  }
  // Relaxed: what stands behind it is read under the mutex.
  if (Clock::now().time_since_epoch().count() < path.retry_at.load(std::memory_order_relaxed)) {
    return no([&] {
      const std::lock_guard guard(mutex_);
      return "left alone for a while, for it failed: " + path.failure.message();
    });
  }
  if (const auto [gbps, measured] = speed(path, need); gbps < requirement.min_gbps) {
    return no([&, gbps = gbps, measured = measured] {
      return "too slow: " + number(gbps) + " GB/s " + (measured ? "measured" : "expected") + ", the caller requires " +
             number(requirement.min_gbps);
    });
  }
  return true;
}

std::size_t Paths::best(const Need& need) const {
  std::size_t found = paths_.size();
  Speed fastest;
  for (std::size_t i = 0; i < paths_.size(); ++i) {
    const Speed own = speed(*paths_[i], need);
    const bool is_first = found == paths_.size();
    // What was assumed of one says nothing beside what was measured of the other.
    const bool is_faster = own.measured && fastest.measured && own.gbps > fastest.gbps * kClearlyFaster;
    if ((!is_first && !is_faster) || !will_do(*paths_[i], need, nullptr)) continue;
    found = i;
    fastest = own;
  }
  return found;
}

Explanation Paths::explain(const Need& need) const {
  Explanation explanation;
  explanation.failovers = failovers_.load(std::memory_order_relaxed);  // a statistic on its own
  const std::size_t at = best(need);
  const Path* const chosen = at < paths_.size() ? paths_[at].get() : nullptr;
  if (chosen != nullptr) explanation.chosen = chosen->transport->name();
  for (const auto& path : paths_) {
    auto& candidate = explanation.candidates.emplace_back();
    candidate.path = path->transport->name();
    const auto [gbps, measured] = speed(*path, need);
    candidate.gbps = gbps;
    candidate.measured = measured;
    candidate.usable = will_do(*path, need, &candidate.reason);
    if (!candidate.usable) continue;
    candidate.reason = path.get() == chosen ? "taken" : explanation.chosen + " is preferred";
  }
  return explanation;
}

Explanation Paths::explain(const Region& region, std::uint64_t bytes, const Requirement& requirement,
                           Direction direction, const transport::Device& local) const {
  return explain({direction, &region, bytes, &requirement, local});
}

void Paths::probe(const Region& region, const os::Wait& wait) {
  const Requirement nothing;
  for (const auto& path : paths_) {
    if (!will_do(*path, {Direction::kRead, &region, 1, &nothing}, nullptr)) continue;
    if (const auto connected = endpoint(*path, wait); !connected) fail(*path, connected.status());
  }
}

template <typename Answer>
Result<Answer> Paths::first_answer(const Need& need, const os::Wait& wait,
                                   FunctionRef<Result<Answer>(std::size_t path, transport::Endpoint& endpoint)> ask) {
  std::string reasons;
  for (std::size_t i = 0; i < paths_.size(); ++i) {
    std::string reason;
    if (will_do(*paths_[i], need, &reason)) {
      auto connected = endpoint(*paths_[i], wait);
      auto answer = connected ? ask(i, **connected) : Result<Answer>(connected.status());
      if (answer || !is_of_path(answer.status())) return answer;
      reason = answer.status().message();
    }
    reasons += (i > 0 ? "; " : "") + std::string(paths_[i]->transport->name()) + ": " + reason;
  }
  return Status(Code::kUnsupported, "no path to " + facts_.name + " will do. " + reasons);
}

Result<transport::MappedBytes> Paths::map_device(const Region& region, std::uint64_t offset, std::uint64_t length,
                                                 const os::Wait& wait) {
  const Requirement nothing;
  const auto begin = Clock::now();
  const auto ask = [&](std::size_t path, transport::Endpoint& endpoint) {
    auto mapped = endpoint.map(region, offset, length, wait);
    if (mapped && counters_) counters_->moved(path, Operation::kMap, length, begin, Clock::now() - begin);
    return mapped;
  };
  return first_answer<transport::MappedBytes>({Direction::kRead, &region, length, &nothing, region.device}, wait, ask);
}

Result<transport::Device> Paths::here(const Region& region, const os::Wait& wait) {
  const Requirement nothing;
  const auto ask = [&](std::size_t /*path*/, transport::Endpoint& endpoint) {
    return endpoint.here(region.device, wait);
  };
  return first_answer<transport::Device>({Direction::kRead, &region, 1, &nothing, region.device}, wait, ask);
}

Status Paths::read(std::span<const Run> runs, const Requirement& requirement, const os::Wait& wait, ReadBy read_by) {
  Chosen chosen;
  return move(Direction::kRead, runs, chosen, requirement, wait, read_by);
}

Status Paths::read(std::span<const Run> runs, Chosen& chosen, const Requirement& requirement, const os::Wait& wait,
                   ReadBy read_by) {
  return move(Direction::kRead, runs, chosen, requirement, wait, read_by);
}

Status Paths::write(std::span<const Run> runs, const Requirement& requirement, const os::Wait& wait) {
  Chosen chosen;
  return move(Direction::kWrite, runs, chosen, requirement, wait);
}

Result<Paths::Chosen> Paths::choose(std::span<const Run> runs, const Requirement& requirement, const os::Wait& wait) {
  const Run& first = runs.front();
  std::string failed;
  return choose({Direction::kRead, first.region, bytes_of(runs), &requirement, first.local_device}, failed, wait);
}

// The transfer goes on by another path.
void Paths::note_failover(const Need& need, std::string& failed, std::size_t taken) {
  failovers_.fetch_add(1, std::memory_order_relaxed);  // a statistic on its own
  if (warn_) {
    warn_((need.direction == Direction::kRead ? "fetch of " : "push of ") + std::to_string(need.bytes) +
          " bytes, agent \"" + facts_.name + "\", failed " + failed + "; " +
          std::string(paths_[taken]->transport->name()) + " was taken instead");
  }
  failed.clear();
}

Result<Paths::Chosen> Paths::choose(const Need& need, std::string& failed, const os::Wait& wait) {
  Status last;
  // Each failure takes one path out for a while, so that this ends.
  for (std::size_t attempt = 0; attempt < paths_.size(); ++attempt) {
    const std::size_t at = best(need);
    if (at == paths_.size()) break;
    const auto begin = Clock::now();
    auto connected = endpoint(*paths_[at], wait);
    if (connected) {
      if (!failed.empty()) note_failover(need, failed, at);
      return Chosen{at, std::move(*connected)};
    }
    last = connected.status().with_context("by " + std::string(paths_[at]->transport->name()));
    count_failure(at, need, begin, last);
    if (!is_of_path(last)) return last;
    fail(*paths_[at], last);
    append(failed, last);
  }
  if (!last) return last;
  note_failure(operation_of(need.direction), need.bytes, Code::kUnsupported);
  const std::string& wanted = need.requirement->path;
  const bool is_known = wanted.empty() || std::ranges::any_of(paths_, [&](const auto& each) {
                          return each->transport->name() == wanted;
                        });
  if (!is_known) {
    std::string names;
    for (const auto& path : paths_) names += (names.empty() ? "" : ", ") + std::string(path->transport->name());
    return Status(Code::kUnsupported, "there is no path \"" + wanted + "\"; this agent has " + names);
  }
  return Status(Code::kUnsupported, "no path to " + facts_.name + " will do. " + list_of(explain(need)));
}

Status Paths::move(Direction direction, std::span<const Run> runs, Chosen& chosen, const Requirement& requirement,
                   const os::Wait& wait, ReadBy read_by) {
  const Need need{direction, runs.empty() ? nullptr : runs.front().region, bytes_of(runs), &requirement,
                  runs.empty() ? transport::Device() : runs.front().local_device};
  if (need.bytes == 0) return Status::ok();
  if (direction == Direction::kWrite) BEELINE_RETURN_IF_ERROR(quiet(wait));
  Status last;
  std::string failed;
  // Likewise.
  for (std::size_t attempt = 0; attempt < paths_.size(); ++attempt) {
    // What was chosen once may not reach the region any more: explain() says why.
    const Status reached =
        chosen.endpoint == nullptr ? Status::ok() : paths_[chosen.path]->transport->reaches(facts_, *need.region);
    if (!reached) {
      count_failure(chosen.path, need, Clock::now(), reached);
      append(failed, Status(reached).with_context("by " + std::string(paths_[chosen.path]->transport->name())));
      chosen.endpoint.reset();
    }
    if (chosen.endpoint == nullptr) {
      auto found = choose(need, failed, wait);
      // What failed says more than that nothing is left.
      if (!found) return attempt == 0 || !is_of_path(found.status()) ? found.status() : last;
      chosen = std::move(*found);
    }
    Path& path = *paths_[chosen.path];
    const auto begin = Clock::now();
    last = direction == Direction::kRead ? read_once(path, *chosen.endpoint, runs, wait, read_by)
                                         : chosen.endpoint->write(runs, wait);
    if (last) {
      const Nanos took = Clock::now() - begin;
      if (!read_by) note_speed(path, need, took);
      if (counters_) counters_->moved(chosen.path, operation_of(direction), need.bytes, begin, took);
      return last;
    }
    if (direction == Direction::kWrite) note_unquiet(chosen.endpoint);
    last = std::move(last).with_context("by " + std::string(path.transport->name()));
    count_failure(chosen.path, need, begin, last);
    if (!is_of_path(last)) return last;
    fail(path, last);
    append(failed, last);
    chosen.endpoint.reset();
  }
  return last;
}

// On another host the lease table is not at hand. What reads past the owner, or in several goes, asks it.
Status Paths::read_once(const Path& path, transport::Endpoint& endpoint, std::span<const Run> runs,
                        const os::Wait& wait, ReadBy read_by) const {
  const auto read = [&] {
    return read_by ? read_by(endpoint, path.transport->capabilities(), wait) : endpoint.read(runs, wait);
  };
  if (facts_.same_host() || (path.transport->exporter() == nullptr && !read_by)) return read();
  const transport::Region& region = *runs.front().region;
  BEELINE_ASSIGN(const std::uint64_t before, facts_.owner->writes(region, wait));
  if (memory::PublicationSlot::is_being_written(before)) return transport::torn();
  BEELINE_RETURN_IF_ERROR(read());
  BEELINE_ASSIGN(const std::uint64_t after, facts_.owner->writes(region, wait));
  return before == after ? Status::ok() : transport::torn();
}

void Paths::note_unquiet(const std::shared_ptr<transport::Endpoint>& endpoint) {
  const std::lock_guard guard(mutex_);
  if (std::ranges::find(unquiet_, endpoint) == unquiet_.end()) unquiet_.push_back(endpoint);
  is_quiet_ = false;
}

Status Paths::quiet(const os::Wait& wait) {
  while (!is_quiet_) {
    std::shared_ptr<transport::Endpoint> endpoint;
    {
      const std::lock_guard guard(mutex_);
      is_quiet_ = unquiet_.empty();
      if (is_quiet_) break;
      endpoint = unquiet_.back();
    }
    const Status done = endpoint->quiet(wait);
    if (!done && done.code() != Code::kPeerLost) {
      return Status(done).with_context("while " + facts_.name + " lets go of an earlier push, which has failed");
    }
    const std::lock_guard guard(mutex_);
    std::erase(unquiet_, endpoint);
  }
  return Status::ok();
}

void Paths::note_speed(Path& path, const Need& need, Nanos took) {
  const double gbps = static_cast<double>(need.bytes) / static_cast<double>(std::max<Nanos::rep>(took.count(), 1));
  auto& cell = cell_of(path, need);
  // Relaxed: statistics; a measurement that another thread overwrites is lost and no harm.
  const bool is_first = cell.samples.fetch_add(1, std::memory_order_relaxed) == 0;
  const double before = cell.gbps.load(std::memory_order_relaxed);
  cell.gbps.store(is_first ? gbps : before + kNewest * (gbps - before), std::memory_order_relaxed);
}

Result<std::shared_ptr<transport::Endpoint>> Paths::endpoint(Path& path, const os::Wait& wait) {
  // One thread connects; others wait for it, each no longer than it may.
  for (std::uint32_t nobody = 0;; nobody = 0) {
    {
      const std::lock_guard guard(mutex_);
      if (path.endpoint != nullptr) return path.endpoint;
    }
    if (path.connecting.compare_exchange_strong(nobody, 1)) break;
    BEELINE_RETURN_IF_ERROR(wait.check().with_context("while another thread connects to " + facts_.name));
    os::futex_wait(path.connecting, 1, wait.tick());
    if (wait.is_interrupted()) {
      return Status(Code::kInterrupted, "a signal ended the wait for a connection to " + facts_.name);
    }
  }
  const Connecting connecting{path.connecting};
  BEELINE_ASSIGN(std::shared_ptr<transport::Endpoint> made, path.transport->connect(facts_, wait));
  const std::lock_guard guard(mutex_);
  path.endpoint = std::move(made);
  return path.endpoint;
}

void Paths::fail(Path& path, const Status& status) {
  std::shared_ptr<transport::Endpoint> dropped;  // ends without the lock
  const std::lock_guard guard(mutex_);
  dropped = std::move(path.endpoint);
  path.failure = status;
  // Relaxed: as in will_do().
  path.retry_at.store((Clock::now() + kCooldown).time_since_epoch().count(), std::memory_order_relaxed);
}

}  // namespace beeline::transfer
