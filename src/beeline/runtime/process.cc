#include "beeline/runtime/process.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace beeline::runtime {
namespace {

using store::ErrorKind;
using store::make_failure;
using store::ObjectKind;
using store::Payload;
using store::PayloadPtr;

constexpr std::size_t kDrainBudget = 128;
constexpr auto kHandshakeWithin = std::chrono::seconds(10);
constexpr auto kReplyWithin = std::chrono::seconds(30);
// How long a process that leaves waits for the readers of its last messages, and of its output.
constexpr auto kFlushWithin = std::chrono::seconds(1);

// This thread executes a function: while it waits, others may use its CPU.
thread_local bool executing_task = false;

template <typename T>
BytesView view_of(const T& value) {
  return {reinterpret_cast<const std::byte*>(&value), sizeof value};
}

// Counts down as objects become ready.
struct Countdown final : store::Watcher {
  std::size_t left = 0;
  void on_ready(store::Entry&) override {
    if (left > 0) --left;
  }
};

}  // namespace

Process::Process()
    : control_(lock_), progress_(lock_, mailbox_), objects_(*this), caller_(*this), executor_(*this) {}

Result<std::unique_ptr<Process>> Process::launch(LaunchOptions options, memory::Arena::Options arena) {
  std::unique_ptr<Process> process(new Process);
  BEELINE_ASSIGN(process->arena_, memory::Arena::open(arena));
  BEELINE_ASSIGN(auto session, launch_session(std::move(options)));
  process->is_driver_ = true;
  process->daemon_pid_ = session.daemon_pid;
  BEELINE_RETURN_IF_ERROR(process->start(std::move(session.socket), std::move(session.registered),
                                         std::move(session.listener)));
  return process;
}

Result<std::unique_ptr<Process>> Process::join_as_worker(
    const std::string& session_dir, std::uint64_t fork_token,
    const std::function<memory::Arena::Options(BytesView config)>& arena) {
  BEELINE_ASSIGN(auto fd, os::connect_unix(session_dir + "/daemon.sock"));
  os::FrameSocket socket(std::move(fd));
  control::Register request;
  request.kind = static_cast<std::uint8_t>(control::ProcessKind::kWorker);
  request.pid = ::getpid();
  request.fork_token = fork_token;
  BEELINE_RETURN_IF_ERROR(socket.send(control::encode(control::Type::kRegister, request)));
  os::Frame frame;
  BEELINE_RETURN_IF_ERROR(socket.receive_within(frame, Deadline::after(kHandshakeWithin)));
  BEELINE_ASSIGN(const auto type, control::type_of(frame.bytes));
  if (type != control::Type::kRegistered) return Status(Code::kCorrupt, "the daemon did not answer a registration");
  BEELINE_ASSIGN(auto registered, control::decode<control::Registered>(frame.bytes));
  if (frame.fds.size() != 1) return Status(Code::kCorrupt, "a registration came without a socket to listen on");
  const auto options = arena(registered.config);
  std::unique_ptr<Process> process(new Process);
  process->is_worker_ = true;
  BEELINE_ASSIGN(process->arena_, memory::Arena::open(options));
  BEELINE_RETURN_IF_ERROR(process->start(std::move(socket), std::move(registered), std::move(frame.fds.front())));
  return process;
}

Status Process::start(os::FrameSocket socket, control::Registered registered, os::Fd listener) {
  BEELINE_ASSIGN(mailbox_, ring::Mailbox::create());
  registered_ = std::move(registered);
  self_ = registered_.index;
  objects_.set_self(self_);
  daemon_ = std::move(socket);
  peers_ = std::make_unique<Peers>(*this, mailbox_, *arena_);
  started_ = true;
  BEELINE_RETURN_IF_ERROR(progress_.start({[this] { return drain(); }, [this] { on_idle(); }, [this] { clean_leases(); }}));
  BEELINE_RETURN_IF_ERROR(control_.start());
  const Locked locked(lock_);
  peers_->listen(std::move(listener), registered_.session_dir, self_);
  control_.watch(daemon_.fd(), daemon_.wants_write(), [this](std::uint32_t events) { on_daemon_socket(events); });
  // What came together with the registration's answer is in the buffer already: no event will tell of it.
  on_daemon_socket(0);
  return Status::ok();
}

Process::~Process() { stop(); }

void Process::stop() {
  {
    Locked locked(lock_);
    if (std::exchange(stopped_, true)) return;
    if (is_driver_ && daemon_.is_open()) {
      send_control(control::encode(control::Type::kShutdown, control::Empty{}));
      (void)daemon_.flush_all(Deadline::after(std::chrono::milliseconds(500)));
    }
    if (is_worker_ && started_) {
      // The last results may wait for room in the rings of those who asked for them.
      (void)progress_.wait(locked, Deadline::after(kFlushWithin), [this] { return peers_->is_flushed(); });
    }
    if (session_error_.empty()) session_error_ = "this process has left the session (shutdown was called)";
    caller_.fail_everything(session_failure());
    objects_.fail_all_pending(session_failure());
    if (started_) progress_.notify();
  }
  if (!started_) return;
  control_.stop();
  progress_.stop();
  printer_.stop(Deadline::after(kFlushWithin));
  std::shared_ptr<memory::Arena> arena;
  {
    const Locked locked(lock_);
    peers_->close();
    daemon_.close();
    for (auto& [slot, publication] : publications_) {
      if (!publication.retired && on_retired) on_retired(publication.id);
    }
    publications_.clear();
    own_view_.reset();
    mailbox_ = {};
    arena = std::move(arena_);
  }
}

