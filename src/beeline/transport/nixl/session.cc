#include "beeline/transport/nixl/session.h"

#include <time.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "beeline/os/memory_calls.h"
#include "beeline/os/thread.h"

namespace beeline::transport::nixl {
namespace {

using namespace std::chrono_literals;

// NIXL has nothing to wait for: it is asked, at once for so long, then after naps that grow.
constexpr Nanos kEager = 20us;
constexpr Nanos kFirstNap = 5us;
constexpr Nanos kLongestNap = 100us;
// What a signal's handler did is asked for when one has ended a nap, and now and then: one may come between two naps.
constexpr Nanos kAskEvery = 200ms;
// Between two looks at what was given up.
constexpr auto kLookEvery = 10ms;

// False: a signal ended it.
bool nap(Nanos span) {
  const timespec time{0, static_cast<long>(span.count())};
  return ::nanosleep(&time, nullptr) == 0 || errno != EINTR;
}

}  // namespace

// Cuts strips into pieces.
class Session::Cursor {
 public:
  explicit Cursor(std::span<const Strip> strips) : strips_(strips) { skip_empty(); }

  [[nodiscard]] bool is_done() const { return at_ == strips_.size(); }
  // The next one, of at most `limit` bytes.
  Pair next(std::uint64_t limit) {
    const Strip& strip = strips_[at_];
    const Pair piece{strip.local + index_ * strip.local_stride + done_, strip.remote + index_ * strip.stride + done_,
                     std::min(limit, strip.length - done_)};
    done_ += piece.length;
    if (done_ < strip.length) return piece;
    done_ = 0;
    if (++index_ == strip.count) {
      index_ = 0;
      ++at_;
      skip_empty();
    }
    return piece;
  }

 private:
  void skip_empty() {
    while (at_ < strips_.size() && (strips_[at_].length == 0 || strips_[at_].count == 0)) ++at_;
  }

