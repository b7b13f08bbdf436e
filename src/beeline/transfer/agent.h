// One end of every transfer: a named process that registers memory, lets peers reach it, and reaches theirs.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>

#include "beeline/memory/arena.h"
#include "beeline/os/control_loop.h"
#include "beeline/os/unix_socket.h"
#include "beeline/transfer/address.h"
#include "beeline/transfer/agents_folder.h"
#include "beeline/transfer/counters.h"
#include "beeline/transfer/fan_out.h"
#include "beeline/transfer/notifications.h"
#include "beeline/transfer/peer.h"
#include "beeline/transfer/regions.h"
#include "beeline/transfer/snapshot.h"
#include "beeline/transfer/subscription.h"
#include "beeline/transport/fault.h"
#include "beeline/transport/nixl_options.h"
#include "beeline/transport/plugin.h"
#include "beeline/transport/server.h"

namespace beeline::transfer {

// Thread-safe. In a child of fork() an agent is the parent's: every operation fails, and nothing is undone.
class Agent : public std::enable_shared_from_this<Agent> {
 public:
  struct Options {
    std::string name;
    // Folder of the socket by which agents on this host find it, and of the file of its counters; made if need be, for
    // this user alone. Empty: agents_folder(). What killed agents have left there is removed.
    std::string folder;
    bool share_memory = true;           // with agents on this host
    std::optional<os::TcpAddress> tcp;  // where to listen; port 0 takes a free one
    std::string advertise;              // the host that peers connect to; empty: the one it listens on
    std::string token;                  // by TCP both sides prove to each other that they have it
    // Speaks TLS where it listens, and to those that it connects to by TCP, or does not speak to them by TCP. Without
    // it an agent speaks TLS to those whose address says so.
    std::optional<os::TlsOptions> tls;
    // Shared libraries with the ABI of beeline/transport_plugin.h, beside those that BEELINE_TRANSPORT_PLUGINS lists
    // (separated by colons).
    std::vector<std::string> plugins;
    std::vector<std::shared_ptr<transport::Plugin>> plugin_objects;  // after those, in this order of preference
    std::string ucx_library;  // the path of libucp where BEELINE_UCX_LIBRARY names none; empty: the loader looks for it
    std::string nccl_library;  // likewise that of NCCL: see transport::NcclOptions
    transport::NixlOptions nixl;
    std::vector<transport::Fault> faults;  // what its paths are to do wrong, in tests
    std::shared_ptr<memory::Arena> arena;  // empty: one of its own
    Warn warn;                             // empty: writes to stderr
  };
  // Letting go of it undoes everything: peers get kPeerLost.
  static Result<std::shared_ptr<Agent>> open(Options options);
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  [[nodiscard]] const Address& address() const { return address_; }
  // Whether a path of this agent serves the memory, before it is registered: kUnsupported, with what to do, if none
  // does.
  [[nodiscard]] Status check(const Piece& piece) const;
  // What a stream of this process's device holds by now comes before what peers read from now on; see
  // transport::Exporter::announce().
  Status announce(const transport::Device& device, std::uintptr_t stream) const;
  // Until what a stream of this process's device holds is done: before its memory is filled or pushed.
  Status settle(const transport::Device& device, std::uintptr_t stream, const os::Wait& wait) const;
  // What readers by the path would ask for regions of this agent, for Descriptor::keys. None where the path needs
  // nothing of the kind. kUnsupported where this agent has no such path; fails as its exporter does.
  Result<RegionKeys> keys(std::span<const transport::Region> regions, const std::string& path);
  [[nodiscard]] const std::shared_ptr<Regions>& regions() const { return regions_; }
  [[nodiscard]] const std::shared_ptr<memory::Arena>& arena() const { return arena_; }

  // The agent at that address; connects the first time. kPeerLost when nobody is there, kNotFound when somebody else
  // is, kInvalidArgument when the token is refused.
  Result<std::shared_ptr<Peer>> peer(const std::string& address, const os::Wait& wait);

