#include "beeline/transfer/agent.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "beeline/os/fork_count.h"
#include "beeline/os/private_folder.h"
#include "beeline/os/remote_memory.h"
#include "beeline/transfer/messages.h"
#include "beeline/transport/builtin.h"

namespace beeline::transfer {
namespace {

using messages::Type;

constexpr const char* kSuffix = ".agent";
constexpr auto kCleanAfter = std::chrono::milliseconds(1);

// Sockets and counters of agents that were killed.
void remove_left_behind(const std::string& folder) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const std::string path = entry.path().string();
    if (path.ends_with(kSuffix) && os::is_left_behind(path)) ::unlink(path.c_str());
    if (is_counters_name(path)) remove_if_left_behind(path);
  }
}

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

Status disconnected(const char* why) {
  return {Code::kPeerLost, why};
}

}  // namespace

std::string agents_folder() {
  return os::user_folder() + "/agents";
}

Result<std::shared_ptr<Agent>> Agent::open(Options options) {
  if (options.name.empty()) return Status(Code::kInvalidArgument, "an agent needs a name");
  std::shared_ptr<Agent> agent(new Agent(), close);
  agent->name_ = options.name;
  agent->token_ = options.token;
  agent->fork_count_ = os::fork_count();
  agent->address_.name = options.name;
  agent->address_.id = make_agent_id();
  agent->address_.boot_id = os::boot_id();
  agent->arena_ = std::move(options.arena);
  if (agent->arena_ == nullptr) {
    BEELINE_ASSIGN(agent->arena_, memory::Arena::open({}));
  }
  agent->regions_ = Regions::make(agent->arena_);
  agent->reach_->agent = agent.get();
  agent->transports_ = std::make_shared<const transport::Transports>(transport::make_builtin());
  BEELINE_RETURN_IF_ERROR(agent->settle_in(options).with_context("while opening agent \"" + options.name + "\""));
  BEELINE_RETURN_IF_ERROR(agent->control_.start());
  BEELINE_RETURN_IF_ERROR(agent->listen(options).with_context("while opening agent \"" + options.name + "\""));
  BEELINE_RETURN_IF_ERROR(agent->counters_->appear(agent->address_.text()));
  return agent;
}

// Makes the folder, and in it the file of the counters. An agent does without the file, and where it shares no memory
// without the folder: numbers are no reason to fail.
Status Agent::settle_in(const Options& options) {
  is_own_folder_ = options.folder.empty();
  folder_ = is_own_folder_ ? agents_folder() : options.folder;
  Status status;
  bool has_folder = false;
  // Others who leave remove folders that are empty: one may go between two calls.
  for (int attempt = 0; attempt < 10; ++attempt) {
    status = is_own_folder_ ? os::make_private_folder(os::user_folder()) : Status::ok();
    if (status) status = os::make_private_folder(folder_);
    has_folder = status.is_ok();
    if (has_folder) {
      remove_left_behind(folder_);
      auto made = Counters::create(folder_, address_.id, name_);
      status = made.status();
      if (made) counters_ = std::move(*made);
    }
    if (status.system_error() != ENOENT) break;
  }
  if (!has_folder && options.share_memory) return status;
  if (!status) {
    uncounted_ = status.message();
    BEELINE_ASSIGN(counters_, Counters::create_unseen(address_.id, name_));
  }
  regions_->count_in({counters_, &counters_->numbers().registrations});
  return Status::ok();
}

// Listens in the folder; returns the socket's path.
Result<std::string> Agent::listen_in_folder() {
  const std::string path = folder_ + "/" + address_.id + kSuffix;
  // Until it listens it looks like one that was left behind.
  const std::string unfinished = path + ".new";
  BEELINE_ASSIGN(auto listening, os::listen_unix(unfinished));
  if (::rename(unfinished.c_str(), path.c_str()) != 0) return Status::from_errno("rename " + unfinished, errno);
  listener_ = std::move(listening);
  return path;
}

