#include "beeline/transfer/peer.h"

#include <algorithm>
#include <climits>
#include <utility>

#include "beeline/os/futex.h"
#include "beeline/transfer/notifications.h"

namespace beeline::transfer {

using transport::Region;
using transport::Run;

namespace {

// The same question of a later use of the region's slot.
bool is_newer(const messages::Ask& answered, const messages::Ask& asked) {
  return answered.question == asked.question && answered.path == asked.path && answered.slot == asked.slot &&
         answered.generation > asked.generation;
}

// Declared before leases: asks for cleaning once they have ended, whichever way the function is left.
struct Cleaner {
  Peer& peer;
  ~Cleaner() { peer.request_cleaning(); }
};

}  // namespace

void Peer::set_gone(const std::string& why) {
  const std::lock_guard guard(mutex_);
  if (is_gone()) return;
  why_gone_ = why;
  gone_.store(true, std::memory_order_release);
  answered_.fetch_add(1);
  os::futex_wake(answered_, INT_MAX);
}

void Peer::set_answer(const messages::Ask& asked, Result<Bytes> answer) {
  const std::lock_guard guard(mutex_);
  if (!asked_.contains(asked)) return;  // nobody waits for it (any more)
  // Those that this use of the slot has outdated go.
  messages::Ask first = asked;
  first.generation = 0;
  first.address = first.length = 0;
  messages::Ask own = asked;
  own.address = own.length = 0;
  for (auto it = answers_.lower_bound(first); it != answers_.end() && it->first < own;) {
    it = it->first.serial == 0 ? answers_.erase(it) : std::next(it);  // those with a serial are their waiter's
  }
  answers_.insert_or_assign(asked, std::move(answer));
  answered_.fetch_add(1);
  os::futex_wake(answered_, INT_MAX);
}

void Peer::learn(const Descriptor& descriptor) {
  const RegionKeys& given = descriptor.keys;
  const std::lock_guard guard(mutex_);
  for (std::size_t i = 0; i < given.keys.size(); ++i) {
    const Region& region = descriptor.regions[i];
    const auto asked = messages::ask_about(messages::Question::kReadKey, given.path, region);
    given_.insert_or_assign({given.path, region.id.slot}, std::pair(asked, given.keys[i]));
  }
}

std::optional<Bytes> Peer::given_key(const messages::Ask& asked) const {
  const std::lock_guard guard(mutex_);
  if (answers_.contains(asked)) return std::nullopt;
  const auto found = given_.find({asked.path, asked.slot});
  if (found == given_.end() || found->second.first != asked) return std::nullopt;
  return found->second.second;
}

Status Peer::require_grants(std::span<const Run> runs, const os::Wait& wait) {
  const Region* granted = nullptr;
  for (const Run& run : runs) {
    if (granted == run.region) continue;
    granted = run.region;
    BEELINE_RETURN_IF_ERROR(ask(messages::ask_about(messages::Question::kMayWrite, {}, *granted), wait)
                                .status()
                                .with_context("while asking for the right to write"));
  }
  return Status::ok();
}

Result<Bytes> Peer::contact(std::string_view path, const os::Wait& wait) {
  return ask(messages::ask_about(messages::Question::kContact, path, {}), wait);
}

Result<Bytes> Peer::key(std::string_view path, const Region& region, transport::Access access, const os::Wait& wait) {
  using messages::Question;
  const bool is_read = access == transport::Access::kRead;
  const auto asked = messages::ask_about(is_read ? Question::kReadKey : Question::kWriteKey, path, region);
  if (is_read) {
    if (auto given = given_key(asked)) return std::move(*given);
  }
  return ask(asked, wait);
}

std::uint64_t Peer::next_serial() {
  const std::lock_guard guard(mutex_);
  return ++last_serial_;
}

// An answer to what has a serial is its waiter's alone.
void Peer::forget(const messages::Ask& asked) {
  const std::lock_guard guard(mutex_);
  answers_.erase(asked);
}

Status Peer::notify(const std::string& topic, BytesView payload, const os::Wait& wait) {
  if (payload.size() > kMaxNotification || topic.size() > kMaxNotificationTopic) {
    return {Code::kInvalidArgument, "a notification of " + std::to_string(payload.size()) + " bytes under a topic of " +
                                        std::to_string(topic.size()) + ": at most " + std::to_string(kMaxNotification) +
                                        " and " + std::to_string(kMaxNotificationTopic) + "; push() moves more"};
  }
  messages::Ask asked = messages::ask_about(messages::Question::kNotified, topic, {});
  asked.serial = next_serial();
  const messages::Notify said{topic, asked.serial, Bytes(payload.begin(), payload.end())};
  const Status status = ask(asked, messages::encode(messages::Type::kNotify, said), wait).status();
  forget(asked);
  return status;
}

Result<Bytes> Peer::ask_anew(messages::Ask asked, const os::Wait& wait) {
  asked.serial = next_serial();
  auto answer = ask(asked, wait);
  forget(asked);
  return answer;
}

Status Peer::announce(std::string_view path, const Region& region, const os::Wait& wait) {
  return ask_anew(messages::ask_about(messages::Question::kAnnounce, path, region), wait).status();
}

Result<std::shared_ptr<void>> Peer::begin_write(const Region& region, const os::Wait& wait) {
  struct Writing {
    std::shared_ptr<Peer> peer;
    std::uint64_t serial;
    ~Writing() {
      if (peer->fork_count_ != os::fork_count()) return;
      peer->requests_.tell(peer, messages::encode(messages::Type::kWritten, messages::Written{serial}));
    }
  };
  BEELINE_RETURN_IF_ERROR(check_alive());
  messages::Ask asked = messages::ask_about(messages::Question::kBeginWrite, {}, region);
  asked.serial = next_serial();
  const auto answer = ask(asked, wait);
  forget(asked);
  const Code code = answer.status().code();
  // Whose answer was not waited for may have begun.
  const bool is_unknown = code == Code::kDeadlineExceeded || code == Code::kCancelled || code == Code::kInterrupted;
  std::shared_ptr<Writing> writing;
  if (answer || is_unknown) writing.reset(new Writing{shared_from_this(), asked.serial});
  if (!answer) return answer.status();
  return std::shared_ptr<void>(std::move(writing));
}

Result<std::uint64_t> Peer::writes(const Region& region, const os::Wait& wait) {
  const auto answer = ask_anew(messages::ask_about(messages::Question::kWrites, {}, region), wait);
  BEELINE_RETURN_IF_ERROR(answer.status());
  Reader reader(*answer);
  const auto writes = reader.read<std::uint64_t>();
  if (!reader.ok()) return Status(Code::kCorrupt, "an answer that is no number");
  return writes;
}

Result<std::uint64_t> Peer::writes_to(std::span<const Region* const> regions, const os::Wait& wait) {
  std::uint64_t sum = 0;
  for (const Region* region : regions) {
    std::uint64_t writes = 0;
    if (!facts().same_host()) {
      BEELINE_ASSIGN(writes, this->writes(*region, wait));
    } else if (region->id.slot < memory::kMaxPublications) {
      writes = facts().arena->writes_after(region->id);
    }
    if (memory::PublicationSlot::is_being_written(writes)) return transport::torn();
    sum += writes;
  }
  return sum;
}

// What was answered well is asked once; a refusal is asked for again, for it may be otherwise by now.
Result<Bytes> Peer::ask(const messages::Ask& asked, const os::Wait& wait) {
  return ask(asked, messages::encode(messages::Type::kAsk, asked), wait);
}

Result<Bytes> Peer::ask(const messages::Ask& asked, BytesView frame, const os::Wait& wait) {
  {
    const std::lock_guard guard(mutex_);
    const auto known = answers_.find(asked);
    if (known != answers_.end() && known->second) return known->second;
    if (known != answers_.end()) answers_.erase(known);
    ++asked_[asked];
  }
  const Waiting waiting{*this, asked};
  requests_.tell(shared_from_this(), frame);
  for (;;) {
    // Before the look: what changes after it makes the sleep end at once.
    const std::uint32_t ticket = answered_.load();
    {
      const std::lock_guard guard(mutex_);
      const auto known = answers_.lower_bound(asked);
      if (known != answers_.end() && known->first == asked) return known->second;
      if (known != answers_.end() && is_newer(known->first, asked)) {
        return Status(Code::kStale, "the registration was undone, and its place is used for another one");
      }
    }
    BEELINE_RETURN_IF_ERROR(check_alive());
    BEELINE_RETURN_IF_ERROR(
        wait.check().with_context("while waiting for an answer of agent \"" + address_.name + "\""));
    os::futex_wait(answered_, ticket, wait.tick());
    if (wait.is_interrupted()) {
      return Status(Code::kInterrupted, "a signal ended the wait for an answer");
    }
  }
}

Status Peer::check_alive() const {
  if (fork_count_ != os::fork_count()) {
    return {Code::kUnsupported, "this process was forked from the one that connected: open an agent of its own"};
  }
  return is_gone() ? gone() : Status::ok();
}

Status Peer::gone() const {
  const std::lock_guard guard(mutex_);
  return {Code::kPeerLost, "agent \"" + address_.name + "\" is gone: " + why_gone_};
}

// A peer that has ended makes transfers fail in many ways; they have one cause.
Status Peer::lost_or(Status status) const {
  if (status || !is_gone()) return status;
  return gone();
}

Result<std::vector<memory::Lease>> Peer::lease(std::span<const Run> runs, Operation operation) {
  std::vector<memory::Lease> leases;
  if (!facts().same_host()) return leases;
  const Region* leased = nullptr;
  for (const Run& run : runs) {
    if (leased == run.region) continue;
    leased = run.region;
    const bool again = std::ranges::any_of(leases, [&](const auto& lease) { return lease.id() == run.region->id; });
    if (again) continue;
    auto lease = facts().arena->acquire(run.region->id, {});
    if (!lease) {
      paths_.note_failure(operation, transport::bytes_of(runs), lease.status().code());
      return lease.status();
    }
    leases.push_back(std::move(*lease));
  }
  return leases;
}

// The sum tells as much as each: they only grow.
Result<std::uint64_t> Peer::begin_reading(std::span<const memory::Lease> leases, std::uint64_t bytes) {
  std::uint64_t sum = 0;
  for (const auto& lease : leases) {
    const std::uint64_t writes = facts().arena->writes_before(lease.id());
    sum += writes;
    if (!memory::PublicationSlot::is_being_written(writes)) continue;
    paths_.note_failure(Operation::kFetch, bytes, Code::kTorn);
    return transport::torn();
  }
  return sum;
}

// Holds keep blocks of the arena from being reused, not memory outside it: what was undone meanwhile may be something
// else by now.
Status Peer::end_reading(std::span<const memory::Lease> leases, std::uint64_t writes, std::uint64_t bytes) {
  for (const auto& lease : leases) {
    writes -= facts().arena->writes_after(lease.id());
    if (facts().arena->is_published(lease.id())) continue;
    paths_.note_failure(Operation::kFetch, bytes, Code::kStale);
    return {Code::kStale, "the registration was undone while it was read"};
  }
  if (writes == 0) return Status::ok();
  paths_.note_failure(Operation::kFetch, bytes, Code::kTorn);
  return transport::torn();
}

Status Peer::read(std::span<const Run> runs, const Requirement& requirement, const os::Wait& wait, ReadBy read_by) {
  BEELINE_RETURN_IF_ERROR(check_alive());
  BEELINE_RETURN_IF_ERROR(transport::check_bounds(runs));
  BEELINE_RETURN_IF_ERROR(wait.check());
  const Cleaner cleaner{*this};
  BEELINE_ASSIGN(auto leases, lease(runs));
  const std::uint64_t bytes = transport::bytes_of(runs);
  BEELINE_ASSIGN(const std::uint64_t writes, begin_reading(leases, bytes));
  Status status = paths_.read(runs, requirement, wait, read_by);
  if (status) status = end_reading(leases, writes, bytes);
  return lost_or(std::move(status));
}

Status Peer::check_path(std::span<const Run> runs, const Requirement& requirement, const os::Wait& wait) {
  BEELINE_RETURN_IF_ERROR(check_alive());
  BEELINE_RETURN_IF_ERROR(transport::check_bounds(runs));
  return lost_or(paths_.choose(runs, requirement, wait).status());
}

Status Peer::read_prepared(std::span<const Run> runs, Paths::Chosen& chosen, const Requirement& requirement,
                           const os::Wait& wait, ReadBy read_by) {
  BEELINE_RETURN_IF_ERROR(check_alive());
  BEELINE_RETURN_IF_ERROR(wait.check());
  return lost_or(paths_.read(runs, chosen, requirement, wait, read_by));
}

Status Peer::write(std::span<const Run> runs, const Requirement& requirement, const os::Wait& wait) {
  BEELINE_RETURN_IF_ERROR(check_alive());
  BEELINE_RETURN_IF_ERROR(transport::check_bounds(runs));
  BEELINE_RETURN_IF_ERROR(wait.check());
  const Cleaner cleaner{*this};
  BEELINE_ASSIGN(auto leases, lease(runs, Operation::kPush));
  // Over a network the owner's server looks itself.
  Status status = facts().same_host() ? require_grants(runs, wait) : Status::ok();
  if (!status) {
    paths_.note_failure(Operation::kPush, transport::bytes_of(runs), status.code());
    return status;
  }
  status = paths_.write(runs, requirement, wait);
  return lost_or(std::move(status));
}

// Where leases have ended, pages are to be dropped, and owners may wait to be told.
void Peer::request_cleaning() {
  if (!facts().same_host() || !facts().arena->needs_cleaning()) return;
  if (!cleaning_.exchange(true)) requests_.clean(shared_from_this());
}

Result<transport::Device> Peer::here(const Region& region, const os::Wait& wait) {
  if (region.device.is_host()) return region.device;
  BEELINE_RETURN_IF_ERROR(check_alive());
  auto found = paths_.here(region, wait);
  if (!found) return lost_or(found.status());
  return found;
}

Result<Mapped> Peer::map_device(const Region& region, std::uint64_t offset, std::uint64_t length,
                                const os::Wait& wait) {
  const Run run{&region, offset, nullptr, length};
  BEELINE_ASSIGN(auto leases, lease({&run, 1}, Operation::kMap));
  auto bytes = paths_.map_device(region, offset, length, wait);
  if (!bytes) {
    paths_.note_failure(Operation::kMap, length, bytes.status().code());
    return lost_or(bytes.status());
  }
  struct Held {
    std::shared_ptr<Peer> peer;
    std::vector<memory::Lease> leases;
    std::shared_ptr<void> bytes;
    ~Held() {
      bytes.reset();  // which waits for what this process does with them
      leases.clear();
      peer->request_cleaning();
    }
  };
  std::shared_ptr<Held> held(new Held{shared_from_this(), std::move(leases), std::move(bytes->hold)});
  return Mapped{std::move(held), bytes->data, bytes->device};
}

Status Peer::check_mappable(const Region& region, std::uint64_t offset, std::uint64_t length) {
  BEELINE_RETURN_IF_ERROR(check_alive());
  const Run run{&region, offset, nullptr, length};
  BEELINE_RETURN_IF_ERROR(transport::check_bounds({&run, 1}));
  if (!region.device.is_host()) return Status::ok();
  if (facts().same_host() && region.in_arena() && !facts().arena->is_detached(region.id)) return Status::ok();
  paths_.note_failure(Operation::kMap, length, Code::kUnsupported);
  const auto explanation = explain(region, length, {.path = "shm"});
  return {Code::kUnsupported, "map: " + explanation.candidates.front().reason + "; fetch() copies it"};
}

Result<Mapped> Peer::view(const Region& region, std::uint64_t offset, std::uint64_t length) {
  const Cleaner cleaner{*this};
  BEELINE_RETURN_IF_ERROR(check_mappable(region, offset, length));
  if (!region.device.is_host()) return Status(Code::kUnsupported, "a view is of the host's memory: map() is of others");
  BEELINE_ASSIGN(auto viewed, paths_.view(region.id, {region.arena_offset + offset, length}));
  struct Held {
    std::shared_ptr<Peer> peer;
    memory::Lease hold;
    ~Held() {
      hold.done_reading();
      peer->request_cleaning();  // its owner may have to be told
    }
  };
  auto* const data = const_cast<std::byte*>(viewed.data);
  return Mapped{std::shared_ptr<Held>(new Held{shared_from_this(), std::move(viewed.hold)}), data, region.device};
}

Result<Mapped> Peer::map(const Region& region, std::uint64_t offset, std::uint64_t length, const os::Wait& wait) {
  const Cleaner cleaner{*this};
  BEELINE_RETURN_IF_ERROR(check_mappable(region, offset, length));
  if (!region.device.is_host()) return map_device(region, offset, length, wait);
  const memory::Range range{region.arena_offset + offset, length};
  BEELINE_ASSIGN(auto lease, paths_.map(region.id, {&range, 1}));
  struct Held {
    std::shared_ptr<Peer> peer;
    memory::Lease lease;
    ~Held() {
      lease.done_reading();
      peer->request_cleaning();
    }
  };
  Mapped mapped;
  mapped.data = lease.at(range.offset);
  mapped.lease = std::shared_ptr<Held>(new Held{shared_from_this(), std::move(lease)});
  return mapped;
}

}  // namespace beeline::transfer
