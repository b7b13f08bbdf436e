#include "beeline/transfer/agent.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <utility>

#include "beeline/os/fork_count.h"
#include "beeline/os/private_folder.h"
#include "beeline/os/remote_memory.h"
#include "beeline/transfer/agent_file.h"
#include "beeline/transfer/messages.h"
#include "beeline/transport/builtin.h"

namespace beeline::transfer {
namespace {

using messages::Type;

void warn_on_stderr(const std::string& message) {
  std::fprintf(stderr, "beeline: %s\n", message.c_str());
}

Result<transport::Transports> transports_for(const Agent::Options& options) {
  const transport::NcclOptions nccl{options.nccl_library, options.tcp ? options.tcp->host : ""};
  transport::Transports transports = transport::make_builtin(options.ucx_library, options.nixl, nccl);
  std::vector<std::string> libraries = options.plugins;
  const char* const listed = std::getenv("BEELINE_TRANSPORT_PLUGINS");
  std::stringstream list(listed != nullptr ? listed : "");
  for (std::string library; std::getline(list, library, ':');) {
    if (!library.empty() && std::ranges::find(libraries, library) == libraries.end()) libraries.push_back(library);
  }
  const auto add = [&](std::shared_ptr<transport::Plugin> plugin, const std::string& what) {
    const std::string& name = plugin->traits().name;
    for (const auto& other : transports) {
      if (other->name() != name) continue;
      return Status(Code::kAlreadyExists, what + ": there is a path \"" + name + "\" already");
    }
    transports.push_back(transport::make_plugin(std::move(plugin), options.name));
    return Status::ok();
  };
  for (const std::string& library : libraries) {
    BEELINE_ASSIGN(auto own, transport::load_plugin(library));
    BEELINE_RETURN_IF_ERROR(add(std::move(own), "transport plug-in " + library));
  }
  for (const auto& own : options.plugin_objects) BEELINE_RETURN_IF_ERROR(add(own, "transport plug-in"));
  return transport::with_faults(std::move(transports), options.faults);
}

}  // namespace

Result<std::shared_ptr<Agent>> Agent::open(Options options) {
  if (options.name.empty()) return Status(Code::kInvalidArgument, "an agent needs a name");
  BEELINE_ASSIGN(auto transports, transports_for(options));
  if (options.arena == nullptr) {
    BEELINE_ASSIGN(options.arena, memory::Arena::open({}));
  }
  std::shared_ptr<const os::Tls> tls;
  if (options.tls) {
    auto made = os::Tls::make(*options.tls, options.tcp.has_value());
    BEELINE_RETURN_IF_ERROR(made.status().with_context("while opening agent \"" + options.name + "\""));
    tls = std::move(*made);
  }
  std::shared_ptr<Agent> agent(new Agent(), close);  // from here on it is ended as any
  agent->name_ = options.name;
  agent->warn_ = options.warn ? std::move(options.warn) : warn_on_stderr;
  agent->token_ = options.token;
  agent->fork_count_ = os::fork_count();
  agent->address_.name = options.name;
  agent->address_.id = make_agent_id();
  agent->address_.boot_id = os::boot_id();
  agent->arena_ = std::move(options.arena);
  agent->tls_ = std::move(tls);
  agent->faults_ = options.faults;
  agent->transports_ = std::make_shared<const transport::Transports>(std::move(transports));
  agent->regions_ = Regions::make(agent->arena_, agent->transports_);
  agent->reach_->agent = agent.get();
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
  for (const auto& transport : *transports_) {
    if (transport->exporter() != nullptr) {
      transport->exporter()->count_refusals_in({counters_, &counters_->numbers().refused});
    }
  }
  return Status::ok();
}

// Listens in the folder; returns the socket's path.
Result<std::string> Agent::listen_in_folder() {
  const std::string path = folder_ + "/" + address_.id + std::string(kAgentSocketSuffix);
  // Until it listens it looks like one that was left behind.
  const std::string unfinished = path + ".new";
  BEELINE_ASSIGN(auto listening, os::listen_unix(unfinished));
  if (::rename(unfinished.c_str(), path.c_str()) != 0) return Status::from_errno("rename " + unfinished, errno);
  os::keep_from_children(listening.get());
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
    const auto welcome = [this](std::unique_ptr<os::ByteStream> connection, const std::string& agent_id) {
      const os::Locked locked(lock_);
      add_visitor(os::FrameSocket(std::move(connection)), agent_id);
    };
    BEELINE_ASSIGN(server_,
                   transport::serve_tcp({*options.tcp, options.token, address_.id, refuse, tls_}, *regions_, welcome));
    const std::string& host = server_->address().host;
    if (options.advertise.empty() && (host == "0.0.0.0" || host == "::")) {
      return {Code::kInvalidArgument, "it listens on every address: say by which host others reach it (advertise=)"};
    }
    address_.tcp.push_back(server_->address());
    if (tls_ != nullptr) address_.certificate = tls_->fingerprint();
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
  exporters_.stop();
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
  for (const auto& [topic, listening] : notifications_) {
    if (const auto own = listening.lock()) own->end(closed);
  }
  // Children of fork() have the sockets, too: closing alone would tell nobody. Visitors keep their place in the lease
  // table: who has mapped something reads on, and the arena may be others' as well.
  for (const auto& [fd, visitor] : visitors_) ::shutdown(fd, SHUT_RDWR);
  regions_->sweep();
}

Status Agent::check(const Piece& piece) const {
  if (piece.device.is_host()) return Status::ok();
  Status refused;
  for (const auto& transport : *transports_) {
    if (!transport->capabilities().serves(piece.device)) continue;
    transport::Exporter* const exporter = transport->exporter();
    const Status own = exporter != nullptr ? exporter->check(piece.data, piece.size, piece.device) : Status::ok();
    if (own) return own;
    // The first path's code: it is the one that would be taken.
    const std::string why = "by " + std::string(transport->name()) + ": " + own.message();
    refused = refused ? Status(own.code(), why) : Status(refused.code(), refused.message() + "; " + why);
  }
  if (!refused) return refused;
  return {Code::kUnsupported, "no path of this agent serves memory of device type " +
                                  std::to_string(piece.device.type) + ": move the tensor to the CPU"};
}

Status Agent::announce(const transport::Device& device, std::uintptr_t stream) const {
  if (device.is_host()) return Status::ok();
  for (const auto& transport : *transports_) {
    if (!transport->capabilities().serves(device) || transport->exporter() == nullptr) continue;
    BEELINE_RETURN_IF_ERROR(transport->exporter()->announce(device, stream));
  }
  return Status::ok();
}

Status Agent::settle(const transport::Device& device, std::uintptr_t stream, const os::Wait& wait) const {
  if (device.is_host()) return Status::ok();
  for (const auto& transport : *transports_) BEELINE_RETURN_IF_ERROR(transport->settle(device, stream, wait));
  return Status::ok();
}

Agent::Stats Agent::stats() const {
  const os::Locked locked(lock_);
  Stats stats;
  stats.peers = lines_.size();
  stats.visitors = visitors_.size();
  stats.refused = counters_->numbers().refused.load(std::memory_order_relaxed);
  for (const auto& fault : faults_) stats.faults += fault.made->load(std::memory_order_relaxed);
  for (const auto& transport : *transports_) stats.copies_through_host += transport->copies_through_host();
  stats.counters = counters_->path();
  stats.uncounted = uncounted_;
  for (const auto& [name, topic] : topics_) {
    for (const Kept& kept : topic.kept) stats.relays += kept.fan_out.offering().size();
  }
  stats.reparented = reparented_;
  stats.overdue = overdue_;
  stats.parents_lost = parents_lost_.load(std::memory_order_relaxed);
  return stats;
}

void Agent::count_refusal() {
  counters_->numbers().refused.fetch_add(1, std::memory_order_relaxed);
}

// With the lock held. Relaxed: numbers on their own.
void Agent::count_connections() {
  counters_->numbers().peers.store(lines_.size(), std::memory_order_relaxed);
  counters_->numbers().visitors.store(visitors_.size(), std::memory_order_relaxed);
}

Result<std::uint64_t> Agent::publish(const std::string& name, std::uint64_t number, Snapshot snapshot, std::size_t keep,
                                     std::size_t fan_out) {
  messages::Published published{name, number, snapshot.tensors->encode()};
  const std::uint64_t schema_hash = snapshot.tensors->schema->hash();
  Bytes by_hash = snapshot.tensors->encode(Descriptor::With::kSchemaHash);
  std::deque<Kept> dropped;  // ends without the lock
  const os::Locked locked(lock_);
  Topic& topic = topics_[name];
  if (number == 0) published.number = topic.number + 1;
  if (published.number <= topic.number) {
    return Status(Code::kInvalidArgument, "version " + std::to_string(number) + " of \"" + name +
                                              "\" is not newer than version " + std::to_string(topic.number));
  }
  topic.number = published.number;
  topic.newest = messages::encode(Type::kPublished, published);
  published.tensors = std::move(by_hash);
  topic.newest_by_hash = messages::encode(Type::kPublished, published);
  topic.schema_hash = schema_hash;
  topic.kept.push_back({topic.number, std::move(snapshot.registration), FanOut(std::max<std::size_t>(fan_out, 1))});
  while (topic.kept.size() > std::max<std::size_t>(keep, 1)) {
    dropped.push_back(std::move(topic.kept.front()));
    topic.kept.pop_front();
    end_fan_out(name, dropped.back());
  }
  for (const int fd : topic.subscribers) tell_version(visitors_.at(fd), topic);
  counters_->published(name, snapshot.tensors->bytes(), snapshot.begun);
  return topic.number;
}

void Agent::withdraw(const std::string& name) {
  std::deque<Kept> dropped;  // ends without the lock
  const os::Locked locked(lock_);
  const auto found = topics_.find(name);
  if (found == topics_.end()) return;
  dropped = std::exchange(found->second.kept, {});
  for (const Kept& kept : dropped) end_fan_out(name, kept);
  if (found->second.newest.empty()) return;
  found->second.newest.clear();
  const Bytes withdrawn = messages::encode(Type::kWithdrawn, messages::Topic{name});
  for (const int fd : found->second.subscribers) tell(visitors_.at(fd), withdrawn);
}

}  // namespace beeline::transfer