std::optional<std::string> Process::session_error() {
  const Locked locked(lock_);
  if (session_error_.empty()) return std::nullopt;
  return session_error_;
}

PayloadPtr Process::session_failure() const { return make_failure(ErrorKind::kSessionLost, session_error_); }

// ----- objects

Process::Entry* Process::put(PayloadPtr payload, const std::string* name) {
  const Locked locked(lock_);
  Entry& entry = objects_.create(ObjectKind::kValue, name);
  objects_.set_ready(entry, std::move(payload));
  return &entry;
}

void Process::add_hold(Entry& entry) {
  const Locked locked(lock_);
  objects_.add_hold(entry);
}

void Process::drop_hold(Entry& entry) {
  Locked locked(lock_);
  if (stopped_) return;
  objects_.drop_hold(entry);
  // An own object without borrowers may go at once: nothing about it can be under way in a ring that we have not
  // seen, since every message that carried it was answered. Others wait for the next look at all rings.
  if (objects_.has_doomed() && !mailbox_.has_mail()) reap();
}

void Process::reap() {
  if (objects_.was_released()) {
    // Whoever holds an object in the place of the process that released it may have met us only now.
    peers_->accept_pending();
    if (mailbox_.has_mail()) return progress_.notify();
  }
  objects_.reap();
  release_lost_arenas();
}

Process::Entry* Process::restore(const store::ObjectId& id) {
  const Locked locked(lock_);
  return objects_.hold(id, true);
}

bool Process::ready(Entry& entry) {
  Locked locked(lock_);
  if (!entry.ready()) {
    progress_.poke(locked);
    if (!entry.ready()) subscribe(entry);
  }
  return entry.ready();
}

PayloadPtr Process::payload(Entry& entry) {
  const Locked locked(lock_);
  // A wait that ended with the session leaves objects without a value.
  return entry.ready() ? entry.payload : session_failure();
}

void Process::subscribe(Entry& entry) {
  if (entry.id.owner == self_ || entry.subscribed || entry.ready()) return;
  entry.subscribed = true;
  if (!peers_->send(entry.id.owner, Message::kSubscribe, view_of(entry.id))) {
    objects_.set_ready(entry, make_failure(ErrorKind::kOwnerDied,
                                           "the process that owned the object (process " +
                                               std::to_string(entry.id.owner) + ") is gone"));
  }
}

WaitOutcome Process::wait(std::span<Entry* const> entries, std::size_t count, Deadline deadline) {
  Locked locked(lock_);
  Countdown countdown;
  std::size_t ready_now = 0;
  for (Entry* entry : entries) ready_now += entry->ready() ? 1 : 0;
  if (ready_now >= count) return WaitOutcome::kDone;
  countdown.left = count - ready_now;
  for (Entry* entry : entries) {
    if (entry->ready()) continue;
    objects_.watch(*entry, countdown);
    subscribe(*entry);
  }
  bool blocked = false;
  const bool gives_way = executing_task;
  const auto outcome = progress_.wait(locked, deadline, [&] { return countdown.left == 0; }, [&] {
    if (!gives_way) return;
    blocked = true;
    tell_daemon(control::Type::kBlocked, control::Empty{});
    executor_.bounce_queued();
  });
  if (blocked) tell_daemon(control::Type::kUnblocked, control::Empty{});
  for (Entry* entry : entries) {
    if (!entry->ready()) objects_.unwatch(*entry, countdown);
  }
  return outcome;
}

void Process::watch(Entry& entry, store::Watcher& watcher) {
  const Locked locked(lock_);
  if (entry.ready()) return watcher.on_ready(entry);
  objects_.watch(entry, watcher);
  subscribe(entry);
  if (entry.ready()) return;
}

void Process::unwatch(Entry& entry, store::Watcher& watcher) {
  const Locked locked(lock_);
  objects_.unwatch(entry, watcher);
}

const std::string* Process::intern(std::string_view name) {
  const Locked locked(lock_);
  return intern_locked(name);
}

// ----- large values

bool Process::is_shareable(const void* data, std::size_t size) {
  const Locked locked(lock_);
  return arena_ && arena_->offset_of(data, size).has_value();
}

