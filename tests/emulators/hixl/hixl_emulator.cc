// AN EMULATOR of HiXL for tests: moves bytes over TCP between two processes, with that interface's states and codes.
// The owner's side checks that what is asked for was registered there. An NPU's memory is memory of the process at
// addresses that the processor cannot touch (a stray access is a SIGSEGV), given out by hixl_emulator_allocate() below;
// what is registered must be what its type says. No part of it is a product, or fast.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <future>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "hixl/hixl.h"

namespace hixl {
namespace {

using Clock = std::chrono::steady_clock;

enum class Kind : std::uint32_t { kRead = 0, kWrite = 1, kNotify = 2 };

struct Request {
  Kind kind = Kind::kRead;
  std::uint32_t count = 0;  // of pieces, or 2 strings
};

struct Piece {
  std::uint64_t address = 0, length = 0;
};

// A socket whose calls end at a point in time.
class Link {
 public:
  explicit Link(int fd) : fd_(fd) {
    const int on = 1;
    ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  ~Link() { ::close(fd_); }
  Link(const Link&) = delete;

  void shut() { ::shutdown(fd_, SHUT_RDWR); }

  Status move(void* data, std::size_t size, bool out, Clock::time_point until) {
    auto* at = static_cast<char*>(data);
    while (size > 0) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
      if (left <= 0) return TIMEOUT;
      pollfd ready{fd_, static_cast<short>(out ? POLLOUT : POLLIN), 0};
      const int polled = ::poll(&ready, 1, static_cast<int>(std::min<long>(left, 1 << 30)));
      if (polled == 0) return TIMEOUT;
      const auto moved = out ? ::send(fd_, at, size, MSG_NOSIGNAL | MSG_DONTWAIT) : ::recv(fd_, at, size, MSG_DONTWAIT);
      if (moved < 0 && (errno == EAGAIN || errno == EINTR)) continue;
      if (moved <= 0) return FAILED;
      at += moved;
      size -= static_cast<std::size_t>(moved);
    }
    return SUCCESS;
  }
  Status send(const void* data, std::size_t size, Clock::time_point until) {
    return move(const_cast<void*>(data), size, true, until);
  }
  Status receive(void* data, std::size_t size, Clock::time_point until) { return move(data, size, false, until); }

  std::mutex in_use;  // one transfer at a time
  std::atomic<bool> broken{false};

 private:
  int fd_;
};

std::optional<sockaddr_in> parse(const std::string& engine) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  const auto colon = engine.find(':');
  if (::inet_pton(AF_INET, engine.substr(0, colon).c_str(), &address.sin_addr) != 1) return std::nullopt;
  if (colon == std::string::npos) return address;
  const int port = std::atoi(engine.c_str() + colon + 1);
  if (port <= 0 || port > 65535) return std::nullopt;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  return address;
}

Clock::time_point after(std::int32_t millis) {
  return Clock::now() + std::chrono::milliseconds(millis);
}

const auto kForever = Clock::time_point::max() - std::chrono::hours(24);

// The one NPU of this process.
class Npu {
 public:
  static Npu& own() {
    static auto* const npu = new Npu();  // never destroyed: threads run until the process ends
    return *npu;
  }

  std::uintptr_t allocate(std::size_t bytes) {
    constexpr std::size_t kGuard = std::size_t{64} << 10;  // between any two
    const std::size_t room = (bytes + kGuard - 1) / kGuard * kGuard + kGuard;
    void* const place = ::mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (place == MAP_FAILED) return 0;
    const std::lock_guard guard(mutex_);
    const auto address = reinterpret_cast<std::uintptr_t>(place);
    memory_[address] = {std::make_unique<char[]>(bytes), bytes, room};
    return address;
  }

  void free(std::uintptr_t address) {
    const std::lock_guard guard(mutex_);
    const auto found = memory_.find(address);
    ::munmap(reinterpret_cast<void*>(address), found->second.room);
    memory_.erase(found);
  }

