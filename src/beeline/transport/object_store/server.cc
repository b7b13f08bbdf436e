#include "beeline/transport/object_store/server.h"

#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "beeline/os/random.h"
#include "beeline/os/thread.h"

namespace beeline::transport::object_store {
namespace {

constexpr auto kHelloPatience = std::chrono::seconds(10);

std::string hexadecimal(std::span<const std::byte> bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::byte byte : bytes) {
    text += kDigits[std::to_integer<unsigned>(byte >> 4)];
    text += kDigits[std::to_integer<unsigned>(byte & std::byte{15})];
  }
  return text;
}

// Visits (memory of the extent, memory of the chunk, bytes).
template <typename Visit>
void for_each_piece(std::span<const RunRecord> runs, std::span<std::byte* const> data, std::byte* chunk,
                    Visit&& visit) {
  for (std::size_t i = 0; i < runs.size(); ++i) {
    std::byte* at = data[i] + runs[i].offset;
    for (std::uint64_t k = 0; k < runs[i].count; ++k, at += runs[i].stride, chunk += runs[i].length) {
      visit(at, chunk, runs[i].length);
    }
  }
}

Status answer(os::FrameSocket& socket, std::uint32_t chunk, const Status& status) {
  Bytes bytes;
  Writer writer(bytes);
  writer.write(Reply{chunk, static_cast<std::uint32_t>(status.code())});
  if (!status) writer.append(as_bytes(status.message()));
  return socket.send(bytes);
}

}  // namespace

Server::~Server() {
  if (fork_count_ != os::fork_count()) {
    // In a child of fork() its threads are the parent's.
    if (acceptor_.joinable()) acceptor_.detach();
    for (Connection& connection : connections_) connection.thread.detach();
    return;
  }
  if (stopping_) stopping_->cancel();
  if (acceptor_.joinable()) acceptor_.join();
  for (Connection& connection : connections_) connection.thread.join();
}

Result<Bytes> Server::contact() {
  const std::lock_guard guard(mutex_);
  if (name_.empty()) BEELINE_RETURN_IF_ERROR(listen().with_context("while opening the object store"));
  const BytesView name = as_bytes(name_);
  return Bytes(name.begin(), name.end());
}

Status Server::listen() {
  std::array<std::byte, 16> random{};
  os::fill_with_random(random);
  const std::string name = "@beeline-" + hexadecimal(random);
  BEELINE_ASSIGN(stopping_, os::Cancellation::make());
  BEELINE_ASSIGN(listener_, os::listen_unix(name));
  acceptor_ = os::start_thread([this] { accept_loop(); });
  name_ = name;
  return Status::ok();
}

Result<Bytes> Server::key(memory::PublicationId id, const RegionSource::Held& held, Access access) {
  if (!held.device.is_host()) return Status(Code::kUnsupported, "the object store serves the host's memory only");
  return exposures_.key(id, held, access, [&](std::byte* data, std::uint64_t length) -> Result<Exposures::Exposed> {
    std::uint64_t extent = 0;
    const std::lock_guard guard(extents_mutex_);
    do {
      os::fill_with_random(std::as_writable_bytes(std::span(&extent, 1)));
    } while (extents_.contains(extent));
    extents_[extent] = {data, length, access};
    Exposures::Exposed exposed;
    exposed.handle = {this, [extent](void* server) { static_cast<Server*>(server)->forget(extent); }};
    const BytesView key = view_of(extent);
    exposed.key.assign(key.begin(), key.end());
    return exposed;
  });
}

// What is being copied is waited for: of a chunk at most, and by threads of this process alone.
void Server::forget(std::uint64_t extent) {
  std::unique_lock lock(extents_mutex_);
  const auto found = extents_.find(extent);
  if (found == extents_.end()) return;
  auto node = extents_.extract(found);  // no new copy begins
  if (fork_count_ != os::fork_count()) return;
  copied_.wait(lock, [&] { return node.mapped().copies == 0; });
}

void Server::accept_loop() {
  ::pthread_setname_np(::pthread_self(), "bee-store-accept");
  os::Wait wait;
  wait.cancellation = stopping_.get();
  while (os::wait_ready(listener_.get(), POLLIN, wait, "a reader")) {
    auto accepted = os::accept_unix(listener_.get());
    if (accepted && accepted->is_open()) {
      add(std::move(*accepted));
    } else if (!accepted && accepted.status().system_error() != 0) {
      // Out of descriptors: the reader waits in the backlog until one is free.
      wait.deadline = Deadline::after(std::chrono::milliseconds(50));
      (void)os::wait_ready(stopping_->fd(), POLLIN, wait, "a descriptor");
      wait.deadline = Deadline::never();
    }
  }
}

