// This process's links to other processes of the session: two rings and two doorbells each, made over a unix socket
// that stays open and tells of the peer's death.
//
// Not thread-safe: the process's state lock is held in every call but those marked otherwise.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "beeline/memory/arena.h"
#include "beeline/memory/peer_arena.h"
#include "beeline/os/epoll.h"
#include "beeline/os/unix_socket.h"
#include "beeline/ring/mailbox.h"
#include "beeline/ring/ring.h"
#include "beeline/runtime/messages.h"

namespace beeline::runtime {

class PeerEvents {
 public:
  // One whole message. A bad one is the sender's fault: return a failure, and the link is cut.
  virtual Status on_message(ProcessIndex from, Message type, BytesView body) = 0;
  // The process has ended. What it had sent is handled next; what is sent to it from here on reaches nobody. Told once
  // for each of its links.
  virtual void on_peer_ending(ProcessIndex process) = 0;
  // The process is gone, or was never there, or (kCorrupt) sent what cannot be; nothing more comes from it.
  virtual void on_peer_lost(ProcessIndex process, const Status& reason) = 0;
  // Sockets are watched by the control thread, which takes the state lock before it calls the handler.
  virtual void watch_socket(int fd, bool also_writable, std::function<void(std::uint32_t)> handler) = 0;
  virtual void forget_socket(int fd) = 0;

 protected:
  ~PeerEvents() = default;
};

class Peers {
 public:
  static constexpr std::size_t kRingCapacity = 128 * 1024;
  static constexpr std::size_t kFragment = 32 * 1024;

  Peers(PeerEvents& events, ring::Mailbox& mailbox, memory::Arena& arena)
      : events_(events), mailbox_(mailbox), arena_(arena) {}

  // Takes links from the listener, which is bound to control::link_socket(session_dir, self).
  void listen(os::Fd listener, const std::string& session_dir, ProcessIndex self);

  // Queues a message, connecting first if need be. False if the process is known to be gone: the message is dropped
  // and on_peer_lost has been (or is being) reported.
  // kSoon: a receiver that is busy need not be disturbed for it.
  bool send(ProcessIndex to, Message type, BytesView head, BytesView body = {}, Urgency urgency = Urgency::kNow);

  // Handles what arrived; true if there was anything. At most `budget` messages, the rest stays marked.
  bool drain(std::size_t budget);

  // Handles all that a process has sent so far: before word of its end, by another way, is acted on.
  void drain_from(ProcessIndex process);

  // Takes in links that others are making right now, and looks into rings whose writers do not ring yet: whatever was
  // written before this call is in the mailbox after it.
  void accept_pending();

  // The mapped arena of a process that is or was linked to this one.
  Result<std::shared_ptr<memory::PeerArena>> arena_of(ProcessIndex process);
  // Lets go of the memory of a process that is gone; leases keep what they need of it.
  void forget_arena(ProcessIndex process);
  // Whether the handshake with it is done.
  [[nodiscard]] bool has_link(ProcessIndex process) const;
  [[nodiscard]] bool is_gone(ProcessIndex process) const;
  // Whether all that was sent there lies in a ring that the receiver looks into: nothing waits for room, or for the
  // link to be made.
  [[nodiscard]] bool is_delivered(ProcessIndex to) const;
  // Connects ahead of use.
  void connect(ProcessIndex process);

  // Whether all that was sent lies in the receivers' rings.
  [[nodiscard]] bool is_flushed() const;
  // Lets go of all links. Whatever keeps arenas mapped besides us may go on; nothing can be sent any more.
  void close();

  struct Stats {
    std::uint64_t links = 0, messages_in = 0, messages_out = 0, overflowed = 0, corrupt = 0;
  };
  [[nodiscard]] const Stats& stats() const { return stats_; }

 private:
  struct Outgoing {
    Message type;
    Bytes bytes;
  };
  struct Link {
    os::FrameSocket socket;
    os::Mapping rings;
    ring::Producer out;
    ring::Consumer in;
    ring::Doorbell bell;
    std::uint32_t channel = 0;            // our bit for it
    std::optional<std::uint32_t> holder;  // its index in our lease table, from the greeting on
    ProcessIndex peer = 0;                // 0 until its hello came
    bool connecting_side = false;
    bool open = false;     // handshake done
    bool unheard = false;  // the peer may still write without ringing: it has not read our greeting
    bool closed = false;
    Bytes assembly;  // fragments so far
    std::deque<Outgoing> overflow;
  };
  struct Peer {
    Link* out = nullptr;  // the one this side sends on, for order
    std::vector<Link*> links;
    std::shared_ptr<memory::PeerArena> arena;
    os::Fd arena_data, arena_control;
    std::uint32_t arena_holder = 0;
    bool gone = false;
  };

  Result<Link*> new_link();
  Status start_connect(ProcessIndex to);
  void accept_all();
  void on_socket(Link& link, std::uint32_t events);
  Status on_hello(Link& link, os::Frame& frame);
  Status greet(Link& link, int ring_memory);
  bool push(Link& link, Message type, BytesView head, BytesView body, Urgency urgency = Urgency::kNow);
  bool push_record(Link& link, Message type, BytesView head, BytesView body, Urgency urgency = Urgency::kNow);
  void flush_overflow(Link& link);
  // Messages until the ring is empty or the budget is used up.
  void drain_link(Link& link, std::size_t& budget);
  Status handle(Link& link, const ring::Record& record);
  void heard(Link& link);
  void cut(Link& link, const Status& reason);
  void send_held_back();
  void watch(Link& link);

  PeerEvents& events_;
  ring::Mailbox& mailbox_;
  memory::Arena& arena_;
  std::string session_dir_;
  ProcessIndex self_ = 0;
  os::Fd listener_;
  os::Fd spare_;  // given up for a moment to refuse a link when there is no descriptor left
  bool closed_ = false;
  std::unordered_map<ProcessIndex, Peer> peers_;
  std::vector<std::unique_ptr<Link>> links_;  // by channel
  std::vector<std::uint32_t> free_channels_;
  std::size_t opening_ = 0;  // links without a handshake so far
  std::size_t unheard_ = 0;  // open links whose peer may not know it
  // Messages that let a third process drop its hold on an object must not be seen before our own borrow of it: while
  // one of those waits for room, they wait too.
  struct HeldBack {
    ProcessIndex to;
    Message type;
    Bytes bytes;
  };
  std::size_t borrows_waiting_ = 0;
  std::deque<HeldBack> held_back_;
  Stats stats_;
};

}  // namespace beeline::runtime