  // Where the emulator reaches it: the same address for memory of the host; null where it is neither in whole.
  char* reach(std::uintptr_t address, std::size_t length, bool* is_of_npu = nullptr) {
    const std::lock_guard guard(mutex_);
    const auto after = memory_.upper_bound(address);
    const auto before = after == memory_.begin() ? memory_.end() : std::prev(after);
    const bool is_near = before != memory_.end() && address - before->first < before->second.room;
    const bool meets_next = after != memory_.end() && address + length > after->first;
    if (is_of_npu != nullptr) *is_of_npu = is_near;
    if (meets_next) return nullptr;
    if (!is_near) return reinterpret_cast<char*>(address);
    const std::size_t inside = address - before->first;
    const bool is_inside = inside <= before->second.length && length <= before->second.length - inside;
    return is_inside ? before->second.own.get() + inside : nullptr;
  }

 private:
  struct Allocation {
    std::unique_ptr<char[]> own;
    std::size_t length = 0, room = 0;
  };
  std::mutex mutex_;
  std::map<std::uintptr_t, Allocation> memory_;  // needs mutex_
};

}  // namespace

class Hixl::HixlImpl {
 public:
  ~HixlImpl() { finalize(); }

  Status initialize(const std::string& local_engine) {
    const auto address = parse(local_engine);
    if (!address || initialized_) return PARAM_INVALID;
    if (address->sin_port != 0) {
      listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      if (::bind(listener_, reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0 ||
          ::listen(listener_, 64) != 0) {
        ::close(std::exchange(listener_, -1));
        return RESOURCE_EXHAUSTED;
      }
      acceptor_ = std::thread([this] { accept_all(); });
    }
    initialized_ = true;
    return SUCCESS;
  }

  void finalize() {
    if (listener_ >= 0) ::shutdown(listener_, SHUT_RDWR);
    if (acceptor_.joinable()) acceptor_.join();
    if (listener_ >= 0) ::close(std::exchange(listener_, -1));
    {
      const std::lock_guard guard(mutex_);
      for (auto& [engine, link] : links_) link->shut();
      for (auto& link : served_) link->shut();
      links_.clear();
    }
    for (auto& thread : servers_) thread.join();
    servers_.clear();
    requests_.clear();  // waits for those that run
    initialized_ = false;
  }

  Status register_mem(const MemDesc& mem, MemType type, MemHandle& handle) {
    if (!initialized_ || mem.addr == 0 || mem.len == 0) return PARAM_INVALID;
    bool is_of_npu = false;
    if (Npu::own().reach(mem.addr, mem.len, &is_of_npu) == nullptr) return PARAM_INVALID;
    if (is_of_npu != (type == MEM_DEVICE)) return PARAM_INVALID;
    const std::lock_guard guard(mutex_);
    registered_.push_back({mem.addr, mem.len});
    handle = &registered_.back();
    return SUCCESS;
  }

  Status deregister_mem(MemHandle handle) {
    // The owner's side copies under the lock: nothing is read any more when this returns.
    const std::lock_guard guard(mutex_);
    const auto found =
        std::find_if(registered_.begin(), registered_.end(), [&](auto& each) { return &each == handle; });
    if (found == registered_.end()) return PARAM_INVALID;
    registered_.erase(found);
    return SUCCESS;
  }

  Status connect(const std::string& engine, Clock::time_point until) {
    const auto address = parse(engine);
    if (!initialized_ || !address || address->sin_port == 0) return PARAM_INVALID;
    {
      const std::lock_guard guard(mutex_);
      if (links_.contains(engine)) return ALREADY_CONNECTED;
    }
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    auto link = std::make_shared<Link>(fd);
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0 && errno != EINPROGRESS) {
      return FAILED;
    }
    pollfd ready{fd, POLLOUT, 0};
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
    if (::poll(&ready, 1, static_cast<int>(std::clamp<long>(left, 0, 1 << 30))) == 0) return TIMEOUT;
    int error = 0;
    socklen_t size = sizeof error;
    ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return FAILED;
    const std::lock_guard guard(mutex_);
    return links_.emplace(engine, std::move(link)).second ? SUCCESS : ALREADY_CONNECTED;
  }

