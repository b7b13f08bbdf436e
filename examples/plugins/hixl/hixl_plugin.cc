// Ascend's HiXL as a path of Beeline's transfer engine: a worked plug-in of beeline/transport_plugin.h for a one-sided
// engine that has no discovery of its own. Build it against the vendor's SDK (or the emulator of the tests):
//
//   include=$(python -c "import beeline.transfer; print(beeline.transfer.get_include())")
//   c++ -std=c++20 -O2 -shared -fPIC hixl_plugin.cc -I$include -I$SDK/include -L$SDK/lib -lhixl -o libbeeline_hixl.so
//
// BEELINE_HIXL_HOST is the IPv4 address by which other hosts reach this one's engine (127.0.0.1 by default).
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "beeline/transport_plugin.h"
#include "hixl/hixl.h"

namespace {

constexpr std::int32_t kHostMemory = 1;  // DLPack's numbers
constexpr std::int32_t kNpuMemory = 12;
constexpr std::uint64_t kPageBytes = 4096;
constexpr std::int32_t kSliceMillis = 100;  // of waits that the engine bounds itself

// What travels as the key of exposed memory: HiXL has no discovery of remote addresses.
struct Key {
  std::uint64_t address = 0;
  std::uint64_t length = 0;
};

int fail(beeline_failure* failure, int code, const std::string& message) {
  const std::size_t size = std::min(message.size(), sizeof failure->message - 1);
  std::memcpy(failure->message, message.data(), size);
  failure->message[size] = 0;
  return code;
}

// Each of HiXL's codes as one of Beeline's, with what to do about it.
int fail_with(beeline_failure* failure, hixl::Status status, const std::string& what) {
  const auto failed = [&](int code, const char* why) {
    return fail(failure, code, what + ": HiXL says " + why + " (" + std::to_string(status) + ")");
  };
  switch (status) {
    case hixl::PARAM_INVALID:
      return failed(BEELINE_STALE, "PARAM_INVALID: the memory is not registered with it, or not any more");
    case hixl::TIMEOUT:
      return failed(BEELINE_DEADLINE_EXCEEDED, "TIMEOUT");
    case hixl::NOT_CONNECTED:
      return failed(BEELINE_SYSTEM, "NOT_CONNECTED: the link to the other engine is gone");
    case hixl::ALREADY_CONNECTED:
      return failed(BEELINE_ALREADY_EXISTS, "ALREADY_CONNECTED");
    case hixl::UNSUPPORTED:
      return failed(BEELINE_UNSUPPORTED, "UNSUPPORTED: by this device, driver or firmware");
    case hixl::RESOURCE_EXHAUSTED:
      return failed(BEELINE_RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED: too many registrations or links");
    default:
      return failed(BEELINE_SYSTEM, "FAILED: see the log of CANN");
  }
}

hixl::MemType type_of(std::int32_t device_type) {
  return device_type == kHostMemory ? hixl::MEM_HOST : hixl::MEM_DEVICE;
}

// A port that was free a moment ago: HiXL takes none by itself.
std::optional<int> free_port(const std::string& host) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return std::nullopt;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  socklen_t size = sizeof address;
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  const bool found = ::inet_pton(AF_INET, host.c_str(), &address.sin_addr) == 1 && ::bind(fd, generic, size) == 0 &&
                     ::getsockname(fd, generic, &size) == 0;
  ::close(fd);
  if (!found) return std::nullopt;
  return ntohs(address.sin_port);
}

// Memory that is registered with HiXL, counted: a storage is registered once, however often it is used.
class Registrations {
 public:
  explicit Registrations(hixl::Hixl& engine) : engine_(engine) {}

  using Storage = std::tuple<std::uintptr_t, std::uint64_t, hixl::MemType>;

  hixl::Status add(const Storage& storage) {
    const std::lock_guard guard(mutex_);
    auto& entry = entries_[storage];
    if (entry.count == 0) {
      const auto& [address, length, type] = storage;
      const auto status = engine_.RegisterMem({address, length}, type, entry.handle);
      if (status != hixl::SUCCESS) {
        entries_.erase(storage);
        return status;
      }
    }
    ++entry.count;
    return hixl::SUCCESS;
  }

  void remove(const Storage& storage) {
    const std::lock_guard guard(mutex_);
    const auto found = entries_.find(storage);
    if (--found->second.count > 0) return;
    engine_.DeregisterMem(found->second.handle);
    entries_.erase(found);
  }