  std::span<const Strip> strips_;
  std::size_t at_ = 0;       // strip
  std::uint64_t index_ = 0;  // of its `count`
  std::uint64_t done_ = 0;   // bytes of that one
};

void Session::Unmap::operator()(std::byte* memory) const {
  os::unmap(memory, kSlots * kSlotBytes);
}

Result<std::shared_ptr<Session>> Session::open(const capi::Functions& functions, NixlOptions::Reach reach,
                                               const Contact& contact) {
  BEELINE_ASSIGN(auto engine, Engine::open(functions, reach, Engine::Role::kReader));
  BEELINE_RETURN_IF_ERROR(engine->load(contact.metadata, contact.name));
  return std::shared_ptr<Session>(new Session(std::move(engine), contact.name));
}

Session::~Session() {
  if (fork_count_ != os::fork_count()) {
    if (watcher_.joinable()) watcher_.detach();  // it is the parent's
  } else {
    {
      const std::lock_guard guard(mutex_);
      is_ending_ = true;
    }
    changed_.notify_all();
    if (watcher_.joinable()) watcher_.join();
  }
  for (const auto& lane : given_up_) {
    for (Slot& slot : lane->slots) slot.request.release();
  }
  // Before staging memory, which bytes may move to until then.
  engine_.reset();
}

bool Session::is_broken() const {
  const std::lock_guard guard(mutex_);
  return is_broken_;
}

Status Session::broken(Status status) {
  const std::lock_guard guard(mutex_);
  is_broken_ = true;
  return status;
}

Result<bool> Session::load(std::span<const Extent> extents) {
  const std::lock_guard guard(mutex_);
  if (is_broken_) return false;
  if (!loaded_.empty() && loaded_.size() + extents.size() > kMaxLoaded) return false;
  const auto is_loaded = [this](const Extent& extent) {
    const auto found = loaded_.find(extent.address);
    return found != loaded_.end() && found->second.first == extent.address + extent.length &&
           std::ranges::equal(found->second.second, extent.metadata);
  };
  for (const Extent& extent : extents) {
    if (is_loaded(extent)) continue;
    const auto after = loaded_.lower_bound(extent.address + extent.length);
    if (after != loaded_.begin() && std::prev(after)->second.first > extent.address) return false;
  }
  for (const Extent& extent : extents) {
    if (is_loaded(extent)) continue;
    BEELINE_RETURN_IF_ERROR(engine_->load(extent.metadata, peer_));
    Bytes metadata(extent.metadata.begin(), extent.metadata.end());
    loaded_.emplace(extent.address, std::pair(extent.address + extent.length, std::move(metadata)));
  }
  return true;
}

Result<std::unique_ptr<Session::Lane>> Session::take_lane() {
  {
    const std::lock_guard guard(mutex_);
    if (!idle_.empty()) {
      auto lane = std::move(idle_.back());
      idle_.pop_back();
      return lane;
    }
    if (lanes_ == kMaxLanes) {
      return Status(Code::kResourceExhausted, "NIXL has " + std::to_string(lanes_) +
                                                  " transfers with this agent under way, " +
                                                  std::to_string(given_up_.size()) + " of them given up and not quiet");
    }
    ++lanes_;
  }
  auto lane = std::make_unique<Lane>();
  Status status(Code::kResourceExhausted, "no memory for a transfer to go through");
  lane->staging.reset(static_cast<std::byte*>(os::reserve_memory(kSlots * kSlotBytes)));
  if (lane->staging != nullptr) status = engine_->add(lane->staging.get(), kSlots * kSlotBytes).status();
  if (status) return lane;
  const std::lock_guard guard(mutex_);
  --lanes_;
  return status;
}

// Lets go of requests that are done; false as long as one is not. A failure says nothing of what it still has under
// way.
bool Session::is_quiet(Lane& lane) {
  for (Slot& slot : lane.slots) {
    if (!slot.request.is_live()) continue;
    const auto done = slot.request.look();
    is_broken_ = is_broken_ || !done;
    if (!done || !*done) return false;
    slot.request.release();
  }
  return true;
}

void Session::give_back(std::unique_ptr<Lane> lane, std::shared_ptr<const void> hold) {
  const std::lock_guard guard(mutex_);
  if (!is_broken_ && is_quiet(*lane)) {
    idle_.push_back(std::move(lane));
    return;
  }
  lane->hold = std::move(hold);
  given_up_.push_back(std::move(lane));
  // In a broken session nothing is known to be quiet before its end.
  if (is_broken_) return;
  if (!watcher_.joinable()) {
    // Where the process may have no more threads, the next one that is given up tries again; until then it stays.
    auto watcher = os::try_start_thread([this] { watch_given_up(); });
    if (watcher) watcher_ = std::move(*watcher);
  }
  changed_.notify_all();
}

void Session::watch_given_up() {
  std::unique_lock lock(mutex_);
  while (!is_ending_) {
    std::vector<std::shared_ptr<const void>> released;  // ends without the lock
    for (std::size_t i = 0; !is_broken_ && i < given_up_.size();) {
      if (!is_quiet(*given_up_[i])) {
        ++i;
        continue;
      }
      released.push_back(std::move(given_up_[i]->hold));
      idle_.push_back(std::move(given_up_[i]));
      given_up_.erase(given_up_.begin() + static_cast<std::ptrdiff_t>(i));
    }
    const bool is_needed = !is_broken_ && !given_up_.empty();
    lock.unlock();
    released.clear();
    lock.lock();
    if (is_ending_) break;
    if (is_needed) {
      changed_.wait_for(lock, kLookEvery);
    } else {
      changed_.wait(lock, [this] { return is_ending_ || (!is_broken_ && !given_up_.empty()); });
    }
  }
}

Status Session::transfer(capi::Operation operation, std::span<const Strip> strips, const os::Wait& wait,
                         std::shared_ptr<const void> hold) {
  BEELINE_ASSIGN(auto lane, take_lane());
  Status status = run(*lane, operation, strips, wait);
  give_back(std::move(lane), std::move(hold));
  return status;
}

Status Session::run(Lane& lane, capi::Operation operation, std::span<const Strip> strips, const os::Wait& wait) {
  Cursor cursor(strips);
  std::size_t oldest = 0;
  std::size_t under_way = 0;
  for (;;) {
    while (under_way < kSlots && !cursor.is_done()) {
      const std::size_t index = (oldest + under_way) % kSlots;
      Slot& slot = lane.slots[index];
      std::byte* const memory = lane.staging.get() + index * kSlotBytes;
      slot.pairs.clear();
      slot.pieces.clear();
      for (std::uint64_t used = 0; used < kSlotBytes && slot.pairs.size() < kMaxPairs && !cursor.is_done();) {
        const Pair piece = cursor.next(kSlotBytes - used);
        if (operation == capi::kWrite) std::memcpy(memory + used, piece.local, piece.length);
        slot.pieces.push_back({piece.local, piece.length});
        // What continues there continues here. It lies in one extent: those that touch are one.
        if (!slot.pairs.empty() && slot.pairs.back().remote + slot.pairs.back().length == piece.remote) {
          slot.pairs.back().length += piece.length;
        } else {
          slot.pairs.push_back({memory + used, piece.remote, piece.length});
        }
        used += piece.length;
      }
      auto started = engine_->start(operation, slot.pairs, peer_);
      if (!started) return broken(started.status());
      slot.request = std::move(*started);
      ++under_way;
    }
    if (under_way == 0) return Status::ok();
    Slot& slot = lane.slots[oldest];
    BEELINE_RETURN_IF_ERROR(finish(slot.request, wait));
    const std::byte* from = lane.staging.get() + oldest * kSlotBytes;
    for (const Piece& piece : slot.pieces) {
      if (operation == capi::kRead) std::memcpy(piece.local, from, piece.length);
      from += piece.length;
    }
    oldest = (oldest + 1) % kSlots;
    --under_way;
    if (under_way > 0 || !cursor.is_done()) BEELINE_RETURN_IF_ERROR(wait.check());
  }
}

Status Session::finish(Engine::Request& request, const os::Wait& wait) {
  const auto begin = Clock::now();
  auto asked_at = begin;
  for (Nanos span = kFirstNap;;) {
    const auto done = request.look();
    if (!done) return broken(done.status());
    if (*done) break;
    BEELINE_RETURN_IF_ERROR(wait.check().with_context("while NIXL moves bytes"));
    const auto now = Clock::now();
    if (now - begin < kEager) continue;
    const bool is_signalled = !nap(span);
    span = std::min(2 * span, kLongestNap);
    if (!is_signalled && now - asked_at < kAskEvery) continue;
    asked_at = now;
    if (wait.is_interrupted()) return {Code::kInterrupted, "a signal ended the wait for NIXL"};
  }
  request.release();
  return Status::ok();
}

}  // namespace beeline::transport::nixl
