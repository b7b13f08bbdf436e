// The agent's side of connections that other agents make.
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "beeline/os/remote_memory.h"
#include "beeline/transfer/agent.h"
#include "beeline/transfer/messages.h"

namespace beeline::transfer {

namespace {

using messages::Type;

// That wait for an answer.
constexpr std::size_t kMaxQuestions = 4096;
// In place, that go on.
constexpr std::size_t kMaxWrites = 4096;
// What a caller may say before it is welcome, in bytes.
constexpr std::uint32_t kMaxGreeting = 1 << 16;

}  // namespace

void Agent::accept_all() {
  for (;;) {
    auto accepted = os::accept_unix(listener_.get());
    if (!accepted) {
      count_refusal();
      if (accepted.status().system_error() == 0) continue;  // a stranger
      // No descriptor is left: callers wait in the backlog until one is.
      control_.forget(listener_.get());
      control_.after(std::chrono::milliseconds(50),
                     [this] { control_.watch(listener_.get(), false, [this](std::uint32_t) { accept_all(); }); });
      return;
    }
    if (!accepted->is_open()) return;
    add_visitor(os::FrameSocket(std::move(*accepted)), {});
  }
}

void Agent::add_visitor(os::FrameSocket socket, const std::string& id) {
  if (reach_->agent == nullptr) return;
  const int fd = socket.fd();
  os::keep_from_children(fd);
  socket.limit_frames(kMaxGreeting);
  visitors_[fd] = Visitor{std::move(socket), ++last_serial_, id, id.empty()};
  count_connections();
  control_.watch(fd, false, [this, fd](std::uint32_t events) { on_visitor(fd, events); });
}

void Agent::on_visitor(int fd, std::uint32_t events) {
  Visitor& visitor = visitors_.at(fd);
  Status status;
  if ((events & EPOLLOUT) != 0) status = visitor.socket.flush();
  visitor.count_taken();
  if (status) {
    const auto taken = visitor.socket.take_frames([&](const os::Frame& frame) { return on_frame(visitor, frame); });
    status = taken.status();
    if (taken && *taken == os::FrameSocket::Taken::kClosed) status = Status(Code::kPeerLost, "closed");
    if (taken && *taken == os::FrameSocket::Taken::kSome) {  // others wait for the lock
      control_.after(Nanos(0), [this, fd, serial = visitor.serial] {
        if (find_visitor(fd, serial) != nullptr) on_visitor(fd, 0);
      });
    }
  }
  if (!status) return dismiss(fd);
  control_.watch(fd, visitor.socket.wants_write(), [this, fd](std::uint32_t next) { on_visitor(fd, next); });
}

Status Agent::on_frame(Visitor& visitor, const os::Frame& frame) {
  if (!visitor.welcome) return greet(visitor, frame);
  switch (messages::type_of(frame.bytes)) {
    case Type::kReturned:  // which ones is in the lease table; this is only the time to look
      control_.defer([regions = regions_] { regions->sweep(); });
      return Status::ok();
    case Type::kSubscribe: {
      BEELINE_ASSIGN(const auto topic, messages::decode<messages::Topic>(Type::kSubscribe, frame.bytes));
      on_subscribe(visitor, topic.name);
      return Status::ok();
    }
    case Type::kUnsubscribe: {
      BEELINE_ASSIGN(const auto topic, messages::decode<messages::Topic>(Type::kUnsubscribe, frame.bytes));
      const auto found = topics_.find(topic.name);
      if (found == topics_.end()) return Status::ok();
      found->second.subscribers.erase(visitor.socket.fd());
      leave_fan_outs(topic.name, found->second, visitor.socket.fd());
      return Status::ok();
    }
    case Type::kSeek: {
      BEELINE_ASSIGN(const auto seek, messages::decode<messages::Seek>(Type::kSeek, frame.bytes));
      on_seek(visitor, seek);
      return Status::ok();
    }
    case Type::kOffer: {
      BEELINE_ASSIGN(const auto offer, messages::decode<messages::Offer>(Type::kOffer, frame.bytes));
      return on_offer(visitor, offer);
    }
    case Type::kAsk: {
      BEELINE_ASSIGN(auto asked, messages::decode<messages::Ask>(Type::kAsk, frame.bytes));
      BEELINE_RETURN_IF_ERROR(count_question(visitor));
      if (asked.question == static_cast<std::uint8_t>(messages::Question::kBeginWrite)) {
        control_.defer([this, serial = visitor.serial, fd = visitor.socket.fd(), id = visitor.id,
                        asked = std::move(asked)] { begin_write(fd, serial, id, asked); });
        return Status::ok();
      }
      const bool is_for_exporter = !asked.path.empty() && start_exporters();
      const auto say = [this, serial = visitor.serial, fd = visitor.socket.fd(), id = visitor.id,
                        asked = std::move(asked)] {
        const messages::Answer said = answer(asked, id);
        const os::Locked locked(lock_);
        if (Visitor* const there = find_visitor(fd, serial)) reply(*there, said);
      };
      if (!is_for_exporter) {
        control_.defer(say);
        return Status::ok();
      }
      // Exporters may take their time: on a thread of their own.
      const os::Locked exporters(exporters_lock_);
      exporters_.defer(say);
      return Status::ok();
    }
    case Type::kWritten: {
      BEELINE_ASSIGN(const auto written, messages::decode<messages::Written>(Type::kWritten, frame.bytes));
      on_written(visitor, written.serial);
      return Status::ok();
    }
    case Type::kNotify: {
      BEELINE_ASSIGN(auto notify, messages::decode<messages::Notify>(Type::kNotify, frame.bytes));
      BEELINE_RETURN_IF_ERROR(count_question(visitor));
      messages::Ask asked{
          static_cast<std::uint8_t>(messages::Question::kNotified), notify.topic, 0, 0, 0, 0, notify.serial};
      const Status status = on_notify(visitor, std::move(notify));
      reply(visitor, {std::move(asked), static_cast<std::uint8_t>(status.code()), status.message(), {}});
      return Status::ok();
    }
    default:
      return {Code::kCorrupt, "a message that no visitor sends"};
  }
}

// One that is gone: null.
Agent::Visitor* Agent::find_visitor(int fd, std::uint64_t serial) {
  const auto found = visitors_.find(fd);
  return found != visitors_.end() && found->second.serial == serial ? &found->second : nullptr;
}

// Without the lock: what it held may end here.
void Agent::begin_write(int fd, std::uint64_t visitor, const std::string& agent_id, const messages::Ask& asked) {
  auto begun = regions_->begin_write({asked.slot, asked.generation}, asked.address, asked.length, agent_id);
  Status status = begun.status();
  const os::Locked locked(lock_);
  Visitor* const there = find_visitor(fd, visitor);
  if (there == nullptr) return;
  if (status && there->writing.size() >= kMaxWrites) {
    status = Status(Code::kResourceExhausted, "more than " + std::to_string(kMaxWrites) + " writes at once");
  }
  if (status) there->writing.try_emplace(asked.serial, std::move(*begun));
  reply(*there, {asked, static_cast<std::uint8_t>(status.code()), status.message(), {}});
}

// False where none has begun. What it held ends without the lock.
bool Agent::end_write(Visitor& visitor, std::uint64_t serial) {
  const auto found = visitor.writing.find(serial);
  if (found == visitor.writing.end()) return false;
  found->second->end();
  control_.defer([held = std::move(found->second)] {});
  visitor.writing.erase(found);
  return true;
}

// At once, so that what the visitor says next finds it ended; after its beginning, where that is still to come.
void Agent::on_written(Visitor& visitor, std::uint64_t serial) {
  if (end_write(visitor, serial)) return;
  control_.defer([this, fd = visitor.socket.fd(), id = visitor.serial, serial] {
    const os::Locked locked(lock_);
    if (Visitor* const there = find_visitor(fd, id)) end_write(*there, serial);
  });
}

Status Agent::count_question(Visitor& visitor) {
  if (++visitor.questions <= kMaxQuestions) return Status::ok();
  count_refusal();
  return {Code::kResourceExhausted, "more than " + std::to_string(kMaxQuestions) + " questions at once"};
}

void Agent::reply(Visitor& visitor, const messages::Answer& answer) {
  ++visitor.untaken;
  tell(visitor, messages::encode(Type::kAnswer, answer));
  visitor.count_taken();
}

Status Agent::on_notify(const Visitor& visitor, messages::Notify notify) {
  const auto found = notifications_.find(notify.topic);
  const auto taken = found != notifications_.end() ? found->second.lock() : nullptr;
  if (taken == nullptr) {
    count_refusal();
    return {Code::kNotFound, "agent \"" + name_ + "\" takes no notifications of topic \"" +
                                 notify.topic.substr(0, kMaxNotificationTopic) +
                                 "\": its program calls notifications() first"};
  }
  if (notify.payload.size() > kMaxNotification) {
    count_refusal();
    return {Code::kInvalidArgument, "a notification of " + std::to_string(notify.payload.size()) + " bytes, at most " +
                                        std::to_string(kMaxNotification)};
  }
  return taken->add({visitor.id, visitor.name, std::move(notify.payload)}).with_context("at agent \"" + name_ + "\"");
}

Result<std::shared_ptr<Notifications>> Agent::notifications(const std::string& topic, std::size_t limit,
                                                            Notifications::WhenFull when_full) {
  if (topic.size() > kMaxNotificationTopic) {
    return Status(Code::kInvalidArgument, "a topic of " + std::to_string(topic.size()) + " bytes, at most " +
                                              std::to_string(kMaxNotificationTopic));
  }
  BEELINE_ASSIGN(auto made, Notifications::make(topic, limit, when_full));
  const os::Locked locked(lock_);
  std::erase_if(notifications_, [](const auto& entry) { return entry.second.expired(); });
  const auto [known, is_new] = notifications_.try_emplace(topic, made);
  if (is_new) return made;
  auto there = known->second.lock();
  if (there == nullptr) {  // its last holder has let go of it just now
    known->second = made;
    return made;
  }
  if (there->limit() == limit && there->when_full() == when_full) return there;
  return Status(Code::kAlreadyExists, "notifications of topic \"" + topic + "\" are taken with a limit of " +
                                          std::to_string(there->limit()) + " already");
}

// The thread that asks exporters begins with the first question. Whether it runs.
bool Agent::start_exporters() {
  if (!exporters_started_ && reach_->agent != nullptr) {
    exporters_started_ = true;
    if (!exporters_.start()) exporters_started_ = false;
  }
  return exporters_started_;
}

Result<RegionKeys> Agent::keys(std::span<const transport::Region> regions, const std::string& path) {
  const transport::Transport* const transport = find_transport(path);
  if (transport == nullptr) {
    return Status(Code::kUnsupported, "agent \"" + name_ + "\" has no path \"" + path + "\"");
  }
  RegionKeys given{path, {}};
  if (transport->exporter() == nullptr) return given;
  for (const auto& region : regions) {
    BEELINE_ASSIGN(auto key,
                   regions_->export_key(*transport->exporter(), region.id, transport::Access::kRead, address_.id));
    given.keys.push_back(std::move(key));
  }
  return given;
}

const transport::Transport* Agent::find_transport(std::string_view path) const {
  const auto found = std::ranges::find_if(*transports_, [&](const auto& each) { return each->name() == path; });
  return found == transports_->end() ? nullptr : found->get();
}

messages::Answer Agent::answer(const messages::Ask& asked, const std::string& agent_id) {
  using messages::Question;
  const auto question = static_cast<Question>(asked.question);
  const memory::PublicationId id{asked.slot, asked.generation};
  const auto content = [&]() -> Result<Bytes> {
    if (question == Question::kMayWrite) {
      BEELINE_RETURN_IF_ERROR(regions_->check_grant(id, asked.address, asked.length, agent_id));
      return Bytes();
    }
    if (question == Question::kWrites) {
      BEELINE_ASSIGN(const auto held, regions_->hold(id, transport::Access::kRead, agent_id));
      Bytes number;
      Writer(number).write(held.writes->load());
      return number;
    }
    const transport::Transport* const transport = find_transport(asked.path);
    transport::Exporter* const exporter = transport != nullptr ? transport->exporter() : nullptr;
    if (exporter == nullptr) {
      return Status(Code::kUnsupported, "agent \"" + name_ + "\" has no path \"" + asked.path + "\" to be reached by");
    }
    if (question == Question::kContact) return exporter->contact();
    if (question == Question::kAnnounce) {
      BEELINE_ASSIGN(const auto held, regions_->hold(id, transport::Access::kRead, agent_id));
      BEELINE_RETURN_IF_ERROR(exporter->announce(held.device, 0));
      return Bytes();
    }
    if (question != Question::kReadKey && question != Question::kWriteKey) {
      return Status(Code::kUnsupported, "agent \"" + name_ + "\" does not know this question");
    }
    const auto access = question == Question::kReadKey ? transport::Access::kRead : transport::Access::kWrite;
    return regions_->export_key(*exporter, id, access, agent_id);
  }();
  const Status status = content.status();
  return {asked, static_cast<std::uint8_t>(status.code()), status.is_ok() ? "" : status.message(),
          content ? *content : Bytes()};
}

void Agent::on_subscribe(Visitor& visitor, const std::string& name) {
  Topic& topic = topics_[name];
  topic.subscribers.insert(visitor.socket.fd());
  if (!topic.newest.empty()) tell_version(visitor, topic);
}

void Agent::tell_version(Visitor& visitor, const Topic& topic) {
  if (visitor.schemas.contains(topic.schema_hash)) return tell(visitor, topic.newest_by_hash);
  if (visitor.schemas.size() < messages::kKnownSchemas) visitor.schemas.insert(topic.schema_hash);
  tell(visitor, topic.newest);
}

// A visitor that does not read costs this agent memory, not time. Its end is seen by on_visitor().
void Agent::tell(Visitor& visitor, BytesView frame) {
  const int fd = visitor.socket.fd();
  (void)visitor.socket.send(frame);
  if (visitor.socket.wants_write()) control_.watch(fd, true, [this, fd](std::uint32_t e) { on_visitor(fd, e); });
}

Status Agent::greet(Visitor& visitor, const os::Frame& frame) {
  BEELINE_ASSIGN(const auto hello, messages::decode<messages::Hello>(Type::kHello, frame.bytes));
  if (hello.version != messages::kVersion) {
    count_refusal();
    const Status refusal(Code::kUnsupported, "agent \"" + name_ + "\" speaks version " +
                                                 std::to_string(messages::kVersion) + ", the caller version " +
                                                 std::to_string(hello.version) + ": install one release on both sides");
    (void)visitor.socket.send(messages::encode(
        Type::kRefused, messages::Refused{static_cast<std::uint8_t>(refusal.code()), refusal.message()}));
    return refusal;
  }
  if (visitor.by_unix) visitor.id = hello.id;  // TCP's opening has told it
  visitor.name = hello.name;
  BEELINE_RETURN_IF_ERROR(read_address(visitor, hello));
  messages::Welcome welcome;
  welcome.id = address_.id;
  welcome.name = name_;
  std::vector<int> fds;
  if (visitor.by_unix) {
    BEELINE_ASSIGN(const auto credentials, os::peer_credentials(visitor.socket.fd()));
    BEELINE_ASSIGN(visitor.holder, arena_->add_holder(credentials.pid));
    // Where Yama restricts readers to ancestors: this one may. The kernel knows one at a time.
    if (os::ptrace_scope() == 1) (void)os::permit_tracer(credentials.pid);  // cma says what it lacks
    welcome.holder = *visitor.holder;
    fds = {arena_->data_fd(), arena_->control_fd()};
  }
  visitor.welcome = true;
  visitor.socket.limit_frames(os::FrameSocket::kMaxFrame);
  return visitor.socket.send(messages::encode(Type::kWelcome, welcome), fds);
}

void Agent::dismiss(int fd) {
  control_.forget(fd);
  if (const auto holder = visitors_.at(fd).holder) arena_->drop_holder(*holder);
  for (auto& [name, topic] : topics_) topic.subscribers.erase(fd);
  // It does not write any more; what its writes held ends without the lock.
  auto& writing = visitors_.at(fd).writing;
  for (const auto& [serial, write] : writing) write->end();
  if (!writing.empty()) control_.defer([held = std::move(writing)] {});
  visitors_.erase(fd);
  for (auto& [name, topic] : topics_) leave_fan_outs(name, topic, fd);
  count_connections();
  control_.defer([regions = regions_] { regions->sweep(); });
}

}  // namespace beeline::transfer
