#include "beeline/transfer/relay.h"

#include <algorithm>
#include <climits>
#include <utility>

#include "beeline/os/futex.h"
#include "beeline/transfer/agent.h"
#include "beeline/transfer/checksum.h"

namespace beeline::transfer {

using messages::Step;
using messages::Type;
using transport::Region;

namespace {

// What somebody else may take of a wait until he is given up: a part of what is left, and at most so long.
constexpr int kParts = 4;
constexpr auto kPatience = std::chrono::seconds(15);
// After so many parts of the wait, which are more than half of it, a reader waits for nobody any more.
constexpr int kAsksInTime = 3;
// Read in one go of a relay, which has to send it in its part of the wait. What has arrived is not read again.
constexpr std::uint64_t kSlice = std::uint64_t{64} << 20;

os::Wait part_of(const os::Wait& wait) {
  os::Wait part = wait;
  part.deadline = Deadline::after(std::min<Nanos>(wait.deadline.left() / kParts, kPatience));
  return part;
}

std::string text_of(const std::string& name, std::uint64_t number) {
  return "version " + std::to_string(number) + " of \"" + name + "\"";
}

Status check_sums(const Descriptor& tensors, const std::byte* block) {
  for (std::size_t i = 0; i < tensors.checksums.size(); ++i) {
    const TensorSpec& spec = tensors.spec(i);
    if (spec.elements() == 0) continue;
    if (checksum_of(spec, block + tensors.places[i].offset, spec.strides) == tensors.checksums[i]) continue;
    return {Code::kTorn, "a tensor of " + std::to_string(spec.bytes()) +
                             " bytes arrived with another checksum than its publisher took"};
  }
  return Status::ok();
}

std::shared_ptr<const Descriptor> moved_to(const Descriptor& tensors, std::string owner, const Region& region) {
  Descriptor moved = tensors;
  moved.owner = std::move(owner);
  moved.regions = {region};
  return std::make_shared<const Descriptor>(std::move(moved));
}

}  // namespace

struct Relay::Reading {
  std::shared_ptr<memory::Arena> arena;
  std::uint64_t length = 0;
  std::byte* block = nullptr;
  std::uint64_t done = 0;
  bool is_second_hand = false;  // some of it came from relays

  Reading(std::shared_ptr<memory::Arena> home, std::uint64_t bytes) : arena(std::move(home)), length(bytes) {}
  Reading(const Reading&) = delete;
  ~Reading() {
    if (block != nullptr) arena->release(block);  // a registration keeps it
  }