Result<std::unique_ptr<store::Placement>> Process::publish(std::span<const SourceBuffer> buffers, Mode mode) {
  std::shared_ptr<memory::Arena> arena;
  {
    const Locked locked(lock_);
    if (stopped_) return Status(Code::kShutdown, session_error_);
    arena = arena_;
  }
  auto placement = std::make_unique<store::Placement>();
  placement->holder = self_;
  placement->direct = mode != Mode::kStored;
  std::vector<memory::Range> ranges(buffers.size());
  std::vector<std::size_t> to_copy;
  std::size_t copy_bytes = 0;
  std::uint64_t mapped_bytes = 0;
  constexpr std::size_t kAlign = 64;
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    if (mode == Mode::kLive && buffers[i].size > 0) {
      if (const auto offset = arena->offset_of(buffers[i].data, buffers[i].size)) {
        ranges[i] = {*offset, buffers[i].size};
        mapped_bytes += buffers[i].size;
        continue;
      }
    }
    to_copy.push_back(i);
    copy_bytes += (buffers[i].size + kAlign - 1) / kAlign * kAlign;
  }
  std::byte* copies = nullptr;
  if (!to_copy.empty()) {
    BEELINE_ASSIGN(copies, arena->allocate(std::max<std::size_t>(copy_bytes, 1)));
    const auto base = arena->offset_of(copies, std::max<std::size_t>(copy_bytes, 1));
    BEELINE_CHECK(base.has_value(), "a block that was just allocated lies in the arena");
    std::size_t at = 0;
    for (const auto i : to_copy) {
      if (buffers[i].size > 0) std::memcpy(copies + at, buffers[i].data, buffers[i].size);
      ranges[i] = {*base + at, buffers[i].size};
      at += (buffers[i].size + kAlign - 1) / kAlign * kAlign;
    }
  }
  std::vector<memory::Range> published;
  for (const auto& range : ranges) {
    if (range.length > 0) published.push_back(range);
  }
  auto id = arena->publish(published);
  if (copies != nullptr) arena->release(copies);
  if (!id) return std::move(id).status().with_context("publish " + std::to_string(buffers.size()) + " buffers");
  placement->publication = *id;
  for (std::size_t i = 0; i < buffers.size(); ++i) placement->buffers.push_back({ranges[i], buffers[i].writable});

  const Locked locked(lock_);
  if (!arena_) return Status(Code::kShutdown, session_error_);
  publications_[id->slot] = {std::vector<SourceBuffer>(buffers.begin(), buffers.end()), *id, false};
  if (!to_copy.empty()) {
    ++transfers_.copied_objects;
    transfers_.copied_bytes += copy_bytes;
  }
  if (mapped_bytes > 0) {
    ++transfers_.mapped_objects;
    transfers_.mapped_bytes += mapped_bytes;
  }
  return placement;
}

Result<Opened> Process::open(const store::Placement& placement, Deadline deadline) {
  std::shared_ptr<memory::PeerArena> arena;
  {
    Locked locked(lock_);
    if (stopped_) return Status(Code::kShutdown, session_error_);
    if (placement.holder == self_) {
      if (!own_view_) {
        BEELINE_ASSIGN(const auto holder, arena_->add_holder(::getpid()));
        BEELINE_ASSIGN(auto data, os::duplicate(arena_->data_fd()));
        BEELINE_ASSIGN(auto table, os::duplicate(arena_->control_fd()));
        BEELINE_ASSIGN(own_view_, memory::PeerArena::attach(std::move(data), std::move(table), holder));
      }
      arena = own_view_;
    } else {
      if (!peers_->has_link(placement.holder) && !peers_->is_gone(placement.holder)) {
        peers_->connect(placement.holder);
        const auto outcome = progress_.wait(locked, deadline, [&] {
          return peers_->has_link(placement.holder) || peers_->is_gone(placement.holder);
        });
        if (outcome == WaitOutcome::kTimedOut) {
          return Status(Code::kDeadlineExceeded,
                        "process " + std::to_string(placement.holder) + ", which holds the value, did not answer");
        }
        if (outcome == WaitOutcome::kInterrupted) return Status(Code::kInterrupted, "interrupted by a signal");
      }
      auto attached = peers_->arena_of(placement.holder);
      if (!attached) {
        return Status(Code::kPeerLost, "process " + std::to_string(placement.holder) +
                                           ", which held the value, is gone: " + attached.status().message());
      }
      arena = std::move(*attached);
    }
  }
  std::vector<memory::Range> ranges;
  std::uint64_t bytes = 0;
  for (const auto& buffer : placement.buffers) {
    if (buffer.range.length > 0) ranges.push_back(buffer.range);
    bytes += buffer.range.length;
  }
  BEELINE_ASSIGN(auto lease, arena->acquire(placement.publication, ranges));
  Opened opened;
  opened.lease = std::shared_ptr<memory::Lease>(new memory::Lease(std::move(lease)), [this](memory::Lease* ended) {
    delete ended;
    lease_ended();
  });
  for (const auto& buffer : placement.buffers) {
    std::byte* data = buffer.range.length > 0 ? opened.lease->at(buffer.range.offset) : nullptr;
    if (buffer.range.length > 0 && data == nullptr) return Status(Code::kCorrupt, "a buffer outside its publication");
    opened.buffers.emplace_back(data, buffer.range.length);
  }
  const Locked locked(lock_);
  ++transfers_.fetched_objects;
  transfers_.fetched_bytes += bytes;
  return opened;
}

void Process::lease_ended() {
  leases_to_clean_.store(true);
  const Locked locked(lock_);
  progress_.request_chores();
}

void Process::clean_leases() {
  if (!leases_to_clean_.exchange(false)) return;
  std::vector<std::pair<ProcessIndex, std::shared_ptr<memory::PeerArena>>> arenas;
  {
    const Locked locked(lock_);
    if (stopped_) return;
    arenas = peers_->arenas();
    if (own_view_) arenas.emplace_back(self_, own_view_);
  }
  for (const auto& [process, arena] : arenas) {
    const auto retired = arena->clean();
    if (retired.empty()) continue;
    const Locked locked(lock_);
    if (stopped_) return;
    if (process == self_) {
      arena_->sweep();
      settle_publications();
      continue;
    }
    for (const auto& id : retired) peers_->send(process, Message::kLeaseReturned, view_of(id));
  }
}

void Process::retire(memory::PublicationId id) {
  if (!arena_) return;
  arena_->retire(id);
  const auto it = publications_.find(id.slot);
  if (it == publications_.end() || it->second.id.generation != id.generation) return;
  it->second.retired = true;
  if (on_retired) on_retired(id);
  settle_publications();
}

// Forgets publications that are over for the producer: retired, and read by nobody.
void Process::settle_publications() {
  if (!arena_) return;
  const auto before = publications_.size();
  std::erase_if(publications_, [&](const auto& item) {
    return item.second.retired && arena_->holds(item.second.id).reading == 0;
  });
  if (publications_.size() != before) progress_.notify();
}

