// The agent's side of connections that other agents make.
#include <sys/epoll.h>
#include <sys/socket.h>

#include <utility>

#include "beeline/os/remote_memory.h"
#include "beeline/transfer/agent.h"
#include "beeline/transfer/messages.h"

namespace beeline::transfer {

namespace {

using messages::Type;

// What is read of one visitor in one go, with the lock held.
constexpr int kFramesAtOnce = 64;
// That wait for an answer.
constexpr std::size_t kMaxQuestions = 4096;

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
    add_visitor(std::move(*accepted), {});
  }
}

void Agent::add_visitor(os::Fd connection, const std::string& id) {
  if (reach_->agent == nullptr) return;
  const int fd = connection.get();
  visitors_[fd] = Visitor{os::FrameSocket(std::move(connection)), ++last_serial_, id, id.empty(), {}, false, {}, 0, 0};
  count_connections();
  control_.watch(fd, false, [this, fd](std::uint32_t events) { on_visitor(fd, events); });
}

void Agent::on_visitor(int fd, std::uint32_t events) {
  Visitor& visitor = visitors_.at(fd);
  Status status;
  if ((events & EPOLLOUT) != 0) status = visitor.socket.flush();
  visitor.count_taken();
  for (int frames = 0; status; ++frames) {
    if (frames == kFramesAtOnce) {  // others wait for the lock
      control_.after(Nanos(0), [this, fd, serial = visitor.serial] {
        const auto again = visitors_.find(fd);
        if (again != visitors_.end() && again->second.serial == serial) on_visitor(fd, 0);
      });
      break;
    }
    os::Frame frame;
    const auto received = visitor.socket.receive(frame);
    if (!received) {
      status = received.status();
    } else if (*received == os::FrameSocket::Receive::kClosed) {
      status = Status(Code::kPeerLost, "closed");
    } else if (*received == os::FrameSocket::Receive::kNothing) {
      break;
    } else {
      status = on_frame(visitor, frame);
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
      if (found != topics_.end()) found->second.subscribers.erase(visitor.socket.fd());
      return Status::ok();
    }
    case Type::kAsk: {
      BEELINE_ASSIGN(auto asked, messages::decode<messages::Ask>(Type::kAsk, frame.bytes));
      if (++visitor.questions > kMaxQuestions) {
        count_refusal();
        return {Code::kResourceExhausted, "more than " + std::to_string(kMaxQuestions) + " questions at once"};
      }
      const bool is_for_exporter = !asked.path.empty() && start_exporters();
      const auto reply = [this, serial = visitor.serial, fd = visitor.socket.fd(), id = visitor.id,
                          asked = std::move(asked)] {
        const Bytes said = messages::encode(Type::kAnswer, answer(asked, id));
        const os::Locked locked(lock_);
        const auto found = visitors_.find(fd);
        if (found == visitors_.end() || found->second.serial != serial) return;
        ++found->second.untaken;
        tell(found->second, said);
        found->second.count_taken();
      };
      if (!is_for_exporter) {
        control_.defer(reply);
        return Status::ok();
      }
      // Exporters may take their time: on a thread of their own.
      const os::Locked exporters(exporters_lock_);
      exporters_.defer(reply);
      return Status::ok();
    }
    default:
      return {Code::kCorrupt, "a message that no visitor sends"};
  }
}

// The thread that asks exporters begins with the first question. Whether it runs.
bool Agent::start_exporters() {
  if (!exporters_started_ && reach_->agent != nullptr) {
    exporters_started_ = true;
    if (!exporters_.start()) exporters_started_ = false;
  }
  return exporters_started_;
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
    transport::Exporter* exporter = nullptr;
    for (const auto& transport : *transports_) {
      if (transport->name() == asked.path) exporter = transport->exporter();
    }
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
  if (visitor.by_unix) visitor.id = hello.id;  // TCP's opening has told it
  visitor.welcome = true;
  return visitor.socket.send(messages::encode(Type::kWelcome, welcome), fds);
}

void Agent::dismiss(int fd) {
  control_.forget(fd);
  if (const auto holder = visitors_.at(fd).holder) arena_->drop_holder(*holder);
  for (auto& [name, topic] : topics_) topic.subscribers.erase(fd);
  visitors_.erase(fd);
  count_connections();
  control_.defer([regions = regions_] { regions->sweep(); });
}

}  // namespace beeline::transfer