  // Makes the snapshot the newest version of a name, and tells all subscribers. The number is larger than those before;
  // 0 takes the next one. The newest `keep` versions stay readable, older ones as long as somebody reads them. Of
  // subscribers that relay, so many are sent here for the version, and as many to each that has it.
  Result<std::uint64_t> publish(const std::string& name, std::uint64_t number, Snapshot snapshot, std::size_t keep,
                                std::size_t fan_out = kFanOut);
  // No version of the name can be fetched from here on; numbers go on where they were.
  void withdraw(const std::string& name);
  // Versions that the agent at that address publishes under a name; ends when nobody refers to it any more. One that
  // relays has Subscription::relay(): kInvalidArgument where no other agent would reach this one.
  Result<std::shared_ptr<Subscription>> subscribe(const std::string& address, const std::string& name,
                                                  const os::Wait& wait, bool relays = false);
  // What other agents send under the topic, from here on and until nobody refers to it any more; one that is there
  // already is the same one. kAlreadyExists where that has another limit.
  Result<std::shared_ptr<Notifications>> notifications(const std::string& topic, std::size_t limit,
                                                       Notifications::WhenFull when_full);
  // To the agent that made the peer's connection, if it is there yet.
  void send_to(const Peer& peer, BytesView frame);

  struct Stats {
    std::uint64_t peers = 0, visitors = 0;  // connections that this side, and that others made; now
    std::uint64_t refused = 0;
    std::uint64_t faults = 0;               // made on purpose
    std::uint64_t copies_through_host = 0;  // between GPUs that have no direct way
    // Of versions that this agent publishes: copies that readers offer, now; readers that were given another parent,
    // and readers that were sent here beyond the fan-out, because nobody else had room in time.
    std::uint64_t relays = 0, reparented = 0, overdue = 0;
    std::uint64_t parents_lost = 0;  // as a reader: parents that failed it
    std::string counters;            // the file that others read
    std::string uncounted;           // why there is none
  };
  [[nodiscard]] Stats stats() const;

 private:
  // A connection that this agent made.
  struct Line {
    os::FrameSocket socket;
    std::shared_ptr<Peer> peer;
    // What subscribers hold ends the subscription with its last reference, which is never let go of under the lock.
    struct Subscribed {
      std::shared_ptr<Subscription> own;
      std::weak_ptr<Subscription> given;
    };
    std::unordered_map<std::string, Subscribed> subscriptions;                 // by name
    std::unordered_map<std::uint64_t, std::shared_ptr<const Schema>> schemas;  // by hash: those that it was told
  };
  // One that another agent made.
  struct Visitor {
    os::FrameSocket socket;
    std::uint64_t serial = 0;  // tells it from later ones with the same descriptor
    std::string id;
    bool by_unix = false;
    std::string name = {};       // as it said in its greeting
    std::string address = {};    // as it said in its greeting; empty: it said none
    FanOut::Traits traits = {};  // by that address
    std::optional<std::uint32_t> holder = {};
    bool welcome = false;
    std::set<std::uint64_t> schemas = {};  // hashes of those that it knows
    // In place to what was granted to it, by the serial of its question.
    std::map<std::uint64_t, std::shared_ptr<Regions::GrantedWrite>> writing = {};
    std::size_t questions = 0;  // that wait for an answer, or whose answer was not taken yet
    std::size_t untaken = 0;    // of those, the answers that wait to be sent

    void count_taken() {
      if (socket.wants_write()) return;
      questions -= untaken;
      untaken = 0;
    }
  };

  // A version that can be read yet.
  struct Kept {
    std::uint64_t number = 0;
    std::shared_ptr<Registration> registration;
    FanOut fan_out;  // of its readers: descriptors of visitors
  };
  // What is published under one name.
  struct Topic {
    std::uint64_t number = 0;  // of the newest version ever
    Bytes newest;              // as subscribers are told; empty if there is none
    Bytes newest_by_hash;      // likewise, those who know its schema
    std::uint64_t schema_hash = 0;
    std::deque<Kept> kept;      // oldest first
    std::set<int> subscribers;  // descriptors of visitors
  };