bool Process::publication_overlaps(const Publication& publication, const std::byte* data, std::size_t size) const {
  return std::any_of(publication.sources.begin(), publication.sources.end(), [&](const SourceBuffer& source) {
    return source.data < data + size && data < source.data + source.size;
  });
}

std::size_t Process::publications_of(const void* data, std::size_t size) {
  Locked locked(lock_);
  progress_.poke(locked);
  settle_publications();
  return static_cast<std::size_t>(
      std::count_if(publications_.begin(), publications_.end(), [&](const auto& item) {
        return publication_overlaps(item.second, static_cast<const std::byte*>(data), size);
      }));
}

std::optional<std::size_t> Process::readers_of(memory::PublicationId id) {
  Locked locked(lock_);
  progress_.poke(locked);
  const auto it = publications_.find(id.slot);
  if (it == publications_.end() || it->second.id.generation != id.generation) return std::nullopt;
  return arena_->holds(id).reading;
}

void Process::mark_mutated(memory::PublicationId id) {
  const Locked locked(lock_);
  if (publications_.contains(id.slot)) arena_->mark_mutated(id);
}

WaitOutcome Process::wait_unpublished(const void* data, std::size_t size, Deadline deadline) {
  Locked locked(lock_);
  return progress_.wait(locked, deadline, [&] {
    return std::none_of(publications_.begin(), publications_.end(), [&](const auto& item) {
      return publication_overlaps(item.second, static_cast<const std::byte*>(data), size);
    });
  });
}

void Process::free_placement_now(const store::Placement& placement) { free_placement(placement); }

TransferStats Process::transfer_stats() {
  const Locked locked(lock_);
  return transfers_;
}

// The worker that held them is gone; what it stored (not what it shared in place) lives on in our arena.
void Process::rehome(ProcessIndex holder, const std::string& reason) {
  std::vector<Entry*> affected;
  objects_.for_each([&](Entry& entry) {
    if (entry.id.owner == self_ && entry.payload && entry.payload->placement &&
        entry.payload->placement->holder == holder) {
      affected.push_back(&entry);
    }
  });
  for (Entry* entry : affected) {
    const auto& old = *entry->payload;
    const auto lost = [&](const std::string& why) {
      objects_.replace(*entry, make_failure(ErrorKind::kObjectLost,
                                            (entry->name != nullptr ? *entry->name : std::string("an object")) +
                                                ": its value lay in a process that is gone (" + reason + ")" + why));
    };
    if (old.placement->direct) {
      lost("; a direct tensor lives as long as its producer");
      continue;
    }
    auto arena = peers_->arena_of(holder);
    if (!arena) {
      lost("");
      continue;
    }
    std::vector<memory::Range> ranges;
    std::size_t total = 0;
    for (const auto& buffer : old.placement->buffers) {
      if (buffer.range.length > 0) ranges.push_back(buffer.range);
      total += (buffer.range.length + 63) / 64 * 64;
    }
    auto lease = (*arena)->acquire(old.placement->publication, ranges);
    auto block = arena_->allocate(std::max<std::size_t>(total, 1));
    if (!lease || !block) {
      lost("; it could not be copied: " + (lease ? block.status() : lease.status()).message());
      continue;
    }
    const auto base = arena_->offset_of(*block, std::max<std::size_t>(total, 1));
    auto fresh = std::make_shared<Payload>();
    fresh->skeleton = old.skeleton;
    fresh->skeleton_in_buffer = old.skeleton_in_buffer;
    fresh->refs = old.refs;
    fresh->placement = std::make_unique<store::Placement>();
    fresh->placement->holder = self_;
    std::size_t at = 0;
    std::vector<memory::Range> published;
    for (const auto& buffer : old.placement->buffers) {
      if (buffer.range.length > 0) {
        std::memcpy(*block + at, lease->at(buffer.range.offset), buffer.range.length);
        published.push_back({*base + at, buffer.range.length});
      }
      fresh->placement->buffers.push_back({{*base + at, buffer.range.length}, buffer.writable});
      at += (buffer.range.length + 63) / 64 * 64;
    }
    auto id = arena_->publish(published);
    arena_->release(*block);
    if (!id) {
      lost("; it could not be published again: " + id.status().message());
      continue;
    }
    fresh->placement->publication = *id;
    publications_[id->slot] = {{}, *id, false};
    entry->payload = std::move(fresh);
    ++transfers_.rehomed_objects;
  }
}

// What a dead process held is memory of ours as long as we keep its arena.
void Process::release_lost_arenas() {
  if (lost_holders_.empty()) return;
  std::set<ProcessIndex> needed;
  objects_.for_each([&](Entry& entry) {
    if (entry.payload && entry.payload->placement) needed.insert(entry.payload->placement->holder);
  });
  std::erase_if(lost_holders_, [&](ProcessIndex holder) {
    if (needed.contains(holder)) return false;
    peers_->forget_arena(holder);
    return true;
  });
}

// ----- calls

std::vector<Process::Entry*> Process::call_actor(ActorTarget& actor, CallOptions options, PayloadPtr args,
                                                 const std::vector<Entry*>& dependencies) {
  const Locked locked(lock_);
  auto returns = caller_.call_actor(actor, std::move(options), std::move(args), dependencies);
  if (!session_error_.empty()) caller_.fail_everything(session_failure());
  return returns;
}

