// The agent's side of connections that it makes to other agents.
#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "beeline/os/fork_count.h"
#include "beeline/transfer/agent.h"
#include "beeline/transfer/messages.h"
#include "beeline/transport/builtin.h"

namespace beeline::transfer {
namespace {

using messages::Type;

constexpr auto kCleanAfter = std::chrono::milliseconds(1);

// Errors of connecting that tell of the other side, or of the way to it.
bool means_nobody(int error) {
  switch (error) {
    case ECONNREFUSED:
    case ECONNRESET:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENOENT:
    case ETIMEDOUT:
      return true;
    default:
      return false;
  }
}

}  // namespace

Result<std::shared_ptr<Peer>> Agent::peer(const std::string& address, const os::Wait& wait) {
  if (fork_count_ != os::fork_count()) {
    return Status(Code::kUnsupported,
                  "this process was forked from the one that opened agent \"" + name_ + "\": open one of its own");
  }
  const auto known = [this](const std::string& text) {
    const os::Locked locked(lock_);
    const auto found = peers_by_address_.find(text);
    return found != peers_by_address_.end() ? found->second : nullptr;
  };
  if (auto peer = known(address)) return peer;
  BEELINE_ASSIGN(const Address parsed, Address::parse(address));
  if (auto peer = known(parsed.text())) return peer;  // written in another way
  auto connected = connect(parsed, wait);
  if (connected) return connected;
  counters_->numbers().unreached.fetch_add(1, std::memory_order_relaxed);  // a number on its own
  Status failure = connected.status();
  if (means_nobody(failure.system_error())) failure = Status(Code::kPeerLost, "nobody is there: " + failure.message());
  return std::move(failure).with_context("while connecting to agent \"" + parsed.name + "\"");
}

Result<std::shared_ptr<Peer>> Agent::connect(const Address& address, const os::Wait& wait) {
  transport::PeerFacts facts;
  facts.self_id = address_.id;
  facts.peer_id = address.id;
  facts.tcp = address.tcp;
  facts.token = token_;
  facts.certificate = address.certificate;
  facts.tls = tls_;
  if (address.id == address_.id) {  // what it has of others' versions, for one; it shares memory with itself
    BEELINE_ASSIGN(auto ends, os::make_socket_pair());
    {
      const os::Locked locked(lock_);
      add_visitor(os::FrameSocket(std::move(ends.first)), {});
    }
    return meet(address, os::FrameSocket(std::move(ends.second)), std::move(facts), {}, wait);
  }
  std::string unshared = "the peer shares no memory: it was opened so";
  if (!address.unix_path.empty()) {
    if (address.boot_id != address_.boot_id) {
      unshared = "the peer is on another host";
    } else {
      auto connection = os::connect_unix(address.unix_path, wait);
      if (connection) return meet(address, os::FrameSocket(std::move(*connection)), std::move(facts), {}, wait);
      // Perhaps another container or user: the socket's folder is not this one's.
      const Status why = connection.status();
      unshared = "the peer's socket is not reachable from here: " + why.message();
      if (address.tcp.empty() || why.code() == Code::kInterrupted || !wait.check()) return why;
    }
  }
  Status last(Code::kUnsupported, unshared + ", and listens on no TCP address");
  for (const os::TcpAddress& place : address.tcp) {
    auto connection = transport::connect_control(place, facts, wait);
    if (connection) {
      return meet(address, os::FrameSocket(std::move(*connection)), std::move(facts), unshared, wait);
    }
    last = connection.status();
    if (last.code() == Code::kInterrupted || !wait.check()) break;
  }
  return last;
}

// The handshake on a fresh connection. `unshared` is empty on a unix socket.
Result<std::shared_ptr<Peer>> Agent::meet(const Address& address, os::FrameSocket socket, transport::PeerFacts facts,
                                          const std::string& unshared, const os::Wait& wait) {
  const bool by_unix = unshared.empty();
  os::keep_from_children(socket.fd());
  BEELINE_RETURN_IF_ERROR(socket.send(
      messages::encode(Type::kHello, messages::Hello{messages::kVersion, address_.id, name_, address_.text()})));
  BEELINE_RETURN_IF_ERROR(socket.flush_all(wait));
  os::Frame frame;
  BEELINE_RETURN_IF_ERROR(socket.receive_within(frame, wait));
  if (const auto refused = messages::decode<messages::Refused>(Type::kRefused, frame.bytes)) {
    return Status(static_cast<Code>(refused->code), refused->message);
  }
  BEELINE_ASSIGN(const auto welcome, messages::decode<messages::Welcome>(Type::kWelcome, frame.bytes));
  if (welcome.id != address.id) {
    return Status(Code::kNotFound, "agent \"" + welcome.name + "\" has taken its place: ask for its new address");
  }
  facts.name = welcome.name;
  if (by_unix) {
    if (frame.fds.size() != 2) return Status(Code::kCorrupt, "a welcome without the arena's descriptors");
    BEELINE_ASSIGN(const auto credentials, os::peer_credentials(socket.fd()));
    if (credentials.uid != ::geteuid()) {
      return Status(Code::kInvalidArgument, "the agent is of another user (" + std::to_string(credentials.uid) + ")");
    }
    facts.pid = credentials.pid;
    BEELINE_ASSIGN(facts.arena,
                   memory::PeerArena::attach(std::move(frame.fds[0]), std::move(frame.fds[1]), welcome.holder));
  }
  // What was mapped may outlive the agent: the owner sees the connection end when nothing is left of it.
  if (by_unix) {
    BEELINE_ASSIGN(auto lifeline, os::duplicate(socket.fd()));
    os::keep_from_children(lifeline.get());
    facts.arena->keep_open(std::move(lifeline));
  }
  auto peer = std::make_shared<Peer>(address, std::move(facts), unshared, transports_, requests());
  peer->paths().count_in(counters_, address.id);
  const os::Locked locked(lock_);
  const auto [found, is_new] = peers_by_address_.try_emplace(address.text(), peer);
  if (!is_new) return found->second;  // another thread was quicker
  const int fd = socket.fd();
  lines_[fd] = Line{std::move(socket), peer, {}, {}};
  count_connections();
  control_.watch(fd, false, [this, fd](std::uint32_t events) { on_line(fd, events); });
  return peer;
}

// What peers ask for reaches the agent only while it is there; a peer may outlive it.
Peer::Requests Agent::requests() {
  Peer::Requests requests;
  requests.clean = [reach = reach_](const std::shared_ptr<Peer>& peer) {
    const os::Locked locked(reach->lock);
    Agent* const agent = reach->agent;
    if (agent == nullptr) return;
    // Many leases may end within a moment, and whoever maps the same bytes again cleans them itself.
    agent->control_.after(kCleanAfter, [agent, peer] { agent->control_.defer([agent, peer] { agent->clean(peer); }); });
  };
  requests.tell = [reach = reach_](const std::shared_ptr<Peer>& peer, BytesView frame) {
    const os::Locked locked(reach->lock);
    Agent* const agent = reach->agent;
    Line* const line = agent != nullptr ? agent->line_of(*peer) : nullptr;
    if (line != nullptr) agent->send(*line, frame);
  };
  requests.warn = warn_;
  return requests;
}

Agent::Line* Agent::line_of(const Peer& peer) {
  for (auto& [fd, line] : lines_) {
    if (line.peer.get() == &peer) return &line;
  }
  return nullptr;
}

void Agent::on_line(int fd, std::uint32_t events) {
  Line& line = lines_.at(fd);
  Status status;
  if ((events & EPOLLOUT) != 0) status = line.socket.flush();
  if (status) {
    const auto taken = line.socket.take_frames([&](const os::Frame& frame) { return on_told(line, frame); });
    status = taken.status();
    if (taken && *taken == os::FrameSocket::Taken::kClosed) {
      status = Status(Code::kPeerLost, "its connection closed: the process has ended or closed its agent");
    }
    if (taken && *taken == os::FrameSocket::Taken::kSome) {  // others wait for the lock
      control_.after(Nanos(0), [this, fd, peer = std::weak_ptr(line.peer)] {
        const auto again = lines_.find(fd);
        if (again != lines_.end() && again->second.peer == peer.lock()) on_line(fd, 0);
      });
    }
  }
  if (status) {
    control_.watch(fd, line.socket.wants_write(), [this, fd](std::uint32_t next) { on_line(fd, next); });
    return;
  }
  line.peer->set_gone(status.message());
  const Status lost(Code::kPeerLost, "agent \"" + line.peer->address().name + "\" is gone: " + status.message());
  for (const auto& [name, subscribed] : line.subscriptions) subscribed.own->end(lost);
  std::erase_if(peers_by_address_, [&](const auto& entry) { return entry.second == line.peer; });
  control_.forget(fd);
  // Ends without the lock: connections of others' engines wait for those, or for the GIL.
  control_.defer([peer = std::move(line.peer)] {});
  lines_.erase(fd);
  count_connections();
}

Status Agent::on_told(Line& line, const os::Frame& frame) {
  const auto relay_of = [&](const std::string& name) {
    const auto found = line.subscriptions.find(name);
    return found != line.subscriptions.end() ? found->second.own->relay() : nullptr;  // null: it crossed with its end
  };
  switch (messages::type_of(frame.bytes)) {
    case Type::kAnswer: {
      BEELINE_ASSIGN(auto answer, messages::decode<messages::Answer>(Type::kAnswer, frame.bytes));
      if (answer.code == 0) {
        line.peer->set_answer(answer.asked, std::move(answer.content));
      } else {
        line.peer->set_answer(answer.asked, Status(static_cast<Code>(answer.code), std::move(answer.message)));
      }
      return Status::ok();
    }
    case Type::kWithdrawn: {
      BEELINE_ASSIGN(const auto topic, messages::decode<messages::Topic>(Type::kWithdrawn, frame.bytes));
      const auto found = line.subscriptions.find(topic.name);
      if (found != line.subscriptions.end()) found->second.own->withdraw();  // else it crossed with our kUnsubscribe
      return Status::ok();
    }
    case Type::kParent: {
      BEELINE_ASSIGN(auto parent, messages::decode<messages::Parent>(Type::kParent, frame.bytes));
      if (Relay* const relay = relay_of(parent.name)) relay->set_parent(std::move(parent));
      return Status::ok();
    }
    case Type::kRecall: {
      BEELINE_ASSIGN(const auto recall, messages::decode<messages::Recall>(Type::kRecall, frame.bytes));
      Relay* const relay = relay_of(recall.name);
      // Ends without the lock.
      if (relay != nullptr) control_.defer([dropped = relay->recall(recall.number)] {});
      return Status::ok();
    }
    default:
      return on_published(line, frame);
  }
}

Status Agent::on_published(Line& line, const os::Frame& frame) {
  BEELINE_ASSIGN(auto published, messages::decode<messages::Published>(Type::kPublished, frame.bytes));
  BEELINE_ASSIGN(auto tensors, Descriptor::decode(published.tensors, [&](std::uint64_t hash) {
                   const auto known = line.schemas.find(hash);
                   return known != line.schemas.end() ? known->second : nullptr;
                 }));
  if (line.schemas.size() < messages::kKnownSchemas) line.schemas.try_emplace(tensors.schema->hash(), tensors.schema);
  const auto found = line.subscriptions.find(published.name);
  if (found == line.subscriptions.end()) return Status::ok();  // crossed with our kUnsubscribe
  found->second.own->publish({published.number, std::make_shared<const Descriptor>(std::move(tensors))});
  return Status::ok();
}

void Agent::send(Line& line, BytesView frame) {
  const int fd = line.socket.fd();
  (void)line.socket.send(frame);
  if (line.socket.wants_write()) control_.watch(fd, true, [this, fd](std::uint32_t e) { on_line(fd, e); });
}

void Agent::send_to(const Peer& peer, BytesView frame) {
  const os::Locked locked(lock_);
  if (Line* const line = line_of(peer)) send(*line, frame);
}

Result<std::shared_ptr<Subscription>> Agent::subscribe(const std::string& address, const std::string& name,
                                                       const os::Wait& wait, bool relays) {
  if (relays && address_.tcp.empty() && address_.unix_path.empty()) {
    return Status(Code::kInvalidArgument,
                  "no other agent reaches this one to read on: open it with tcp=, or let it share memory");
  }
  BEELINE_ASSIGN(const auto publisher, peer(address, wait));
  const os::Locked locked(lock_);
  Line* const line = line_of(*publisher);
  if (line == nullptr) return Status(Code::kPeerLost, "agent \"" + publisher->address().name + "\" is gone");
  auto& subscribed = line->subscriptions[name];
  auto known = subscribed.given.lock();
  if (known == nullptr) subscribed.own = std::make_shared<Subscription>(name);
  if (relays) subscribed.own->start_relaying(weak_from_this(), publisher);
  if (known != nullptr) return known;
  std::shared_ptr<Subscription> given(subscribed.own.get(),
                                      [reach = reach_, publisher, own = subscribed.own](Subscription*) {
                                        const os::Locked unlocked(reach->lock);
                                        if (reach->agent != nullptr) reach->agent->unsubscribe(*publisher, own->name());
                                      });
  subscribed.given = given;
  send(*line, messages::encode(Type::kSubscribe, messages::Topic{name}));
  return given;
}

// With the lock held.
void Agent::unsubscribe(const Peer& publisher, const std::string& name) {
  if (fork_count_ != os::fork_count()) return;  // the connection is the parent's
  Line* const line = line_of(publisher);
  if (line == nullptr) return;
  const auto found = line->subscriptions.find(name);
  // Somebody may have subscribed anew meanwhile.
  if (found == line->subscriptions.end() || !found->second.given.expired()) return;
  line->subscriptions.erase(found);
  send(*line, messages::encode(Type::kUnsubscribe, messages::Topic{name}));
}

// Drops pages of leases that have ended. Owners of undone registrations wait for the last hold on them: tells that one
// came back. Without the lock.
void Agent::clean(const std::shared_ptr<Peer>& peer) {
  peer->cleaning_begins();
  messages::Returned returned;
  for (const auto id : peer->facts().arena->clean()) returned.ids.emplace_back(id.slot, id.generation);
  if (returned.ids.empty()) return;
  const os::Locked locked(lock_);
  if (Line* const line = line_of(*peer)) send(*line, messages::encode(Type::kReturned, returned));
}

}  // namespace beeline::transfer