  Status disconnect(const std::string& engine) {
    const std::lock_guard guard(mutex_);
    const auto found = links_.find(engine);
    if (found == links_.end()) return NOT_CONNECTED;
    found->second->shut();
    links_.erase(found);
    return SUCCESS;
  }

  Status transfer(const std::string& engine, TransferOp operation, const std::vector<TransferOpDesc>& pieces,
                  Clock::time_point until) {
    if (pieces.empty()) return PARAM_INVALID;
    std::shared_ptr<Link> link;
    {
      const std::lock_guard guard(mutex_);
      const auto found = links_.find(engine);
      if (found == links_.end()) return NOT_CONNECTED;
      for (const auto& piece : pieces) {
        if (!is_registered({piece.local_addr, piece.len})) return PARAM_INVALID;
      }
      link = found->second;
    }
    const std::lock_guard guard(link->in_use);
    if (link->broken) return NOT_CONNECTED;
    const Status status = exchange(*link, operation, pieces, until);
    if (status == TIMEOUT || status == FAILED) drop(engine, link);
    return status;
  }

  Status start(const std::string& engine, TransferOp operation, std::vector<TransferOpDesc> pieces, TransferReq& req) {
    const std::lock_guard guard(mutex_);
    if (!links_.contains(engine)) return NOT_CONNECTED;
    requests_.push_back(std::async(std::launch::async, [this, engine, operation, pieces = std::move(pieces)] {
      return transfer(engine, operation, pieces, kForever);
    }));
    req = &requests_.back();
    return SUCCESS;
  }

  Status status_of(const TransferReq& req, TransferStatus& status) {
    const std::lock_guard guard(mutex_);
    const auto found = std::find_if(requests_.begin(), requests_.end(), [&](auto& each) { return &each == req; });
    if (found == requests_.end()) return PARAM_INVALID;
    if (found->wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
      status = TransferStatus::WAITING;
      return SUCCESS;
    }
    const Status outcome = found->get();
    requests_.erase(found);
    status = outcome == SUCCESS   ? TransferStatus::COMPLETED
             : outcome == TIMEOUT ? TransferStatus::TIMEOUT
                                  : TransferStatus::FAILED;
    return outcome == PARAM_INVALID ? PARAM_INVALID : SUCCESS;
  }

  Status notify(const std::string& engine, const NotifyDesc& notify, Clock::time_point until) {
    std::shared_ptr<Link> link;
    {
      const std::lock_guard guard(mutex_);
      const auto found = links_.find(engine);
      if (found == links_.end()) return NOT_CONNECTED;
      link = found->second;
    }
    const std::lock_guard guard(link->in_use);
    const Request request{Kind::kNotify, 2};
    Status status = link->send(&request, sizeof request, until);
    for (const std::string* text : {&notify.name, &notify.notify_msg}) {
      const std::uint32_t size = static_cast<std::uint32_t>(text->size());
      if (status == SUCCESS) status = link->send(&size, sizeof size, until);
      if (status == SUCCESS) status = link->send(text->data(), size, until);
    }
    Status answer = FAILED;
    if (status == SUCCESS) status = link->receive(&answer, sizeof answer, until);
    if (status != SUCCESS) drop(engine, link);
    return status != SUCCESS ? NOTIFY_FAILED : answer;
  }

  Status notifies(std::vector<NotifyDesc>& out) {
    const std::lock_guard guard(mutex_);
    out = std::exchange(notifies_, {});
    return SUCCESS;
  }

 private:
  void drop(const std::string& engine, const std::shared_ptr<Link>& link) {
    link->broken = true;
    link->shut();
    const std::lock_guard guard(mutex_);
    const auto found = links_.find(engine);
    if (found != links_.end() && found->second == link) links_.erase(found);
  }

  // Needs mutex_.
  bool is_registered(Piece piece) const {
    return std::any_of(registered_.begin(), registered_.end(), [&](const Piece& each) {
      return piece.address >= each.address && piece.length <= each.length &&
             piece.address - each.address <= each.length - piece.length;
    });
  }