std::vector<Process::Entry*> Process::call_function(Shape& shape, CallOptions options, PayloadPtr args,
                                                    const std::vector<Entry*>& dependencies) {
  const Locked locked(lock_);
  auto returns = caller_.call_function(shape, std::move(options), std::move(args), dependencies);
  if (!session_error_.empty()) caller_.fail_everything(session_failure());
  return returns;
}

ActorTarget& Process::actor(ActorId id) {
  const Locked locked(lock_);
  return caller_.actor(id);
}

Shape& Process::shape(const Resources& resources, bool wants_torch, const std::map<std::string, std::string>& env,
                      const std::string& name) {
  const Locked locked(lock_);
  return caller_.shape(resources, wants_torch, env, name);
}

void Process::define_function(std::uint64_t key, std::string blob) {
  const Locked locked(lock_);
  caller_.define_function(key, std::move(blob));
}

std::uint64_t Process::pending_calls(ActorTarget& actor) {
  Locked locked(lock_);
  progress_.poke(locked);
  return actor.pending_count();
}

bool Process::is_actor_call(Entry& entry) {
  const Locked locked(lock_);
  const auto* call = static_cast<const OutgoingCall*>(entry.producer);
  return call != nullptr && call->actor != nullptr;
}

bool Process::cancel(Entry& entry, bool force, bool recursive) {
  Locked locked(lock_);
  const bool found = caller_.cancel(entry, force, recursive);
  progress_.notify();
  return found;
}

// ----- actors

Result<Process::NewActor> Process::create_actor(control::CreateActor request, PayloadPtr args,
                                                const std::vector<Entry*>& dependencies, std::string_view blob,
                                                BytesView options, bool wait_for_name) {
  Locked locked(lock_);
  if (!session_error_.empty()) return Status(Code::kShutdown, session_error_);
  const ActorId id = std::uint64_t{self_} << 32 | next_actor_++;
  Entry& life = objects_.create(ObjectKind::kActorLife, intern_locked(request.class_name));
  actor_of_life_[life.id.serial] = id;
  life_of_actor_[id] = &life;

  Writer writer(request.spec);
  writer.write_string(blob);
  writer.write_block(options);
  writer.write(static_cast<std::uint32_t>(dependencies.size()));
  std::vector<Entry*> holds = dependencies;
  for (Entry* dependency : dependencies) {
    objects_.add_hold(*dependency);
    writer.write(dependency->id);
  }
  store::encode_payload(*args, writer);
  for (const auto& ref : args->refs) objects_.hold(ref, true);
  request.actor = id;
  request.request = wait_for_name ? next_request_++ : 0;
  const auto request_id = request.request;
  tell_daemon(control::Type::kCreateActor, request);
  ActorTarget& target = caller_.actor(id);
  target.creation_args = std::move(args);
  target.creation_holds = std::move(holds);
  if (wait_for_name) {
    auto reply = await_reply<control::Reply>(locked, request_id, Deadline::after(kReplyWithin), "create actor");
    const Status failure = !reply ? reply.status()
                           : reply->code == 0 ? Status::ok()
                                              : Status(static_cast<Code>(reply->code), reply->message);
    if (!failure) {
      actor_of_life_.erase(life.id.serial);
      life_of_actor_.erase(id);
      objects_.drop_hold(life);
      return failure;
    }
  }
  return NewActor{id, &life};
}

Result<Process::ActorSpec> Process::open_spec(BytesView spec) {
  Reader reader(spec);
  ActorSpec opened;
  opened.blob = reader.read_string();
  const auto options = reader.read_block();
  opened.options.assign(options.begin(), options.end());
  const auto count = reader.read<std::uint32_t>();
  std::vector<store::ObjectId> ids;
  for (std::uint32_t i = 0; i < count && reader.ok(); ++i) ids.push_back(reader.read<store::ObjectId>());
  BEELINE_ASSIGN(opened.args, store::decode_payload(reader));
  if (!reader.ok()) return Status(Code::kCorrupt, "an actor's specification ends early");
  const Locked locked(lock_);
  for (const auto& id : ids) {
    Entry* entry = objects_.hold(id, true);
    if (entry == nullptr) return Status(Code::kNotFound, "an argument of the actor's constructor is gone");
    opened.dependencies.push_back(entry);
  }
  for (const auto& ref : opened.args->refs) objects_.hold(ref, true);
  return opened;
}

void Process::release_spec(ActorSpec& spec) {
  const Locked locked(lock_);
  for (Entry* entry : spec.dependencies) objects_.drop_hold(*entry);
  spec.dependencies.clear();
  for (const auto& ref : spec.args->refs) {
    if (Entry* entry = objects_.find(ref)) objects_.drop_hold(*entry);
  }
}

template <typename Answer>
Result<Answer> Process::await_reply(Locked& locked, std::uint64_t request, Deadline deadline, const std::string& what) {
  for (;;) {
    const auto outcome = progress_.wait(locked, deadline,
                                        [&] { return replies_.contains(request) || !session_error_.empty(); });
    if (const auto node = replies_.extract(request)) return control::decode<Answer>(node.mapped());
    if (!session_error_.empty()) return Status(Code::kShutdown, what + ": " + session_error_);
    if (outcome == WaitOutcome::kTimedOut) {
      return Status(Code::kDeadlineExceeded, what + ": the node daemon did not answer");
    }
    if (outcome == WaitOutcome::kInterrupted) continue;  // bounded: the daemon answers at once
  }
}

Result<control::ActorInfo> Process::lookup_actor(const std::string& name, const std::string& name_space) {
  Locked locked(lock_);
  const auto request = next_request_++;
  tell_daemon(control::Type::kLookupActor, control::LookupActor{request, name, name_space});
  return await_reply<control::ActorInfo>(locked, request, Deadline::after(kReplyWithin), "look up actor " + name);
}

