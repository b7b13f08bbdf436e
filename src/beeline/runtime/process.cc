#include "beeline/runtime/process.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace beeline::runtime {
namespace {

using store::ErrorKind;
using store::make_failure;
using store::ObjectKind;
using store::Payload;
using store::PayloadPtr;

constexpr std::size_t kDrainBudget = 128;
// How long a process that leaves waits for the readers of its last messages, and of its output.
constexpr auto kFlushWithin = std::chrono::seconds(1);
// How long a driver's last word may take, also where the daemon was killed just now.
constexpr auto kLastWordWithin = std::chrono::milliseconds(500);
constexpr auto kDaemonBackWithin = std::chrono::seconds(2);

// This thread executes a function: while it waits, others may use its CPU.
thread_local bool executing_task = false;

// How long nothing must have been taken from the arena before its idle memory goes back to the system. A loop whose
// rounds are longer pays at most 0.7 s per GiB and round for memory that is no longer warm.
Nanos trim_after() {
  const char* const setting = std::getenv("BEELINE_TRIM_AFTER_S");
  const double seconds = setting != nullptr ? std::atof(setting) : 0;
  return seconds > 0 ? std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(seconds))
                     : std::chrono::seconds(30);
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
    : control_(lock_), progress_(lock_, mailbox_), objects_(*this), caller_(*this, objects_), executor_(*this) {}

Result<std::unique_ptr<Process>> Process::launch(LaunchOptions options, memory::Arena::Options arena) {
  std::unique_ptr<Process> process(new Process);
  BEELINE_ASSIGN(process->arena_, memory::Arena::open(arena));
  BEELINE_ASSIGN(auto session, launch_session(std::move(options)));
  process->is_driver_ = process->has_launched_ = true;
  process->daemon_pid_ = process->daemon_child_ = session.daemon_pid;
  BEELINE_RETURN_IF_ERROR(
      process->start(std::move(session.socket), std::move(session.registered), std::move(session.listener)));
  return process;
}

Status Process::start(os::FrameSocket socket, control::Registered registered, os::Fd listener) {
  BEELINE_ASSIGN(mailbox_, ring::Mailbox::create());
  registered_ = std::move(registered);
  self_ = registered_.index;
  objects_.set_self(self_);
  spill_.emplace(registered_.session_dir);
  daemon_ = std::move(socket);
  peers_ = std::make_unique<Peers>(*this, mailbox_, *arena_);
  mapped_.count_in(control::agents_folder(registered_.session_dir), "p" + std::to_string(self_),
                   [this] { return name_for_people(); });
  started_ = true;
  BEELINE_RETURN_IF_ERROR(enter_session(registered_.session_dir));
  BEELINE_RETURN_IF_ERROR(progress_.start({.drain = [this] { return drain(); },
                                           .idle = [this] { on_idle(); },
                                           .chores = [this] { run_chores(); },
                                           .lull_chores = [this] { return trim_arena(); },
                                           .lull = trim_after()}));
  BEELINE_RETURN_IF_ERROR(control_.start());
  const Locked locked(lock_);
  peers_->listen(std::move(listener), registered_.session_dir, self_);
  if (registered_.idle_worker != 0) peers_->connect(registered_.idle_worker);
  control_.watch(daemon_.fd(), daemon_.wants_write(), [this](std::uint32_t events) { on_daemon_socket(events); });
  // What came together with the registration's answer is in the buffer already: no event will tell of it.
  on_daemon_socket(0);
  return Status::ok();
}

Process::~Process() {
  stop();
}

void Process::stop() {
  {
    Locked locked(lock_);
    if (std::exchange(stopped_, true)) return;
    if (is_driver_ && (daemon_.is_open() || away_)) {
      send_control(control::encode(control::Type::kShutdown, control::Empty{}));
      flush_to_daemon(locked, Deadline::after(away_ ? kDaemonBackWithin : kLastWordWithin));
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
    own_output_ = {};
    leave_session(registered_.session_dir);
    for (auto& [slot, publication] : publications_) {
      if (on_retired) on_retired(publication.id);
      // An agent of the transfer engine may use the arena beside us.
      if (!is_worker_) arena_->retire(publication.id);
      // Of a worker, others may own it: they read it there.
      if (publication.is_moved_out && (!is_worker_ || publication.owner == self_)) {
        spilled_in_vain_.emplace_back(self_, publication.id);
      }
    }
    publications_.clear();
    movable_.clear();
    retired_.clear();
    mapped_.close();
    mailbox_ = {};
    // What a worker has stored stays published: its owners copy it out once this process has ended.
    if (!is_worker_) arena = std::move(arena_);
  }
  remove_spilled();
}

std::optional<std::string> Process::session_error() {
  const Locked locked(lock_);
  if (session_error_.empty()) return std::nullopt;
  return session_error_;
}

PayloadPtr Process::session_failure() const {
  return make_failure(ErrorKind::kSessionLost, session_error_);
}

// ----- objects

Process::Entry* Process::put(PayloadPtr payload, const std::string* name, const std::string* call_site) {
  const Locked locked(lock_);
  Entry& entry = objects_.create(ObjectKind::kValue, name);
  entry.call_site = call_site;
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
  return entry.ready() || session_error_.empty() ? entry.payload : session_failure();
}

// Asks for a value that is not there.
void Process::subscribe(Entry& entry) {
  if (entry.ready()) return;
  if (entry.lineage != nullptr) {
    say_of_remaking(entry);
    return caller_.make_again(entry);
  }
  if (entry.id.owner == self_ || entry.subscribed) return;
  entry.subscribed = true;
  if (!peers_->send(entry.id.owner, Message::kSubscribe, view_of(entry.id))) {
    objects_.set_ready(entry, make_failure(ErrorKind::kOwnerDied, "the process that owned the object (process " +
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
    if (!entry->ready()) objects_.watch(*entry, countdown);
  }
  // Once all are watched: whose owner is gone is ready at once, and may be among the entries more than once.
  for (Entry* entry : entries) subscribe(*entry);
  const auto outcome = wait_giving_way(locked, deadline, [&] { return countdown.left == 0; });
  for (Entry* entry : entries) {
    if (!entry->ready()) objects_.unwatch(*entry, countdown);
  }
  return outcome;
}

// While this thread sleeps, others use the CPU of the function that it executes.
WaitOutcome Process::wait_giving_way(Locked& locked, Deadline deadline, FunctionRef<bool()> done) {
  bool blocked = false;
  const bool gives_way = executing_task;
  const auto outcome = progress_.wait(locked, deadline, done, [&] {
    if (!gives_way || blocked) return;
    blocked = true;
    tell_daemon(control::Type::kBlocked, control::Empty{});
    executor_.set_blocked(true);
  });
  if (blocked) {
    executor_.set_blocked(false);
    tell_daemon(control::Type::kUnblocked, control::Empty{});
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

void Process::set_executing_task(bool executing) {
  executing_task = executing;
}
bool Process::is_executing_task() {
  return executing_task;
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
                      const Scheduling& scheduling, const std::string& name) {
  const Locked locked(lock_);
  return caller_.shape(resources, wants_torch, env, scheduling, name);
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

Process::Entry* Process::next_item(Entry& stream) {
  Locked locked(lock_);
  Entry* item = caller_.next_item(stream.id);
  if (item == nullptr) return nullptr;
  if (!item->ready()) progress_.poke(locked);
  item = caller_.next_item(stream.id);
  objects_.add_hold(*item);
  return item;
}

Process::Entry* Process::take_item(Entry& stream) {
  const Locked locked(lock_);
  return caller_.take_item(stream);
}

void Process::drop_stream(Entry& stream) {
  Locked locked(lock_);
  if (stopped_) return;
  caller_.drop_stream(stream.id);
  if (objects_.has_doomed() && !mailbox_.has_mail()) reap();
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
    case Message::kItem:
      return caller_.on_item(from, reader);
    case Message::kTaken: {
      const auto record = reader.read<TakenRecord>();
      if (reader.ok()) executor_.on_taken(from, record);
      break;
    }
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
      Entry* entry = objects_.find(id);
      // One that nobody holds is about to go, and takes nothing any more: what the value refers to may be gone already.
      if (entry != nullptr && entry->local == 0 && id.owner != self_) {
        entry->subscribed = false;  // whoever takes hold of it after all asks anew
        entry = nullptr;
      }
      if (entry != nullptr && is_stale(*entry) && from == id.owner) {
        // Its producer told us and ended before it told the owner, who had it made again.
        objects_.replace(*entry, std::move(payload));
      } else if (entry != nullptr) {
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
      unpin(token);
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
  } else if (entry->ready() && !is_stale(*entry)) {
    send_object(from, *entry);
  } else {
    entry->subscribers.push_back(from);
    subscribe(*entry);
  }
}

void Process::on_peer_lost(ProcessIndex process, const Status& why) {
  const std::string& reason = why.message();
  // If it lives yet, it must end, or what waits for it here would wait for ever.
  tell_daemon(control::Type::kLinkLost, control::LinkLost{process, why.code() == Code::kCorrupt, reason});
  objects_.drop_process(process);
  objects_.fail_owner(process, reason);
  ask_owners();
  retire_publications_of(process);
  executor_.on_process_lost(process);
  caller_.on_process_lost(process, reason);
  rehome(process, reason);  // what is made again is not sent there any more
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
  // What it alone held is freed though no message comes.
  if (objects_.has_doomed()) progress_.request_chores();
}

void Process::run_chores() {
  clean_leases();
  copy_lost_values();
  remove_spilled();
}

void Process::watch_socket(int fd, bool also_writable, std::function<void(std::uint32_t)> handler) {
  control_.watch(fd, also_writable, [this, handler = std::move(handler)](std::uint32_t events) {
    handler(events);
    progress_.notify();
  });
}

void Process::forget_socket(int fd) {
  control_.forget(fd);
}

// ----- TableEvents

void Process::send_borrow(const store::ObjectId& id) {
  peers_->send(id.owner, Message::kBorrow, view_of(id));
}
void Process::send_release(const store::ObjectId& id) {
  peers_->send(id.owner, Message::kRelease, view_of(id));
}

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
  const bool is_told =
      peers_->send(placement.holder, Message::kFree, view_of(placement.publication), {}, Urgency::kSoon);
  // A holder that is gone, or about to be, removes no file.
  if (inheriting_ == placement.publication) return;
  const auto paths = mapped_.find(placement.holder);
  if (!is_told || (paths && paths->facts().arena->is_moved_out(placement.publication))) {
    forget_spilled(placement.holder, placement.publication);
  }
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