  static Status exchange(Link& link, TransferOp operation, const std::vector<TransferOpDesc>& pieces,
                         Clock::time_point until) {
    const Request request{operation == READ ? Kind::kRead : Kind::kWrite, static_cast<std::uint32_t>(pieces.size())};
    std::vector<Piece> remote;
    for (const auto& piece : pieces) remote.push_back({piece.remote_addr, piece.len});
    if (const Status sent = link.send(&request, sizeof request, until); sent != SUCCESS) return sent;
    if (const Status sent = link.send(remote.data(), remote.size() * sizeof(Piece), until); sent != SUCCESS)
      return sent;
    Status answer = FAILED;
    if (const Status heard = link.receive(&answer, sizeof answer, until); heard != SUCCESS) return heard;
    if (answer != SUCCESS) return answer;
    for (const auto& piece : pieces) {
      char* const local = Npu::own().reach(piece.local_addr, piece.len);
      const Status moved = link.move(local, piece.len, operation == WRITE, until);
      if (moved != SUCCESS) return moved;
    }
    if (operation == READ) return SUCCESS;
    const Status heard = link.receive(&answer, sizeof answer, until);
    return heard != SUCCESS ? heard : answer;
  }

  void accept_all() {
    for (;;) {
      const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) return;
      const std::lock_guard guard(mutex_);
      served_.push_back(std::make_shared<Link>(fd));
      servers_.emplace_back([this, link = served_.back()] {
        serve(*link);
        const std::lock_guard ended(mutex_);
        std::erase(served_, link);
      });
    }
  }

  void serve(Link& link) {
    for (;;) {
      Request request;
      if (link.receive(&request, sizeof request, kForever) != SUCCESS) return;
      const Status status = request.kind == Kind::kNotify ? serve_notify(link) : serve_pieces(link, request);
      if (status != SUCCESS) return link.shut();
    }
  }

  Status serve_notify(Link& link) {
    NotifyDesc notify;
    for (std::string* text : {&notify.name, &notify.notify_msg}) {
      std::uint32_t size = 0;
      if (link.receive(&size, sizeof size, kForever) != SUCCESS || size > (1U << 20)) return FAILED;
      text->resize(size);
      if (link.receive(text->data(), size, kForever) != SUCCESS) return FAILED;
    }
    {
      const std::lock_guard guard(mutex_);
      notifies_.push_back(std::move(notify));
    }
    const Status answer = SUCCESS;
    return link.send(&answer, sizeof answer, kForever);
  }

  Status serve_pieces(Link& link, const Request& request) {
    if (request.count > (1U << 22)) return FAILED;
    std::vector<Piece> pieces(request.count);
    if (link.receive(pieces.data(), pieces.size() * sizeof(Piece), kForever) != SUCCESS) return FAILED;
    Status answer = SUCCESS;
    {
      const std::lock_guard guard(mutex_);
      for (const Piece& piece : pieces) {
        if (!is_registered(piece)) answer = PARAM_INVALID;
      }
    }
    if (link.send(&answer, sizeof answer, kForever) != SUCCESS) return FAILED;
    if (answer != SUCCESS) return SUCCESS;
    std::vector<char> slice(std::size_t{1} << 20);
    for (const Piece& piece : pieces) {
      for (std::uint64_t at = 0; at < piece.length; at += slice.size()) {
        const Piece part{piece.address + at, std::min<std::uint64_t>(slice.size(), piece.length - at)};
        char* const memory = Npu::own().reach(part.address, part.length);
        const bool out = request.kind == Kind::kRead;
        if (!out && link.receive(slice.data(), part.length, kForever) != SUCCESS) return FAILED;
        {
          const std::lock_guard guard(mutex_);
          if (!is_registered(part)) return FAILED;  // deregistered meanwhile
          out ? std::copy_n(memory, part.length, slice.data()) : std::copy_n(slice.data(), part.length, memory);
        }
        if (out && link.send(slice.data(), part.length, kForever) != SUCCESS) return FAILED;
      }
    }
    if (request.kind == Kind::kRead) return SUCCESS;
    return link.send(&answer, sizeof answer, kForever);
  }

  std::atomic<bool> initialized_{false};
  int listener_ = -1;
  std::thread acceptor_;
  std::mutex mutex_;
  std::list<Piece> registered_;                         // needs mutex_, as all below
  std::map<std::string, std::shared_ptr<Link>> links_;  // by remote engine
  std::list<std::shared_ptr<Link>> served_;
  std::list<std::thread> servers_;
  std::list<std::future<Status>> requests_;
  std::vector<NotifyDesc> notifies_;
};