  Status make_room() {
    if (block != nullptr) return Status::ok();
    BEELINE_ASSIGN(block, arena->allocate(length));
    return Status::ok();
  }
};

// One thread obtains a version, others wait for it.
struct Relay::Turn {
  Relay& relay;
  ~Turn() {
    {
      const std::lock_guard guard(relay.mutex_);
      relay.is_busy_ = false;
    }
    relay.wake();
  }
};

void Relay::wake() {
  changes_.fetch_add(1);
  os::futex_wake(changes_, INT_MAX);
}

bool Relay::is_good() const {
  if (near_.copy != nullptr) return true;
  return near_.tensors != nullptr && near_peer_ != nullptr && !near_peer_->is_gone() &&
         near_peer_->facts().arena->is_published(near_.tensors->regions.front().id);
}

Version Relay::latest() const {
  const std::lock_guard guard(mutex_);
  return is_good() ? near_ : Version{};
}

void Relay::set_parent(messages::Parent parent) {
  {
    const std::lock_guard guard(mutex_);
    if (parent.serial != serial_) return;  // of what was asked before
    told_ = std::move(parent);
  }
  wake();
}

std::shared_ptr<void> Relay::recall(std::uint64_t number) {
  const std::lock_guard guard(mutex_);
  const auto found = offered_.find(number);
  if (found == offered_.end()) return nullptr;
  std::shared_ptr<void> dropped = std::move(found->second);
  offered_.erase(found);
  if (near_.number == number) near_ = {};
  return dropped;
}

void Relay::end(const Status& why) {
  {
    const std::lock_guard guard(mutex_);
    if (!ended_) return;
    ended_ = why;
  }
  wake();
}

Result<Version> Relay::obtain(const Version& wanted, const os::Wait& wait) {
  if (!needs_copies()) return wanted;
  const auto agent = agent_.lock();  // it is not closed before this ends
  if (agent == nullptr) return Status(Code::kPeerLost, "the agent that subscribed was closed");
  BEELINE_ASSIGN(auto known, take_turn(wanted.number, wait));
  if (known) return std::move(*known);
  const Turn turn{*this};
  Version lost;
  {
    const std::lock_guard guard(mutex_);
    if (near_.number == wanted.number) lost = near_;
  }
  // Mapped from a relay on this host, which has ended since.
  if (lost.number > 0) note_failure(*agent, lost.tensors->owner, {Code::kPeerLost, "its copy is gone"});
  auto got = get(*agent, wanted, lost.number > 0 ? Step::kFailed : Step::kFirst, wait);
  if (got) return got;
  tell(*agent, wanted.number, Step::kGaveUp, 0);
  return got.status().with_context("while getting " + text_of(name_, wanted.number));
}

// What is near already; nothing when it is this thread's turn to get it.
Result<std::optional<Version>> Relay::take_turn(std::uint64_t number, const os::Wait& wait) {
  for (;;) {
    // Before the look: what changes after it makes the sleep end at once.
    const std::uint32_t ticket = changes_.load();
    {
      const std::lock_guard guard(mutex_);
      if (near_.number >= number && is_good()) return std::optional(near_);
      if (!std::exchange(is_busy_, true)) return std::optional<Version>();
    }
    BEELINE_RETURN_IF_ERROR(
        wait.check().with_context("while waiting for another thread that gets " + text_of(name_, number)));
    os::futex_wait(changes_, ticket, wait.tick());
    if (wait.is_interrupted()) {
      return Status(Code::kInterrupted, "a signal ended the wait for " + text_of(name_, number));
    }
  }
}

Result<Version> Relay::get(Agent& agent, const Version& wanted, Step step, const os::Wait& wait) {
  const auto& regions = wanted.tensors->regions;
  if (regions.size() != 1 || regions.front().length == 0) {
    return Status(Code::kCorrupt, "its publisher describes it as " + std::to_string(regions.size()) + " regions");
  }
  Reading reading(agent.arena(), regions.front().length);
  for (;; step = Step::kFailed) {
    BEELINE_ASSIGN(const messages::Parent parent, ask(agent, wanted.number, step, wait));
    if (parent.code != 0) return Status(static_cast<Code>(parent.code), parent.message);
    const bool is_publisher = parent.owner.empty();
    const Region region = is_publisher ? regions.front() : parent.copy.region();
    Status status;
    if (!is_publisher) status = check_region(region);
    if (status && region.length != reading.length) {
      status = Status(Code::kCorrupt,
                      "it offers " + std::to_string(region.length) + " bytes, not " + std::to_string(reading.length));
    }
    std::shared_ptr<Peer> peer = is_publisher ? publisher_ : nullptr;
    if (status && peer == nullptr) {
      auto met = agent.peer(parent.owner, part_of(wait));
      status = met.status();
      if (met) peer = std::move(*met);
    }
    if (status && !is_publisher && peer->facts().same_host()) {
      if (peer->facts().arena->is_published(region.id)) return keep_near(wanted, parent.owner, region, peer);
      status = Status(Code::kStale, "its copy is gone");
    } else if (status) {
      BEELINE_RETURN_IF_ERROR(reading.make_room());
      status = read_rest(agent, *peer, region, reading, wanted.number, !is_publisher, wait);
      if (status) status = check_sums(*wanted.tensors, reading.block);
      if (status) return offer(agent, wanted, reading);
    }
    BEELINE_RETURN_IF_ERROR(wait.check().with_context(status.message()));
    if (status.code() == Code::kCancelled || status.code() == Code::kInterrupted) return status;
    const bool is_garbled = status.code() == Code::kTorn;
    if (is_publisher && !(is_garbled && reading.is_second_hand)) return status;
    note_failure(agent, is_publisher ? std::string() : parent.owner, status);
    if (!is_garbled) continue;
    reading.done = 0;
    reading.is_second_hand = false;
  }
}

// What is not there yet.
Status Relay::read_rest(Agent& agent, Peer& peer, const Region& region, Reading& reading, std::uint64_t number,
                        bool is_relay, const os::Wait& wait) {
  for (bool is_first = true; reading.done < reading.length; is_first = false) {
    if (!is_first) tell(agent, number, Step::kGetsOn, 0);
    const transport::Run run{&region, reading.done, reading.block + reading.done,
                             std::min(kSlice, reading.length - reading.done)};
    BEELINE_RETURN_IF_ERROR(peer.read({&run, 1}, {}, is_relay ? part_of(wait) : wait));
    reading.done += run.length;
    reading.is_second_hand = reading.is_second_hand || is_relay;
  }
  return Status::ok();
}

Version Relay::keep_near(const Version& wanted, const std::string& owner, const Region& region,
                         std::shared_ptr<Peer> peer) {
  const Version near{wanted.number, moved_to(*wanted.tensors, owner, region), nullptr};
  Version replaced;  // ends without the lock, as `peer` does
  const std::lock_guard guard(mutex_);
  replaced = std::exchange(near_, near);
  near_peer_.swap(peer);
  return near;
}

Result<Version> Relay::offer(Agent& agent, const Version& wanted, const Reading& reading) {
  const Piece piece{reading.block, reading.length};
  BEELINE_ASSIGN(auto registration, agent.regions()->add({&piece, 1}, nullptr, memory::Arena::Content::kAsPublished));
  const Region region = registration->regions().front();
  const Version near{wanted.number, moved_to(*wanted.tensors, agent.address().text(), region), registration};
  Version replaced;  // ends without the lock
  std::shared_ptr<Peer> left;
  {
    const std::lock_guard guard(mutex_);
    replaced = std::exchange(near_, near);
    left = std::exchange(near_peer_, nullptr);
    offered_[wanted.number] = std::move(registration);
  }
  const messages::Offer offered{name_, wanted.number, messages::CopiedRegion::of(region)};
  agent.send_to(*publisher_, messages::encode(Type::kOffer, offered));
  return near;
}

// Whom the publisher names. If it names nobody in a while it is asked again, and at last names one whatever happens.
Result<messages::Parent> Relay::ask(Agent& agent, std::uint64_t number, Step step, const os::Wait& wait) {
  for (int asked = 0;; ++asked) {
    // Those who wait for ever wait as long as others get on with it.
    if (asked > 0) step = asked < kAsksInTime || wait.deadline.is_never() ? Step::kOverdue : Step::kInsists;
    const os::Wait until = step == Step::kInsists ? wait : part_of(wait);
    std::uint64_t serial = 0;
    {
      const std::lock_guard guard(mutex_);
      serial = ++serial_;
      told_.reset();
    }
    tell(agent, number, step, serial);
    BEELINE_ASSIGN(auto told, hear(until, wait));
    if (told) return std::move(*told);
  }
}

// Nothing when the part of the wait has passed.
Result<std::optional<messages::Parent>> Relay::hear(const os::Wait& part, const os::Wait& whole) {
  for (;;) {
    const std::uint32_t ticket = changes_.load();  // as in take_turn()
    {
      const std::lock_guard guard(mutex_);
      if (told_) return std::exchange(told_, std::nullopt);
      if (!ended_) return ended_;
    }
    BEELINE_RETURN_IF_ERROR(whole.check().with_context("while waiting to be told by agent \"" +
                                                       publisher_->address().name + "\" whom to get it from"));
    if (part.deadline.passed()) return std::optional<messages::Parent>();
    os::futex_wait(changes_, ticket, part.tick());
    if (whole.is_interrupted()) return Status(Code::kInterrupted, "a signal ended the wait to be told of a parent");
  }
}

void Relay::tell(Agent& agent, std::uint64_t number, Step step, std::uint64_t serial) const {
  const messages::Seek seek{name_, number, static_cast<std::uint8_t>(step), serial};
  agent.send_to(*publisher_, messages::encode(Type::kSeek, seek));
}

void Relay::note_failure(Agent& agent, const std::string& owner, const Status& why) const {
  agent.parents_lost_.fetch_add(1, std::memory_order_relaxed);  // a number on its own
  const auto address = Address::parse(owner);
  const std::string who = address ? "relay \"" + address->name + "\"" : "what relays and the publisher sent together";
  agent.warn_("\"" + name_ + "\": " + who + " failed, another parent is asked for: " + why.message());
}

}  // namespace beeline::transfer