Result<control::NamedActors> Process::list_actors(const std::string& name_space, bool all) {
  Locked locked(lock_);
  const auto request = next_request_++;
  tell_daemon(control::Type::kListActors, control::ListActors{request, name_space, all});
  return await_reply<control::NamedActors>(locked, request, Deadline::after(kReplyWithin), "list actors");
}

Result<control::State> Process::node_state() {
  Locked locked(lock_);
  const auto request = next_request_++;
  tell_daemon(control::Type::kGetState, control::GetState{request});
  return await_reply<control::State>(locked, request, Deadline::after(kReplyWithin), "ask for the node's state");
}

void Process::kill_actor(ActorId id, bool no_restart) {
  const Locked locked(lock_);
  // The daemon's way is longer than a call's: what is called from here on must not be quicker than the kill.
  if (no_restart) caller_.actor(id).condemned = true;
  tell_daemon(control::Type::kKillActor,
              control::KillActor{id, no_restart, static_cast<std::uint8_t>(control::DeathCause::kKilled)});
}

control::ActorUpdate Process::actor_state(ActorId id) {
  const Locked locked(lock_);
  return caller_.actor(id).latest;
}

// The last handle is gone: the actor finishes what it was asked before and exits.
void Process::actor_unreferenced(const store::ObjectId& life) {
  const auto it = actor_of_life_.find(life.serial);
  if (it == actor_of_life_.end()) return;
  const ActorId id = it->second;
  actor_of_life_.erase(it);
  life_of_actor_.erase(id);
  const ActorTarget& target = caller_.actor(id);
  const auto state = static_cast<control::ActorState>(target.latest.state);
  const bool placed = target.known && target.latest.process != 0 && state != control::ActorState::kDead;
  if (placed && target.queued.empty()) {
    peers_->send(target.latest.process, Message::kTerminate, view_of(id));
  } else if (target.pending_count() == 0) {
    tell_daemon(control::Type::kKillActor,
                control::KillActor{id, true, static_cast<std::uint8_t>(control::DeathCause::kOutOfScope)});
  } else {
    terminate_when_sent_.insert(id);
  }
}

// ----- the worker's side

Process::Next Process::next_call(std::uint64_t seen, IncomingCall*& call, Deadline deadline) {
  Locked locked(lock_);
  const auto outcome = progress_.wait(locked, deadline, [&] {
    return executor_.has_runnable() || exiting_ || assignment_.version != seen ||
           may_terminate();
  });
  if (exiting_) return Next::kExit;
  if (assignment_.version != seen) return Next::kAssigned;
  if (outcome == WaitOutcome::kInterrupted || outcome == WaitOutcome::kTimedOut) return Next::kInterrupted;
  call = executor_.take();
  if (call != nullptr) return Next::kCall;
  return may_terminate() ? Next::kExit : Next::kInterrupted;
}

// Calls that were made before the last handle went away may come from processes that meet us only now.
bool Process::may_terminate() {
  if (!executor_.terminating() || !executor_.idle()) return false;
  peers_->accept_pending();
  return !mailbox_.has_mail() && executor_.idle() && !is_needed_by_others();
}

// Whether other processes hold what this one owns (values, actors), or are about to.
bool Process::is_needed_by_others() {
  if (!pins_.empty()) return true;
  bool needed = false;
  objects_.for_each([&](Entry& entry) { needed |= entry.id.owner == self_ && !entry.borrowers.empty(); });
  return needed;
}

IncomingCall* Process::try_take() {
  Locked locked(lock_);
  progress_.poke(locked);
  return executor_.take();
}

Process::Assignment Process::assignment() {
  const Locked locked(lock_);
  return assignment_;
}

void Process::finish(IncomingCall& call, std::vector<PayloadPtr> results, bool retryable) {
  const Locked locked(lock_);
  for (const auto& result : results) {
    if (result->placement) continue;
    ++transfers_.inline_objects;
    transfers_.inline_bytes += result->skeleton.size();
  }
  executor_.finish(call, std::move(results), retryable);
}

void Process::actor_ready(bool failed, const std::string& message, BytesView error) {
  const Locked locked(lock_);
  control::ActorReady ready;
  ready.actor = assignment_.actor->actor;
  ready.incarnation = assignment_.actor->incarnation;
  ready.failed = failed;
  ready.message = message;
  ready.error.assign(error.begin(), error.end());
  tell_daemon(control::Type::kActorReady, ready);
  if (failed) (void)daemon_.flush_all(Deadline::after(std::chrono::seconds(1)));
}

void Process::actor_exited(control::DeathCause cause) {
  const Locked locked(lock_);
  tell_daemon(control::Type::kActorExited,
              control::ActorExited{assignment_.actor->actor, static_cast<std::uint8_t>(cause)});
  (void)daemon_.flush_all(Deadline::after(std::chrono::seconds(1)));
}

void Process::set_executing_task(bool executing) { executing_task = executing; }
bool Process::is_executing_task() { return executing_task; }

bool Process::exiting() {
  const Locked locked(lock_);
  return exiting_;
}

std::uint64_t Process::pin_for(ProcessIndex receiver, const std::vector<store::ObjectId>& refs) {
  if (peers_->is_gone(receiver)) return 0;  // nobody would ever answer
  std::vector<Entry*> pinned;
  for (const auto& ref : refs) {
    if (Entry* entry = objects_.hold(ref, true)) pinned.push_back(entry);
  }
  const auto token = next_pin_++;
  pins_.emplace(token, std::pair(receiver, std::move(pinned)));
  return token;
}