namespace {

// What a test has it say instead of doing it: HIXL_EMULATOR_SAY="connect:103905".
Status told(const char* place) {
  const char* const say = std::getenv("HIXL_EMULATOR_SAY");
  const std::size_t length = std::strlen(place);
  if (say == nullptr || std::strncmp(say, place, length) != 0 || say[length] != ':') return SUCCESS;
  return static_cast<Status>(std::strtoul(say + length + 1, nullptr, 10));
}

}  // namespace

Hixl::Hixl() : impl_(std::make_unique<HixlImpl>()) {}
Hixl::~Hixl() = default;

Status Hixl::Initialize(const AscendString& local_engine, const std::map<AscendString, AscendString>& /*options*/) {
  return impl_->initialize(local_engine);
}
void Hixl::Finalize() {
  impl_->finalize();
}
Status Hixl::RegisterMem(const MemDesc& mem, MemType type, MemHandle& mem_handle) {
  if (const Status said = told("register"); said != SUCCESS) return said;
  return impl_->register_mem(mem, type, mem_handle);
}
Status Hixl::DeregisterMem(MemHandle mem_handle) {
  return impl_->deregister_mem(mem_handle);
}
Status Hixl::Connect(const AscendString& remote_engine, std::int32_t timeout_in_millis) {
  if (const Status said = told("connect"); said != SUCCESS) return said;
  return impl_->connect(remote_engine, after(timeout_in_millis));
}
Status Hixl::Disconnect(const AscendString& remote_engine, std::int32_t /*timeout_in_millis*/) {
  return impl_->disconnect(remote_engine);
}
Status Hixl::TransferSync(const AscendString& remote_engine, TransferOp operation,
                          const std::vector<TransferOpDesc>& op_descs, std::int32_t timeout_in_millis) {
  return impl_->transfer(remote_engine, operation, op_descs, after(timeout_in_millis));
}
Status Hixl::TransferAsync(const AscendString& remote_engine, TransferOp operation,
                           const std::vector<TransferOpDesc>& op_descs, const TransferArgs& /*optional_args*/,
                           TransferReq& req) {
  if (const Status said = told("transfer"); said != SUCCESS) return said;
  return impl_->start(remote_engine, operation, op_descs, req);
}
Status Hixl::GetTransferStatus(const TransferReq& req, TransferStatus& status) {
  const Status known = impl_->status_of(req, status);
  if (status != TransferStatus::COMPLETED) return known;
  if (const Status said = told("status"); said != SUCCESS) {
    status = said == TIMEOUT ? TransferStatus::TIMEOUT : TransferStatus::FAILED;
  }
  return known;
}
Status Hixl::SendNotify(const AscendString& remote_engine, const NotifyDesc& notify, std::int32_t timeout_in_millis) {
  return impl_->notify(remote_engine, notify, after(timeout_in_millis));
}
Status Hixl::GetNotifies(std::vector<NotifyDesc>& notifies) {
  return impl_->notifies(notifies);
}

}  // namespace hixl

// What no HiXL has: memory of the NPU, which the SDK of its driver gives out, and copies to it and from it.
extern "C" __attribute__((visibility("default"))) std::uintptr_t hixl_emulator_allocate(std::size_t bytes) {
  return hixl::Npu::own().allocate(bytes);
}
extern "C" __attribute__((visibility("default"))) void hixl_emulator_free(std::uintptr_t address) {
  hixl::Npu::own().free(address);
}
extern "C" __attribute__((visibility("default"))) void hixl_emulator_copy(std::uintptr_t to, std::uintptr_t from,
                                                                          std::size_t bytes) {
  hixl::Npu& npu = hixl::Npu::own();
  std::memmove(npu.reach(to, bytes), npu.reach(from, bytes), bytes);
}