Status Agent::listen(const Options& options) {
  if (options.share_memory) {
    BEELINE_ASSIGN(const std::string path, listen_in_folder());
    address_.unix_path = path;
    const os::Locked locked(lock_);
    control_.watch(listener_.get(), false, [this](std::uint32_t) { accept_all(); });
  }
  if (options.tcp) {
    const auto refuse = [this] { count_refusal(); };
    BEELINE_ASSIGN(server_, transport::serve_tcp({*options.tcp, options.token, refuse}, *regions_,
                                                 [this](os::Fd connection, const std::string& agent_id) {
                                                   const os::Locked locked(lock_);
                                                   add_visitor(std::move(connection), agent_id);
                                                 }));
    const std::string& host = server_->address().host;
    if (options.advertise.empty() && (host == "0.0.0.0" || host == "::")) {
      return {Code::kInvalidArgument, "it listens on every address: say by which host others reach it (advertise=)"};
    }
    address_.tcp.push_back(server_->address());
    if (!options.advertise.empty()) address_.tcp.back().host = options.advertise;
  }
  return Status::ok();
}

void Agent::close(Agent* agent) {
  // In a child of fork() its threads and connections are the parent's: it is left as it is.
  if (agent->fork_count_ == os::fork_count()) delete agent;
}

Agent::~Agent() {
  {
    const os::Locked locked(lock_);
    reach_->agent = nullptr;
    // Who has mapped something keeps the connection open: nothing is told over it any more.
    for (auto& [fd, line] : lines_) {
      for (const auto& [name, subscribed] : line.subscriptions) {
        (void)line.socket.send(messages::encode(Type::kUnsubscribe, messages::Topic{name}));
      }
    }
  }
  server_.reset();
  control_.stop();
  if (!address_.unix_path.empty()) ::unlink(address_.unix_path.c_str());
  if (counters_ != nullptr) counters_->remove();
  // A folder of ours goes with the last agent in it; so does the one above, unless sessions are there.
  if (is_own_folder_ && ::rmdir(folder_.c_str()) == 0) ::rmdir(os::user_folder().c_str());
  const Status closed(Code::kPeerLost, "agent \"" + name_ + "\" was closed");
  for (const auto& [fd, line] : lines_) {
    line.peer->set_gone("this agent was closed");
    for (const auto& [name, subscribed] : line.subscriptions) subscribed.own->end(closed);
  }
  // Children of fork() have the sockets, too: closing alone would tell nobody. Visitors keep their place in the lease
  // table: who has mapped something reads on, and the arena may be others' as well.
  for (const auto& [fd, visitor] : visitors_) ::shutdown(fd, SHUT_RDWR);
  regions_->sweep();
}

Agent::Stats Agent::stats() const {
  const os::Locked locked(lock_);
  return {lines_.size(), visitors_.size(), counters_->numbers().refused.load(std::memory_order_relaxed),
          counters_->path(), uncounted_};
}

void Agent::count_refusal() {
  counters_->numbers().refused.fetch_add(1, std::memory_order_relaxed);
}

// With the lock held. Relaxed: numbers on their own.
void Agent::count_connections() {
  counters_->numbers().peers.store(lines_.size(), std::memory_order_relaxed);
  counters_->numbers().visitors.store(visitors_.size(), std::memory_order_relaxed);
}

// ----- connections that others make

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
  visitors_[fd] = Visitor{os::FrameSocket(std::move(connection)), id, id.empty(), {}, false};
  count_connections();
  control_.watch(fd, false, [this, fd](std::uint32_t events) { on_visitor(fd, events); });
}