 private:
  struct Entry {
    hixl::MemHandle handle = nullptr;
    std::size_t count = 0;
  };
  hixl::Hixl& engine_;
  std::mutex mutex_;
  std::map<Storage, Entry> entries_;
};

// One for each agent.
struct Engine {
  hixl::Hixl hixl;
  std::string name;  // "host:port": what HiXL knows it by
  Registrations registrations{hixl};
  std::mutex mutex;
  std::map<std::string, std::size_t> links;  // needs mutex: connections that share the link to an engine
};

struct Exposure {
  Registrations::Storage storage;
};

struct Connection {
  std::string remote;  // the other engine's name
  std::string peer;    // for messages
};

// Local memory of a transfer, registered for its time.
class LocalMemory {
 public:
  explicit LocalMemory(Registrations& registrations) : registrations_(registrations) {}
  ~LocalMemory() {
    for (const auto& storage : added_) registrations_.remove(storage);
  }
  LocalMemory(const LocalMemory&) = delete;

  // What lies within a page of each other is registered as one: the gaps are mapped as well.
  hixl::Status add(std::vector<std::pair<std::uintptr_t, std::uint64_t>> pieces, hixl::MemType type) {
    std::sort(pieces.begin(), pieces.end());
    std::size_t kept = 0;
    for (std::size_t i = 1; i < pieces.size(); ++i) {
      auto& [start, length] = pieces[kept];
      if (pieces[i].first <= start + length + kPageBytes) {
        length = std::max(length, pieces[i].first + pieces[i].second - start);
      } else {
        pieces[++kept] = pieces[i];
      }
    }
    pieces.resize(kept + 1);
    for (const auto& [start, length] : pieces) {
      const Registrations::Storage storage{start, length, type};
      if (const auto status = registrations_.add(storage); status != hixl::SUCCESS) return status;
      added_.push_back(storage);
    }
    return hixl::SUCCESS;
  }

 private:
  Registrations& registrations_;
  std::vector<Registrations::Storage> added_;
};

int32_t open(const char* agent_name, void** engine, beeline_failure* failure) {
  const char* const chosen = std::getenv("BEELINE_HIXL_HOST");
  const std::string host = chosen != nullptr ? chosen : "127.0.0.1";
  auto own = std::make_unique<Engine>();
  hixl::Status status = hixl::RESOURCE_EXHAUSTED;
  // Somebody else may take the port in between.
  for (int attempt = 0; attempt < 10 && status == hixl::RESOURCE_EXHAUSTED; ++attempt) {
    const auto port = free_port(host);
    if (!port) return fail(failure, BEELINE_INVALID_ARGUMENT, "BEELINE_HIXL_HOST is no address of this host: " + host);
    own->name = host + ":" + std::to_string(*port);
    status = own->hixl.Initialize(own->name, {});
  }
  if (status != hixl::SUCCESS) {
    return fail_with(failure, status, std::string("initialize for agent ") + agent_name + " at " + own->name);
  }
  *engine = own.release();
  return BEELINE_OK;
}

void close(void* engine) {
  auto* const own = static_cast<Engine*>(engine);
  own->hixl.Finalize();
  delete own;
}

int32_t contact(void* engine, const beeline_sink* sink, beeline_failure* /*failure*/) {
  const auto& name = static_cast<Engine*>(engine)->name;
  sink->write(sink->context, name.data(), name.size());
  return BEELINE_OK;
}

int32_t expose(void* engine, const beeline_memory* memory, int32_t /*writable*/, void** exposure,
               const beeline_sink* sink, beeline_failure* failure) {
  auto* const own = static_cast<Engine*>(engine);
  const auto type = type_of(memory->device_type);
  const Key key{reinterpret_cast<std::uintptr_t>(memory->address), memory->length};
  const Registrations::Storage storage{key.address, key.length, type};
  const auto status = own->registrations.add(storage);
  if (status != hixl::SUCCESS) {
    return fail_with(failure, status, "register " + std::to_string(memory->length) + " bytes");
  }
  *exposure = new Exposure{storage};
  sink->write(sink->context, &key, sizeof key);
  return BEELINE_OK;
}

void withdraw(void* engine, void* exposure) {
  const std::unique_ptr<Exposure> own(static_cast<Exposure*>(exposure));
  static_cast<Engine*>(engine)->registrations.remove(own->storage);
}

// Connects the engines, unless they are.
int32_t link(Engine& engine, const Connection& peer, const beeline_wait* wait, beeline_failure* failure) {
  for (;;) {
    const auto status = engine.hixl.Connect(peer.remote, kSliceMillis);
    if (status == hixl::SUCCESS || status == hixl::ALREADY_CONNECTED) return BEELINE_OK;
    const std::string what = "connect to the engine of " + peer.peer + " at " + peer.remote;
    if (status != hixl::TIMEOUT) return fail_with(failure, status, what);
    if (const int ended = wait->check(wait->context); ended != BEELINE_OK) return fail(failure, ended, what);
  }
}

int32_t connect(void* engine, const char* peer_name, beeline_bytes contact, const beeline_wait* wait, void** connection,
                beeline_failure* failure) {
  auto* const own = static_cast<Engine*>(engine);
  auto made = std::make_unique<Connection>();
  made->remote.assign(static_cast<const char*>(contact.data), contact.size);
  made->peer = peer_name;
  if (const int linked = link(*own, *made, wait, failure); linked != BEELINE_OK) return linked;
  const std::lock_guard guard(own->mutex);
  ++own->links[made->remote];
  *connection = made.release();
  return BEELINE_OK;
}

void disconnect(void* engine, void* connection) {
  auto* const own = static_cast<Engine*>(engine);
  const std::unique_ptr<Connection> peer(static_cast<Connection*>(connection));
  const std::lock_guard guard(own->mutex);
  if (--own->links[peer->remote] > 0) return;
  own->links.erase(peer->remote);
  own->hixl.Disconnect(peer->remote, kSliceMillis);
}

// Waits for a request; ends it by ending the link, for HiXL cancels nothing.
int32_t finish(Engine& engine, const Connection& peer, hixl::TransferReq request, const std::string& what,
               const beeline_wait* wait, beeline_failure* failure) {
  int ended = BEELINE_OK;
  auto pause = std::chrono::microseconds(5);
  for (;;) {
    hixl::TransferStatus state = hixl::TransferStatus::WAITING;
    const auto status = engine.hixl.GetTransferStatus(request, state);
    // Once it is not waiting any more nothing writes to local memory.
    if (ended != BEELINE_OK && (status != hixl::SUCCESS || state != hixl::TransferStatus::WAITING)) {
      return fail(failure, ended, what + " did not end in time: the link was closed");
    }
    if (status != hixl::SUCCESS) return fail_with(failure, status, what);
    if (state == hixl::TransferStatus::COMPLETED) return BEELINE_OK;
    if (state == hixl::TransferStatus::TIMEOUT) return fail_with(failure, hixl::TIMEOUT, what);
    if (state == hixl::TransferStatus::FAILED) return fail_with(failure, hixl::FAILED, what);
    if (ended == BEELINE_OK) ended = wait->check(wait->context);
    if (ended != BEELINE_OK) engine.hixl.Disconnect(peer.remote, kSliceMillis);
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::microseconds(1000));
  }
}