void Process::release_args(const PayloadPtr& args) {
  if (!args) return;
  for (const auto& ref : args->refs) {
    if (Entry* entry = objects_.find(ref)) objects_.drop_hold(*entry);
  }
  if (args->placement) free_placement(*args->placement);
}

// ----- PeerEvents

Status Process::on_message(ProcessIndex from, Message type, BytesView body) {
  Reader reader(body);
  return handle_message(from, type, reader, body);
}

Status Process::handle_message(ProcessIndex from, Message type, Reader& reader, BytesView body) {
  switch (type) {
    case Message::kCall:
      return executor_.on_call(from, reader);
    case Message::kResult:
      return caller_.on_result(from, reader);
    case Message::kSubscribe: {
      const auto id = reader.read<store::ObjectId>();
      if (reader.ok()) on_subscribe(from, id);
      break;
    }
    case Message::kForward: {
      const auto record = reader.read<ForwardRecord>();
      if (reader.ok()) executor_.on_forward(record);
      break;
    }
    case Message::kObject: {
      const auto id = reader.read<store::ObjectId>();
      BEELINE_ASSIGN(auto payload, store::decode_payload(reader));
      if (Entry* entry = objects_.find(id)) {
        objects_.set_ready(*entry, std::move(payload));
      } else if (id.owner != self_) {
        executor_.on_early_object(id);
      }
      break;
    }
    case Message::kBorrow: {
      const auto id = reader.read<store::ObjectId>();
      if (reader.ok()) objects_.add_borrower(id, from);
      break;
    }
    case Message::kRelease: {
      const auto id = reader.read<store::ObjectId>();
      if (reader.ok()) objects_.drop_borrower(id, from);
      break;
    }
    case Message::kRefsTaken: {
      const auto token = reader.read<std::uint64_t>();
      if (auto node = pins_.extract(token)) {
        for (Entry* entry : node.mapped().second) objects_.drop_hold(*entry);
      }
      break;
    }
    case Message::kFree: {
      const auto id = reader.read<memory::PublicationId>();
      if (reader.ok()) retire(id);
      break;
    }
    case Message::kLeaseReturned:
      arena_->sweep();
      settle_publications();
      break;
    case Message::kCancel: {
      const auto record = reader.read<CancelRecord>();
      if (reader.ok()) executor_.on_cancel_message(from, record);
      break;
    }
    case Message::kTerminate:
      executor_.set_terminating();
      break;
    case Message::kFunctionRequest: {
      const auto key = reader.read<std::uint64_t>();
      const std::string* blob = caller_.function(key);
      if (blob == nullptr) return {Code::kCorrupt, "asked for a function that this process never defined"};
      peers_->send(from, Message::kFunction, view_of(key), as_bytes(*blob));
      break;
    }
    case Message::kFunction: {
      const auto key = reader.read<std::uint64_t>();
      executor_.on_function(key, std::string(as_text(reader.read_bytes(reader.left()))));
      break;
    }
    case Message::kRejected: {
      const auto task = reader.read<std::uint64_t>();
      if (reader.ok()) caller_.on_rejected(from, task);
      break;
    }
    default:
      return {Code::kCorrupt, "a message of unknown type " + std::to_string(static_cast<int>(type))};
  }
  if (!reader.ok()) {
    return {Code::kCorrupt, "a message of type " + std::to_string(static_cast<int>(type)) + " and " +
                                std::to_string(body.size()) + " bytes ends early"};
  }
  return Status::ok();
}

void Process::on_subscribe(ProcessIndex from, const store::ObjectId& id) {
  Entry* entry = objects_.find(id);
  if (entry == nullptr) {
    Bytes message;
    Writer writer(message);
    writer.write(id);
    store::encode_payload(*make_failure(ErrorKind::kObjectLost,
                                        "the object was freed by its owner before it was fetched: nobody held a "
                                        "reference to it"),
                          writer);
    peers_->send(from, Message::kObject, message);
  } else if (entry->ready()) {
    send_object(from, *entry);
  } else {
    entry->subscribers.push_back(from);
  }
}

void Process::on_peer_lost(ProcessIndex process, const std::string& reason) {
  objects_.drop_process(process);
  objects_.fail_owner(process, reason);
  rehome(process, reason);
  executor_.on_process_lost(process);
  caller_.on_process_lost(process, reason);
  for (auto it = pins_.begin(); it != pins_.end();) {
    if (it->second.first != process) {
      ++it;
      continue;
    }
    for (Entry* entry : it->second.second) objects_.drop_hold(*entry);
    it = pins_.erase(it);
  }
  lost_holders_.insert(process);
  release_lost_arenas();
  arena_->sweep();
  settle_publications();
  progress_.notify();
}

void Process::watch_socket(int fd, bool also_writable, std::function<void(std::uint32_t)> handler) {
  control_.watch(fd, also_writable, [this, handler = std::move(handler)](std::uint32_t events) {
    handler(events);
    progress_.notify();
  });
}

void Process::forget_socket(int fd) { control_.forget(fd); }

// ----- TableEvents

void Process::send_borrow(const store::ObjectId& id) { peers_->send(id.owner, Message::kBorrow, view_of(id)); }
void Process::send_release(const store::ObjectId& id) { peers_->send(id.owner, Message::kRelease, view_of(id)); }

void Process::send_object(ProcessIndex to, const Entry& entry) {
  if (to == self_) return;
  Bytes message;
  Writer writer(message);
  writer.write(entry.id);
  store::encode_payload(*entry.payload, writer);
  peers_->send(to, Message::kObject, message);
}

