#include "beeline/runtime/peers.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "beeline/runtime/control.h"

namespace beeline::runtime {
namespace {

constexpr std::size_t kRingFootprint = ring::ring_footprint(Peers::kRingCapacity);

// Precedes the bytes of each fragment.
struct FragmentHeader {
  std::uint64_t total;
  std::uint16_t type;  // of the whole message
  std::uint16_t reserved[3];
};
static_assert(sizeof(FragmentHeader) == 16);
constexpr std::uint64_t kMaxMessage = std::uint64_t{1} << 32;
// Processes accept as soon as they make progress: who does not for so long has stopped, with a thousand callers.
constexpr auto kConnectWithin = std::chrono::seconds(10);

std::string process_name(ProcessIndex process) {
  return "process " + std::to_string(process);
}

// What its receiver may answer by letting go of an object, at the object's owner.
bool ends_holds(Message type) {
  return type == Message::kResult || type == Message::kRefsTaken || type == Message::kRelease;
}

// Who connects to a socket that the daemon has made is told the daemon's pid by the kernel; the greeting has the
// peer's.
void name_holder(const memory::Arena& arena, std::uint32_t holder, std::int32_t pid) {
  const auto table = os::Mapping::map(arena.control_fd(), 0, sizeof(memory::ControlHeader), os::Access::kReadWrite,
                                      os::Sharing::kShared);
  if (table && pid > 0) reinterpret_cast<memory::ControlHeader*>(table->data())->holder_pids[holder].store(pid);
}

}  // namespace

void Peers::listen(os::Fd listener, const std::string& session_dir, ProcessIndex self) {
  session_dir_ = session_dir;
  self_ = self;
  listener_ = std::move(listener);
  spare_ = os::Fd(::fcntl(listener_.get(), F_DUPFD_CLOEXEC, 0));
  events_.watch_socket(listener_.get(), false, [this](std::uint32_t) { accept_all(); });
}

Result<Peers::Link*> Peers::new_link() {
  std::uint32_t channel = 0;
  if (!free_channels_.empty()) {
    channel = free_channels_.back();
    free_channels_.pop_back();
  } else if (links_.size() < ring::kMaxChannels) {
    channel = static_cast<std::uint32_t>(links_.size());
    links_.emplace_back();
  } else {
    return Status(Code::kResourceExhausted, "this process is linked to " + std::to_string(ring::kMaxChannels) +
                                                " others, the most there can be: route calls through fewer processes");
  }
  links_[channel] = std::make_unique<Link>();
  links_[channel]->channel = channel;
  ++stats_.links;
  ++opening_;
  return links_[channel].get();
}

Status Peers::greet(Link& link, int ring_memory) {
  BEELINE_ASSIGN(const auto credentials, os::peer_credentials(link.socket.fd()));
  BEELINE_ASSIGN(const auto holder, arena_.add_holder(credentials.pid));
  link.holder = holder;
  Hello hello;
  hello.process = self_;
  hello.channel = link.channel;
  hello.holder = holder;
  hello.pid = ::getpid();
  std::vector<int> fds = {mailbox_.fd(), arena_.data_fd(), arena_.control_fd()};
  if (ring_memory >= 0) fds.push_back(ring_memory);
  return link.socket.send(view_of(hello), fds);
}

Status Peers::start_connect(ProcessIndex to) {
  BEELINE_ASSIGN(auto socket,
                 os::connect_unix(control::link_socket(session_dir_, to), Deadline::after(kConnectWithin)));
  BEELINE_ASSIGN(auto memory, os::make_memfd("beeline-rings", 2 * kRingFootprint));
  BEELINE_ASSIGN(auto mapping,
                 os::Mapping::map(memory.get(), 0, 2 * kRingFootprint, os::Access::kReadWrite, os::Sharing::kShared));
  BEELINE_ASSIGN(Link * link, new_link());
  link->connecting_side = true;
  link->peer = to;
  link->socket = os::FrameSocket(std::move(socket));
  link->rings = std::move(mapping);
  link->out = ring::Producer::create(link->rings.data(), kRingCapacity);
  ring::Producer::create(link->rings.data() + kRingFootprint, kRingCapacity);
  BEELINE_ASSIGN(link->in, ring::Consumer::attach(link->rings.data() + kRingFootprint, kRingFootprint));
  auto& peer = peers_[to];
  peer.out = link;
  peer.links.push_back(link);
  BEELINE_RETURN_IF_ERROR(greet(*link, memory.get()));
  watch(*link);
  return Status::ok();
}

void Peers::watch(Link& link) {
  events_.watch_socket(link.socket.fd(), link.socket.wants_write(),
                       [this, &link](std::uint32_t events) { on_socket(link, events); });
}

void Peers::accept_all() {
  for (;;) {
    auto accepted = os::accept_unix(listener_.get());
    if (!accepted) {
      ++stats_.corrupt;
      const int error = accepted.status().system_error();
      if (error == 0) continue;  // a stranger, refused
      if ((error != EMFILE && error != ENFILE) || !spare_.is_open()) return;
      // No descriptor is left: the peer is told at once, by the end of its connection, not left waiting.
      spare_.reset();
      {
        const auto refused = os::accept_unix(listener_.get());
      }
      spare_ = os::Fd(::fcntl(listener_.get(), F_DUPFD_CLOEXEC, 0));
      continue;
    }
    if (!accepted->is_open()) return;
    auto link = new_link();
    if (!link) return;
    (*link)->socket = os::FrameSocket(std::move(*accepted));
    watch(**link);
  }
}

void Peers::accept_pending() {
  if (!listener_.is_open()) return;
  accept_all();
  for (std::size_t i = 0; i < links_.size() && opening_ > 0; ++i) {
    if (links_[i] && !links_[i]->open) on_socket(*links_[i], EPOLLIN);
  }
  for (std::size_t i = 0, left = unheard_; i < links_.size() && left > 0; ++i) {
    if (!links_[i] || !links_[i]->unheard) continue;
    --left;
    ring::Record record{};
    if (links_[i]->in.peek(record) != ring::Consumer::Peek::kEmpty) mailbox_.mark(links_[i]->channel);
  }
}

void Peers::on_socket(Link& link, std::uint32_t events) {
  if (link.closed) return;
  if ((events & EPOLLOUT) != 0) {
    if (const auto status = link.socket.flush(); !status) return cut(link, status);
    if (!link.socket.wants_write()) watch(link);
  }
  for (;;) {
    os::Frame frame;
    auto outcome = link.socket.receive(frame);
    if (!outcome) return cut(link, outcome.status());
    if (*outcome == os::FrameSocket::Receive::kNothing) return;
    if (*outcome == os::FrameSocket::Receive::kClosed) return cut(link, {Code::kPeerLost, "its connection closed"});
    if (const auto status = on_hello(link, frame); !status) {
      ++stats_.corrupt;
      return cut(link, status);
    }
  }
}

Status Peers::on_hello(Link& link, os::Frame& frame) {
  Reader reader(frame.bytes);
  const auto hello = reader.read<Hello>();
  const std::size_t expected_fds = link.connecting_side ? 3 : 4;
  if (!reader.ok() || hello.magic != Hello::kMagic || frame.fds.size() != expected_fds || link.open ||
      (link.connecting_side && hello.process != link.peer)) {
    return {Code::kCorrupt, "a greeting that is none"};
  }
  BEELINE_ASSIGN(link.bell, ring::Doorbell::attach(frame.fds[0], hello.channel));
  link.peer = hello.process;
  if (link.connecting_side && link.holder) name_holder(arena_, *link.holder, hello.pid);
  auto& peer = peers_[hello.process];
  if (!link.connecting_side) {
    BEELINE_ASSIGN(link.rings, os::Mapping::map(frame.fds[3].get(), 0, 2 * kRingFootprint, os::Access::kReadWrite,
                                                os::Sharing::kShared));
    BEELINE_ASSIGN(link.in, ring::Consumer::attach(link.rings.data(), kRingFootprint));
    BEELINE_ASSIGN(link.out, ring::Producer::attach(link.rings.data() + kRingFootprint, kRingFootprint));
    peer.links.push_back(&link);
    if (peer.out == nullptr) peer.out = &link;
    // A peer that ended since it connected needs no greeting; what it wrote before counts all the same.
    if (auto status = greet(link, -1); !status && status.code() != Code::kPeerLost) return status;
  }
  if (!peer.arena_data.is_open()) {
    peer.arena_data = std::move(frame.fds[1]);
    peer.arena_control = std::move(frame.fds[2]);
    peer.arena_holder = hello.holder;
  }
  link.open = true;
  --opening_;
  link.unheard = !link.connecting_side;
  if (link.unheard) ++unheard_;
  flush_overflow(link);
  if (link.connecting_side) push_record(link, Message::kGreeted, {}, {});
  // What either side wrote into its ring before it knew the other's doorbell.
  link.bell.ring();
  mailbox_.mark(link.channel);
  return Status::ok();
}

bool Peers::send(ProcessIndex to, Message type, BytesView head, BytesView body, Urgency urgency) {
  if (closed_) return false;
  auto& peer = peers_[to];
  if (peer.gone) return false;
  if (peer.out == nullptr) {
    if (const auto status = start_connect(to); !status) {
      peer.gone = true;
      events_.on_peer_lost(to, status);
      return false;
    }
  }
  ++stats_.messages_out;
  if (borrows_waiting_ > 0 && ends_holds(type)) {
    auto& held = held_back_.emplace_back(HeldBack{to, type, {}});
    Writer writer(held.bytes);
    writer.append(head);
    writer.append(body);
    return true;
  }
  return push(*peer.out, type, head, body, urgency);
}

void Peers::send_held_back() {
  if (borrows_waiting_ > 0) return;
  for (const auto& held : std::exchange(held_back_, {})) {
    const auto peer = peers_.find(held.to);
    if (peer != peers_.end() && peer->second.out != nullptr) push(*peer->second.out, held.type, held.bytes, {});
  }
}

void Peers::connect(ProcessIndex process) {
  if (closed_) return;
  auto& peer = peers_[process];
  if (peer.gone || peer.out != nullptr) return;
  if (const auto status = start_connect(process); !status) {
    peer.gone = true;
    events_.on_peer_lost(process, status);
  }
}

bool Peers::push(Link& link, Message type, BytesView head, BytesView body, Urgency urgency) {
  const std::size_t size = head.size() + body.size();
  if (size <= kFragment) return push_record(link, type, head, body, urgency);
  Bytes whole;
  whole.reserve(size);
  Writer writer(whole);
  writer.append(head);
  writer.append(body);
  for (std::size_t at = 0; at < size; at += kFragment) {
    const FragmentHeader fragment{size, static_cast<std::uint16_t>(type), {}};
    push_record(link, Message::kFragment, view_of(fragment),
                BytesView(whole).subspan(at, std::min(kFragment, size - at)));
  }
  return true;
}

bool Peers::push_record(Link& link, Message type, BytesView head, BytesView body, Urgency urgency) {
  const std::size_t size = head.size() + body.size();
  if (link.overflow.empty()) {
    if (std::byte* room = link.out.claim(size)) {
      std::copy(head.begin(), head.end(), room);
      std::copy(body.begin(), body.end(), room + head.size());
      link.out.commit(static_cast<std::uint16_t>(type), 0);
      if (link.open) link.bell.ring(urgency);
      return true;
    }
  }
  ++stats_.overflowed;
  Outgoing outgoing{type, {}};
  outgoing.bytes.reserve(size);
  Writer writer(outgoing.bytes);
  writer.append(head);
  writer.append(body);
  link.overflow.push_back(std::move(outgoing));
  if (type == Message::kBorrow) ++borrows_waiting_;
  if (link.overflow.size() == 1) flush_overflow(link);
  return true;
}

void Peers::flush_overflow(Link& link) {
  bool sent = false;
  while (!link.overflow.empty()) {
    auto& next = link.overflow.front();
    std::byte* room = link.out.claim(next.bytes.size());
    if (room == nullptr) {
      if (link.out.request_space(next.bytes.size())) break;
      continue;
    }
    std::copy(next.bytes.begin(), next.bytes.end(), room);
    link.out.commit(static_cast<std::uint16_t>(next.type), 0);
    if (next.type == Message::kBorrow) --borrows_waiting_;
    link.overflow.pop_front();
    sent = true;
  }
  if (link.open && (sent || !link.overflow.empty())) link.bell.ring();
  if (!held_back_.empty()) send_held_back();
}

bool Peers::drain(std::size_t budget) {
  bool any = false;
  mailbox_.collect([&](std::uint32_t channel) {
    if (channel >= links_.size() || !links_[channel]) return;
    any = true;
    Link& link = *links_[channel];
    if (link.closed || !link.open) return;
    if (!link.overflow.empty()) flush_overflow(link);
    drain_link(link, budget);
  });
  return any;
}

void Peers::drain_from(ProcessIndex process) {
  const auto found = peers_.find(process);
  if (found == peers_.end()) return;
  for (Link* const link : std::vector(found->second.links)) {
    // A link that was cut meanwhile is gone from the list.
    const auto& links = peers_[process].links;
    if (std::find(links.begin(), links.end(), link) == links.end()) continue;
    if (!link->open) on_socket(*link, EPOLLIN);
    if (std::find(links.begin(), links.end(), link) == links.end() || !link->open) continue;
    std::size_t budget = SIZE_MAX;
    drain_link(*link, budget);
  }
}

void Peers::drain_link(Link& link, std::size_t& budget) {
  ring::Record record{};
  bool popped = false;
  for (;;) {
    const auto peek = link.in.peek(record);
    if (peek == ring::Consumer::Peek::kEmpty) break;
    if (peek == ring::Consumer::Peek::kCorrupt) {
      ++stats_.corrupt;
      return cut(link, {Code::kCorrupt, "its ring holds nonsense"});
    }
    if (budget == 0) {
      mailbox_.mark(link.channel);
      break;
    }
    --budget;
    ++stats_.messages_in;
    const auto status = handle(link, record);
    if (link.closed) return;
    if (!status) {
      ++stats_.corrupt;
      return cut(link, status);
    }
    link.in.pop();
    popped = true;
  }
  if (popped && link.in.release()) link.bell.ring();
}

Status Peers::handle(Link& link, const ring::Record& record) {
  const auto type = static_cast<Message>(record.type);
  if (type == Message::kGreeted) {
    heard(link);
    return Status::ok();
  }
  if (type != Message::kFragment) return events_.on_message(link.peer, type, record.payload);
  Reader reader(record.payload);
  const auto fragment = reader.read<FragmentHeader>();
  const auto part = reader.read_bytes(reader.left());
  if (!reader.ok() || fragment.total > kMaxMessage || link.assembly.size() + part.size() > fragment.total) {
    return {Code::kCorrupt, "a fragment that fits no message"};
  }
  if (link.assembly.empty()) link.assembly.reserve(fragment.total);
  link.assembly.insert(link.assembly.end(), part.begin(), part.end());
  if (link.assembly.size() < fragment.total) return Status::ok();
  const Bytes whole = std::move(link.assembly);
  link.assembly = {};
  return events_.on_message(link.peer, static_cast<Message>(fragment.type), whole);
}

void Peers::heard(Link& link) {
  if (std::exchange(link.unheard, false)) --unheard_;
}

void Peers::cut(Link& link, const Status& reason) {
  if (link.closed) return;
  const bool corrupt = reason.code() == Code::kCorrupt;
  if (link.open && !corrupt) {
    // What the peer sent before its end still counts.
    events_.on_peer_ending(link.peer);
    std::size_t budget = SIZE_MAX;
    ring::Record record{};
    while (budget-- > 0 && link.in.peek(record) == ring::Consumer::Peek::kRecord) {
      if (!handle(link, record)) break;
      link.in.pop();
    }
  }
  link.closed = true;
  events_.forget_socket(link.socket.fd());
  link.socket.close();
  if (link.holder) arena_.drop_holder(*link.holder);
  const ProcessIndex process = link.peer;
  if (process != 0) {
    auto& peer = peers_[process];
    std::erase(peer.links, &link);
    if (peer.out == &link) peer.out = nullptr;
    if (!peer.gone && peer.links.empty()) {
      peer.gone = true;
      events_.on_peer_lost(process, {reason.code(), process_name(process) + ": " + reason.message()});
    } else if (!peer.gone && corrupt) {
      cut(*peer.links.front(), reason);  // what was lost here would be waited for in vain
    } else if (!peer.gone && peer.out == nullptr) {
      peer.out = peer.links.front();
    }
  }
  if (!link.open) --opening_;
  heard(link);
  for (const auto& outgoing : link.overflow) borrows_waiting_ -= outgoing.type == Message::kBorrow ? 1 : 0;
  const std::uint32_t channel = link.channel;
  links_[channel].reset();
  free_channels_.push_back(channel);
  if (!held_back_.empty()) send_held_back();
}

Result<std::shared_ptr<memory::PeerArena>> Peers::arena_of(ProcessIndex process) {
  auto& peer = peers_[process];
  if (peer.arena) return peer.arena;
  if (!peer.arena_data.is_open()) {
    return Status(Code::kNotFound, "no link to " + process_name(process) + " yet");
  }
  BEELINE_ASSIGN(peer.arena, memory::PeerArena::attach(std::move(peer.arena_data), std::move(peer.arena_control),
                                                       peer.arena_holder));
  return peer.arena;
}

void Peers::forget_arena(ProcessIndex process) {
  const auto it = peers_.find(process);
  if (it == peers_.end()) return;
  it->second.arena.reset();
  it->second.arena_data.reset();
  it->second.arena_control.reset();
}

bool Peers::has_link(ProcessIndex process) const {
  const auto it = peers_.find(process);
  return it != peers_.end() && it->second.out != nullptr && it->second.out->open;
}

bool Peers::is_gone(ProcessIndex process) const {
  const auto it = peers_.find(process);
  return it != peers_.end() && it->second.gone;
}

bool Peers::is_delivered(ProcessIndex to) const {
  const auto it = peers_.find(to);
  return it != peers_.end() && it->second.out != nullptr && it->second.out->open && it->second.out->overflow.empty();
}

void Peers::close() {
  if (listener_.is_open()) {
    events_.forget_socket(listener_.get());
    listener_.reset();
  }
  spare_.reset();
  for (auto& link : links_) {
    if (link) events_.forget_socket(link->socket.fd());
  }
  links_.clear();
  opening_ = 0;
  unheard_ = 0;
  peers_.clear();
  free_channels_.clear();
  closed_ = true;
}

bool Peers::is_flushed() const {
  return held_back_.empty() &&
         std::all_of(links_.begin(), links_.end(), [](const auto& link) { return !link || link->overflow.empty(); });
}

}  // namespace beeline::runtime