void Server::add(os::Fd fd) {
  join_ended();
  const std::lock_guard guard(mutex_);
  os::FrameSocket socket(std::move(fd));
  if (connections_.size() >= kMaxConnections) {
    const Status full(Code::kResourceExhausted, "the owner serves " + std::to_string(kMaxConnections) +
                                                    " connections already, the most there can be");
    (void)answer(socket, 0, full);  // to the first request, which is of chunk 0
    return;
  }
  Connection& connection = connections_.emplace_back();
  connection.socket = std::move(socket);
  connection.thread = os::start_thread([this, &connection] { run(connection); });
}

void Server::join_ended() {
  std::list<Connection> ended;
  {
    const std::lock_guard guard(mutex_);
    for (auto it = connections_.begin(); it != connections_.end();) {
      const auto next = std::next(it);
      if (it->ended) ended.splice(ended.end(), connections_, it);
      it = next;
    }
  }
  for (Connection& connection : ended) connection.thread.join();
}

void Server::run(Connection& connection) {
  ::pthread_setname_np(::pthread_self(), "bee-store-serve");
  // Whatever ends it, the reader sees the connection end, and says so.
  (void)serve(connection.socket);
  const std::lock_guard guard(mutex_);
  connection.socket.close();
  connection.ended = true;
}

Status Server::serve(os::FrameSocket& socket) {
  os::Wait wait;
  wait.cancellation = stopping_.get();
  wait.deadline = Deadline::after(kHelloPatience);
  os::Frame frame;
  BEELINE_RETURN_IF_ERROR(socket.receive_within(frame, wait));
  Reader hello(frame.bytes);
  if (hello.read<Hello>().magic != Hello::kMagic || frame.fds.size() != 1) return {Code::kCorrupt, "a hello of none"};
  BEELINE_ASSIGN(const std::uint64_t size, os::sealed_size(frame.fds[0], "reader's memory"));
  if (size < kStagingBytes) return {Code::kCorrupt, "a reader's memory is too short"};
  BEELINE_ASSIGN(const auto staging,
                 os::Mapping::map(frame.fds[0].get(), 0, kStagingBytes, os::Access::kReadWrite, os::Sharing::kShared));
  std::vector<RunRecord> runs;
  for (;;) {
    wait.deadline = Deadline::never();  // between requests a connection may idle
    BEELINE_RETURN_IF_ERROR(socket.receive_within(frame, wait));
    Reader reader(frame.bytes);
    const auto request = reader.read<Request>();
    const bool is_known = request.op == Op::kRead || request.op == Op::kWrite;
    if (!reader.ok() || !is_known || request.chunk >= kChunks || request.runs > kMaxRequestRuns ||
        reader.left() != request.runs * sizeof(RunRecord) || !frame.fds.empty()) {
      return {Code::kCorrupt, "a request that is none"};
    }
    runs.clear();
    for (std::uint32_t i = 0; i < request.runs; ++i) runs.push_back(reader.read<RunRecord>());
    const Status copied = copy(request, runs, staging.data() + request.chunk * kChunkBytes);
    BEELINE_RETURN_IF_ERROR(answer(socket, request.chunk, copied));
    BEELINE_RETURN_IF_ERROR(socket.flush_all(wait));
  }
}

Status Server::copy(const Request& request, std::span<const RunRecord> runs, std::byte* chunk) {
  std::vector<Extent*> held;
  const Access access = request.op == Op::kRead ? Access::kRead : Access::kWrite;
  const Status outcome = hold(runs, access, held);
  if (outcome) {
    std::vector<std::byte*> data;
    for (const Extent* extent : held) data.push_back(extent->data);
    for_each_piece(runs, data, chunk, [&](std::byte* own, std::byte* shared, std::uint64_t length) {
      if (access == Access::kRead) {
        std::memcpy(shared, own, length);
      } else {
        std::memcpy(own, shared, length);
      }
    });
  }
  let_go(held);
  return outcome;
}

Status Server::hold(std::span<const RunRecord> runs, Access access, std::vector<Extent*>& held) {
  std::uint64_t total = 0;
  const std::lock_guard guard(extents_mutex_);
  for (const RunRecord& record : runs) {
    const auto found = extents_.find(record.extent);
    if (found == extents_.end()) return {Code::kStale, "the registration was undone"};
    Extent& extent = found->second;
    if (extent.access != access) return {Code::kInvalidArgument, "the key is for reading only"};
    Region region;
    region.length = extent.length;
    const Run run{&region, record.offset, nullptr, record.length, record.count, record.stride, 0};
    BEELINE_RETURN_IF_ERROR(check_bounds({&run, 1}));
    if (__builtin_add_overflow(total, run.bytes(), &total) || total > kChunkBytes) {
      return {Code::kInvalidArgument, "a request of more than " + std::to_string(kChunkBytes) + " bytes"};
    }
    ++extent.copies;
    held.push_back(&extent);
  }
  return Status::ok();
}

void Server::let_go(std::span<Extent* const> held) {
  const std::lock_guard guard(extents_mutex_);
  for (Extent* extent : held) --extent->copies;
  copied_.notify_all();
}

}  // namespace beeline::transport::object_store