void Process::free_placement(const store::Placement& placement) {
  if (placement.holder == self_) return retire(placement.publication);
  peers_->send(placement.holder, Message::kFree, view_of(placement.publication));
}

// ----- the daemon

void Process::send_control(const Bytes& frame) {
  if (!daemon_.is_open()) return;
  if (const auto status = daemon_.send(frame); !status) return;  // its end is seen on the socket
  if (daemon_.wants_write()) {
    control_.watch(daemon_.fd(), true, [this](std::uint32_t events) { on_daemon_socket(events); });
  }
}

void Process::on_daemon_socket(std::uint32_t events) {
  if ((events & EPOLLOUT) != 0) {
    if (const auto status = daemon_.flush(); !status) return daemon_lost(status.message());
    if (!daemon_.wants_write()) {
      control_.watch(daemon_.fd(), false, [this](std::uint32_t e) { on_daemon_socket(e); });
    }
  }
  for (;;) {
    os::Frame frame;
    auto outcome = daemon_.receive(frame);
    if (!outcome) return daemon_lost(outcome.status().message());
    if (*outcome == os::FrameSocket::Receive::kNothing) break;
    if (*outcome == os::FrameSocket::Receive::kClosed) return daemon_lost("its connection closed");
    if (const auto status = on_daemon_frame(frame.bytes); !status) return daemon_lost(status.message());
  }
  progress_.notify();
}

Status Process::on_daemon_frame(BytesView frame) {
  BEELINE_ASSIGN(const auto type, control::type_of(frame));
  switch (type) {
    case control::Type::kReply: {
      BEELINE_ASSIGN(const auto reply, control::decode<control::Reply>(frame));
      replies_[reply.request] = Bytes(frame.begin(), frame.end());
      return Status::ok();
    }
    case control::Type::kActorInfo: {
      BEELINE_ASSIGN(const auto info, control::decode<control::ActorInfo>(frame));
      replies_[info.request] = Bytes(frame.begin(), frame.end());
      return Status::ok();
    }
    case control::Type::kNamedActors: {
      BEELINE_ASSIGN(const auto names, control::decode<control::NamedActors>(frame));
      replies_[names.request] = Bytes(frame.begin(), frame.end());
      return Status::ok();
    }
    case control::Type::kState: {
      BEELINE_ASSIGN(const auto state, control::decode<control::State>(frame));
      replies_[state.request] = Bytes(frame.begin(), frame.end());
      return Status::ok();
    }
    case control::Type::kActorUpdate: {
      BEELINE_ASSIGN(const auto update, control::decode<control::ActorUpdate>(frame));
      caller_.on_actor_update(update);
      if (terminate_when_sent_.contains(update.actor) && update.process != 0 &&
          caller_.actor(update.actor).queued.empty()) {
        terminate_when_sent_.erase(update.actor);
        peers_->send(update.process, Message::kTerminate, view_of(update.actor));
      }
      return Status::ok();
    }
    case control::Type::kLeaseGranted: {
      BEELINE_ASSIGN(const auto granted, control::decode<control::LeaseGranted>(frame));
      caller_.on_lease_granted(granted);
      return Status::ok();
    }
    case control::Type::kLeaseFailed: {
      BEELINE_ASSIGN(const auto failed, control::decode<control::LeaseFailed>(frame));
      caller_.on_lease_failed(failed);
      return Status::ok();
    }
    case control::Type::kRecallLeases:
      caller_.on_recall_leases();
      return Status::ok();
    case control::Type::kAssignActor: {
      BEELINE_ASSIGN(assignment_.actor, control::decode<control::AssignActor>(frame));
      ++assignment_.version;
      return Status::ok();
    }
    case control::Type::kAssignLease: {
      BEELINE_ASSIGN(assignment_.lease, control::decode<control::AssignLease>(frame));
      ++assignment_.version;
      return Status::ok();
    }
    case control::Type::kLogLines: {
      BEELINE_ASSIGN(const auto lines, control::decode<control::LogLines>(frame));
      printer_.print(lines);
      return Status::ok();
    }
    case control::Type::kExit:
      exiting_ = true;
      return Status::ok();
    case control::Type::kRetire:
      // Others may still need what this process made or owns: stay then, the daemon asks again.
      if (publications_.empty() && objects_.stats().own == 0) exiting_ = true;
      return Status::ok();
    default:
      return {Code::kCorrupt, "a control message of unknown type " + std::to_string(static_cast<int>(type))};
  }
}

void Process::daemon_lost(const std::string& reason) {
  control_.forget(daemon_.fd());
  daemon_.close();
  // A worker is nothing without its session, whatever its threads are doing.
  if (is_worker_) ::_exit(1);
  session_error_ = "the node daemon (beelined, pid " + std::to_string(daemon_pid_) + ") is gone: " + reason +
                   ". All actors and tasks of the session have ended. Call shutdown() and init() to start anew; "
                   "its log is " + registered_.session_dir + "/logs/beelined.err";
  caller_.fail_everything(session_failure());
  objects_.fail_all_pending(session_failure());
  progress_.notify();
}

// ----- progress

bool Process::drain() {
  const bool any = peers_->drain(kDrainBudget);
  // An event loop looks whether that was what the exit waited for.
  if (any && executor_.terminating() && executor_.on_runnable) executor_.on_runnable();
  return any;
}

void Process::on_idle() {
  if (objects_.has_doomed() && !mailbox_.has_mail()) reap();
}

}  // namespace beeline::runtime