int32_t transfer(void* engine, void* connection, int32_t operation, const beeline_run* runs, uint64_t count,
                 const beeline_wait* wait, beeline_failure* failure) {
  auto& own = *static_cast<Engine*>(engine);
  const auto& peer = *static_cast<const Connection*>(connection);
  if (count == 0) return BEELINE_OK;
  std::vector<hixl::TransferOpDesc> pieces;  // of one device: all runs of a call have the same
  std::vector<std::pair<std::uintptr_t, std::uint64_t>> local;
  for (uint64_t i = 0; i < count; ++i) {
    const beeline_run& run = runs[i];
    Key key;
    if (run.key.size != sizeof key) return fail(failure, BEELINE_CORRUPT, "a key that is none of HiXL's");
    std::memcpy(&key, run.key.data, sizeof key);
    for (uint64_t at = 0; at < run.count; ++at) {
      const auto to = reinterpret_cast<std::uintptr_t>(run.local) + at * run.local_stride;
      pieces.push_back({to, key.address + run.offset + at * run.stride, run.length});
      local.emplace_back(to, run.length);
    }
  }
  const std::string what =
      (operation == BEELINE_READ ? "read from " : "write to ") + peer.peer + " (" + peer.remote + ")";
  LocalMemory memory(own.registrations);
  if (const auto status = memory.add(std::move(local), type_of(runs[0].local_device_type)); status != hixl::SUCCESS) {
    return fail_with(failure, status, "register local memory to " + what);
  }
  hixl::TransferReq request = nullptr;
  const auto start = [&] {
    return own.hixl.TransferAsync(peer.remote, operation == BEELINE_READ ? hixl::READ : hixl::WRITE, pieces, {},
                                  request);
  };
  auto status = start();
  if (status == hixl::NOT_CONNECTED) {  // an earlier transfer that did not end in time closed the link
    if (const int linked = link(own, peer, wait, failure); linked != BEELINE_OK) return linked;
    status = start();
  }
  if (status != hixl::SUCCESS) return fail_with(failure, status, what);
  return finish(own, peer, request, what, wait, failure);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const beeline_transport* beeline_transport_plugin(void) {
  static constexpr beeline_transport kTable{
      .abi = BEELINE_TRANSPORT_ABI,
      .size = sizeof(beeline_transport),
      .name = "hixl",
      .device_types = (std::uint64_t{1} << kHostMemory) | (std::uint64_t{1} << kNpuMemory),
      .flags = BEELINE_CAN_WRITE,
      .expected_gbps = 1,
      .open = open,
      .close = close,
      .contact = contact,
      .expose = expose,
      .withdraw = withdraw,
      .connect = connect,
      .disconnect = disconnect,
      .transfer = transfer,
  };
  return &kTable;
}
