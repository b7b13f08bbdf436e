#include "beeline/transport/object_store/server.h"

#include <cstring>
#include <utility>
#include <vector>

namespace beeline::transport::object_store {
namespace {

constexpr auto kHelloPatience = std::chrono::seconds(10);

// Visits (memory of the extent, memory of the chunk, bytes).
template <typename Visit>
void for_each_piece(std::span<const RunRecord> runs, const ServedExtents::Hold& held, std::byte* chunk, Visit&& visit) {
  for (std::size_t i = 0; i < runs.size(); ++i) {
    std::byte* at = held.data(i) + runs[i].offset;
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

Server::Server()
    : connections_({.thread_name = "bee-store-serve",
                    // Whatever ends it, the reader sees the connection end, and says so.
                    .serve =
                        [this](ConnectionServer::Caller caller) {
                          os::FrameSocket socket(std::move(caller.connection));
                          socket.limit_frames(sizeof(Request) + kMaxRequestRuns * sizeof(RunRecord));
                          (void)serve(socket, caller.wait);
                        },
                    .turn_away =
                        [](os::Fd connection, const Status& why) {
                          if (!connection.is_open()) return;
                          os::FrameSocket socket(std::move(connection));
                          (void)answer(socket, 0, why);  // to the first request, which is of chunk 0
                        }}) {}

Result<Bytes> Server::contact() {
  auto name = connections_.unix_name();
  if (!name) return name.status().with_context("while opening the object store");
  const BytesView bytes = as_bytes(*name);
  return Bytes(bytes.begin(), bytes.end());
}

Result<Bytes> Server::key(memory::PublicationId id, const RegionSource::Held& held, Access access) {
  if (!held.device.is_host()) return Status(Code::kUnsupported, "the object store serves the host's memory only");
  return extents_.key(id, held, access);
}

Status Server::serve(os::FrameSocket& socket, os::Wait wait) {
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
  const Access access = request.op == Op::kRead ? Access::kRead : Access::kWrite;
  BEELINE_ASSIGN(const auto held, extents_.hold(runs, access, kChunkBytes));
  for_each_piece(runs, held, chunk, [&](std::byte* own, std::byte* shared, std::uint64_t length) {
    if (access == Access::kRead) {
      std::memcpy(shared, own, length);
    } else {
      std::memcpy(own, shared, length);
    }
  });
  return Status::ok();
}

}  // namespace beeline::transport::object_store