  Agent() = default;
  static void close(Agent* agent);
  Status listen(const Options& options);
  Status settle_in(const Options& options);
  Result<std::string> listen_in_folder();
  void accept_all();
  void add_visitor(os::FrameSocket socket, const std::string& id);
  void on_visitor(int fd, std::uint32_t events);
  Status on_frame(Visitor& visitor, const os::Frame& frame);
  Status greet(Visitor& visitor, const os::Frame& frame);
  Status count_question(Visitor& visitor);
  void reply(Visitor& visitor, const messages::Answer& answer);
  bool start_exporters();
  [[nodiscard]] const transport::Transport* find_transport(std::string_view path) const;
  messages::Answer answer(const messages::Ask& asked, const std::string& agent_id);
  Status on_notify(const Visitor& visitor, messages::Notify notify);
  void begin_write(int fd, std::uint64_t visitor, const std::string& agent_id, const messages::Ask& asked);
  bool end_write(Visitor& visitor, std::uint64_t serial);
  void on_written(Visitor& visitor, std::uint64_t serial);
  Visitor* find_visitor(int fd, std::uint64_t serial);
  void on_subscribe(Visitor& visitor, const std::string& name);
  void tell(Visitor& visitor, BytesView frame);
  void tell_version(Visitor& visitor, const Topic& topic);
  Status read_address(Visitor& visitor, const messages::Hello& hello) const;
  Kept* find_kept(const std::string& name, std::uint64_t number);
  void on_seek(Visitor& visitor, const messages::Seek& seek);
  Status on_offer(Visitor& visitor, const messages::Offer& offer);
  void tell_parents(const std::string& name, Kept& kept);
  void tell_parent(const messages::Seek& seek, int fd, const Status& status);
  void leave_fan_outs(const std::string& name, Topic& topic, int fd);
  void end_fan_out(const std::string& name, const Kept& kept);
  void dismiss(int fd);
  void count_refusal();
  void count_connections();
  Result<std::shared_ptr<Peer>> connect(const Address& address, const os::Wait& wait);
  Result<std::shared_ptr<Peer>> meet(const Address& address, os::FrameSocket socket, transport::PeerFacts facts,
                                     const std::string& unshared, const os::Wait& wait);
  void on_line(int fd, std::uint32_t events);
  Status on_told(Line& line, const os::Frame& frame);
  Status on_published(Line& line, const os::Frame& frame);
  void send(Line& line, BytesView frame);
  void unsubscribe(const Peer& publisher, const std::string& name);
  Peer::Requests requests();
  Line* line_of(const Peer& peer);
  void clean(const std::shared_ptr<Peer>& peer);

  std::string name_, token_, folder_;
  Warn warn_;
  bool is_own_folder_ = false;
  Address address_;
  std::shared_ptr<memory::Arena> arena_;
  std::shared_ptr<Regions> regions_;
  std::shared_ptr<Counters> counters_;
  std::string uncounted_;
  std::shared_ptr<const transport::Transports> transports_;
  std::vector<transport::Fault> faults_;
  std::shared_ptr<const os::Tls> tls_;  // null: none was asked for
  std::uint64_t fork_count_ = 0;
  os::Fd listener_;

  // What peers and subscriptions reach the agent by: they may outlive it, and must not be who ends it.
  struct Reach {
    os::StateLock lock;
    Agent* agent = nullptr;  // needs lock; null once it is being closed
  };
  const std::shared_ptr<Reach> reach_ = std::make_shared<Reach>();
  os::StateLock& lock_ = reach_->lock;
  std::unordered_map<int, Visitor> visitors_;                                    // by descriptor
  std::unordered_map<std::string, Topic> topics_;                                // by name
  std::unordered_map<std::string, std::weak_ptr<Notifications>> notifications_;  // by topic
  std::unordered_map<int, Line> lines_;                                          // by descriptor
  std::unordered_map<std::string, std::shared_ptr<Peer>> peers_by_address_;      // those that are not gone
  std::uint64_t last_serial_ = 0;
  std::uint64_t reparented_ = 0, overdue_ = 0;  // of Stats
  std::atomic<std::uint64_t> parents_lost_{0};
  friend class Relay;
  os::ControlLoop control_{lock_};
  bool exporters_started_ = false;  // needs lock_: else the thread below does not run
  os::StateLock exporters_lock_;    // after lock_
  os::ControlLoop exporters_{exporters_lock_};
  std::unique_ptr<transport::Server> server_;  // the last: its threads use the rest
};

}  // namespace beeline::transfer