void Agent::on_visitor(int fd, std::uint32_t events) {
  Visitor& visitor = visitors_.at(fd);
  Status status;
  if ((events & EPOLLOUT) != 0) status = visitor.socket.flush();
  while (status) {
    os::Frame frame;
    const auto received = visitor.socket.receive(frame);
    if (!received) {
      status = received.status();
    } else if (*received == os::FrameSocket::Receive::kClosed) {
      status = disconnected("closed");
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
    case Type::kMayWrite: {
      BEELINE_ASSIGN(const auto asked, messages::decode<messages::MayWrite>(Type::kMayWrite, frame.bytes));
      const Status verdict =
          regions_->check_grant({asked.slot, asked.generation}, asked.address, asked.length, visitor.id);
      tell(visitor, messages::encode(Type::kGrant, messages::Grant{asked, static_cast<std::uint8_t>(verdict.code()),
                                                                   verdict.message()}));
      return Status::ok();
    }
    default:
      return {Code::kCorrupt, "a message that no visitor sends"};
  }
}

void Agent::on_subscribe(Visitor& visitor, const std::string& name) {
  Topic& topic = topics_[name];
  topic.subscribers.insert(visitor.socket.fd());
  if (!topic.newest.empty()) tell(visitor, topic.newest);
}

// A visitor that does not read costs this agent memory, not time. Its end is seen by on_visitor().
void Agent::tell(Visitor& visitor, BytesView frame) {
  const int fd = visitor.socket.fd();
  (void)visitor.socket.send(frame);
  if (visitor.socket.wants_write()) control_.watch(fd, true, [this, fd](std::uint32_t e) { on_visitor(fd, e); });
}

Result<std::uint64_t> Agent::publish(const std::string& name, std::uint64_t number, Snapshot snapshot,
                                     std::size_t keep) {
  messages::Published published{name, number, snapshot.tensors->encode()};
  std::deque<std::shared_ptr<Registration>> dropped;  // ends without the lock
  const os::Locked locked(lock_);
  Topic& topic = topics_[name];
  if (number == 0) published.number = topic.number + 1;
  if (published.number <= topic.number) {
    return Status(Code::kInvalidArgument, "version " + std::to_string(number) + " of \"" + name +
                                              "\" is not newer than version " + std::to_string(topic.number));
  }
  topic.number = published.number;
  topic.newest = messages::encode(Type::kPublished, published);
  topic.kept.push_back(std::move(snapshot.registration));
  while (topic.kept.size() > std::max<std::size_t>(keep, 1)) {
    dropped.push_back(std::move(topic.kept.front()));
    topic.kept.pop_front();
  }
  for (const int fd : topic.subscribers) tell(visitors_.at(fd), topic.newest);
  return topic.number;
}

void Agent::withdraw(const std::string& name) {
  std::deque<std::shared_ptr<Registration>> dropped;  // ends without the lock
  const os::Locked locked(lock_);
  const auto found = topics_.find(name);
  if (found == topics_.end()) return;
  dropped = std::exchange(found->second.kept, {});
  found->second.newest.clear();
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

// ----- connections that this agent makes

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
  counters_->numbers().unreached.fetch_add(1, std::memory_order_relaxed);
  Status failure = connected.status();
  if (means_nobody(failure.system_error())) failure = Status(Code::kPeerLost, "nobody is there: " + failure.message());
  return std::move(failure).with_context("while connecting to agent \"" + parsed.name + "\"");
}

Result<std::shared_ptr<Peer>> Agent::connect(const Address& address, const os::Wait& wait) {
  std::string unshared = "the peer shares no memory: it was opened so";
  if (!address.unix_path.empty()) {
    if (address.boot_id != address_.boot_id) {
      unshared = "the peer is on another host";
    } else {
      auto connection = os::connect_unix(address.unix_path);
      if (connection) return meet(address, std::move(*connection), {}, wait);
      // Perhaps another container or user: the socket's folder is not this one's.
      unshared = "the peer's socket is not reachable from here: " + connection.status().message();
      if (address.tcp.empty()) return connection.status();
    }
  }
  Status last(Code::kUnsupported, unshared + ", and listens on no TCP address");
  for (const os::TcpAddress& place : address.tcp) {
    auto connection = transport::connect_control(place, address_.id, token_, wait);
    if (connection) return meet(address, std::move(*connection), unshared, wait);
    last = connection.status();
    if (last.code() == Code::kInterrupted || !wait.check()) break;
  }
  return last;
}

// The handshake on a fresh connection. `unshared` is empty on a unix socket.
Result<std::shared_ptr<Peer>> Agent::meet(const Address& address, os::Fd connection, const std::string& unshared,
                                          const os::Wait& wait) {
  const bool by_unix = unshared.empty();
  os::FrameSocket socket(std::move(connection));
  BEELINE_RETURN_IF_ERROR(
      socket.send(messages::encode(Type::kHello, messages::Hello{messages::kVersion, address_.id, name_})));
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
  transport::PeerFacts facts;
  facts.name = welcome.name;
  facts.self_id = address_.id;
  facts.tcp = address.tcp;
  facts.token = token_;
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
    facts.arena->keep_open(std::move(lifeline));
  }
  auto peer = std::make_shared<Peer>(address, std::move(facts), unshared, transports_, requests());
  peer->paths().count_in(counters_, address.id);
  const os::Locked locked(lock_);
  const auto [found, is_new] = peers_by_address_.try_emplace(address.text(), peer);
  if (!is_new) return found->second;  // another thread was quicker
  const int fd = socket.fd();
  lines_[fd] = Line{std::move(socket), peer, {}};
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
  requests.ask_grant = [reach = reach_](const std::shared_ptr<Peer>& peer, const transport::Region& region) {
    const os::Locked locked(reach->lock);
    Agent* const agent = reach->agent;
    Line* const line = agent != nullptr ? agent->line_of(*peer) : nullptr;
    if (line == nullptr) return;
    const messages::MayWrite asked{region.id.slot, region.id.generation, region.address, region.length};
    agent->send(*line, messages::encode(Type::kMayWrite, asked));
  };
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
  while (status) {
    os::Frame frame;
    const auto received = line.socket.receive(frame);
    if (!received) {
      status = received.status();
    } else if (*received == os::FrameSocket::Receive::kClosed) {
      status = disconnected("its connection closed: the process has ended or closed its agent");
    } else if (*received == os::FrameSocket::Receive::kNothing) {
      break;
    } else {
      status = on_answer(line, frame);
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
  lines_.erase(fd);
  count_connections();
}

Status Agent::on_answer(Line& line, const os::Frame& frame) {
  if (messages::type_of(frame.bytes) == Type::kGrant) {
    BEELINE_ASSIGN(const auto grant, messages::decode<messages::Grant>(Type::kGrant, frame.bytes));
    line.peer->set_grant({grant.asked.slot, grant.asked.generation}, grant.asked.address, grant.asked.length,
                         grant.code == 0 ? Status::ok() : Status(static_cast<Code>(grant.code), grant.message));
    return Status::ok();
  }
  BEELINE_ASSIGN(auto published, messages::decode<messages::Published>(Type::kPublished, frame.bytes));
  const auto found = line.subscriptions.find(published.name);
  if (found == line.subscriptions.end()) return Status::ok();  // crossed with our kUnsubscribe
  BEELINE_ASSIGN(auto tensors, Descriptor::decode(published.tensors));
  found->second.own->publish({published.number, std::make_shared<const Descriptor>(std::move(tensors))});
  return Status::ok();
}

void Agent::send(Line& line, BytesView frame) {
  const int fd = line.socket.fd();
  (void)line.socket.send(frame);
  if (line.socket.wants_write()) control_.watch(fd, true, [this, fd](std::uint32_t e) { on_line(fd, e); });
}

Result<std::shared_ptr<Subscription>> Agent::subscribe(const std::string& address, const std::string& name,
                                                       const os::Wait& wait) {
  BEELINE_ASSIGN(const auto publisher, peer(address, wait));
  const os::Locked locked(lock_);
  Line* const line = line_of(*publisher);
  if (line == nullptr) return Status(Code::kPeerLost, "agent \"" + publisher->address().name + "\" is gone");
  auto& subscribed = line->subscriptions[name];
  if (auto given = subscribed.given.lock()) return given;
  subscribed.own = std::make_shared<Subscription>(name);
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
