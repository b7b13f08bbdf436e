#include "beeline/transport/nccl/communicator.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "beeline/base/clock.h"

namespace beeline::transport::nccl {
namespace {

namespace api = os::nccl;

constexpr Nanos kFirstNap = std::chrono::microseconds(10);
constexpr Nanos kLongestNap = std::chrono::milliseconds(1);

// A call on a communicator that does not block: what it has begun is told later.
bool is_begun(api::Return code) {
  return code == api::kSuccess || code == api::kInProgress;
}

}  // namespace

Result<std::unique_ptr<Communicator>> Communicator::make(const api::Library& library, std::shared_ptr<Gpu> gpu,
                                                         const api::UniqueId& id, int rank,
                                                         FunctionRef<Status()> go_on) {
  std::unique_ptr<Communicator> made(new Communicator(library, std::move(gpu), rank));
  BEELINE_RETURN_IF_ERROR(made->init(id, go_on));
  return made;
}

Status Communicator::init(const api::UniqueId& id, FunctionRef<Status()> go_on) {
  const cuda::Current current(gpu_->driver(), gpu_->context());  // by which NCCL knows the GPU
  BEELINE_RETURN_IF_ERROR(current.status());
  api::Config config;
  const api::Return code = library_.functions().init_rank(&comm_, 2, id, rank_, &config);
  if (!is_begun(code)) return library_.failed("ncclCommInitRankConfig", code, comm_);
  return wait_until_ready("ncclCommInitRankConfig", go_on);
}

Status Communicator::check() {
  api::Return state = api::kSuccess;
  const api::Return code = library_.functions().async_error(comm_, &state);
  if (code != api::kSuccess) return library_.failed("ncclCommGetAsyncError", code, comm_);
  return is_begun(state) ? Status::ok() : library_.failed("a communicator", state, comm_);
}

Status Communicator::wait_until_ready(const char* what, FunctionRef<Status()> go_on) {
  for (Nanos nap = kFirstNap;; nap = std::min(nap * 2, kLongestNap)) {
    api::Return state = api::kSuccess;
    const api::Return code = library_.functions().async_error(comm_, &state);
    if (code != api::kSuccess) return library_.failed("ncclCommGetAsyncError", code, comm_);
    if (state == api::kSuccess) return Status::ok();
    if (state != api::kInProgress) return library_.failed(what, state, comm_);
    BEELINE_RETURN_IF_ERROR(go_on());
    std::this_thread::sleep_for(nap);
  }
}

Status Communicator::put(std::span<const Piece> pieces, Way way, cuda::Stream stream) {
  const auto& functions = library_.functions();
  const int peer = 1 - rank_;
  api::Return code = functions.group_start();
  if (!is_begun(code)) return library_.failed("ncclGroupStart", code, comm_);
  for (const Piece& piece : pieces) {
    code = way == Way::kSend ? functions.send(piece.data, piece.bytes, api::kUint8, peer, comm_, stream)
                             : functions.receive(piece.data, piece.bytes, api::kUint8, peer, comm_, stream);
    if (!is_begun(code)) break;
  }
  const api::Return ended = functions.group_end();  // also of a group that failed: it is the thread's
  if (!is_begun(code)) return library_.failed(way == Way::kSend ? "ncclSend" : "ncclRecv", code, comm_);
  return is_begun(ended) ? Status::ok() : library_.failed("ncclGroupEnd", ended, comm_);
}

Status Communicator::move(std::span<const Piece> pieces, Way way, Lane& lane, FunctionRef<Status()> go_on) {
  if (comm_ == nullptr) return {Code::kPeerLost, "the communicator was given up"};
  Status status = put(pieces, way, lane.stream());
  if (status) status = wait_until_ready("ncclGroupEnd", go_on);
  if (status) {
    const auto both = [&] {
      BEELINE_RETURN_IF_ERROR(go_on());
      return check();
    };
    status = lane.finish(both);
    // Kernels of a communicator that broke may end as if they had moved everything.
    if (status) status = check();
  }
  if (status) return status;
  // Kernels that wait for the peer end now; nothing that they were to write comes after this.
  abort();
  (void)lane.finish();
  return status;
}

void Communicator::abort() {
  if (comm_ == nullptr || gpu_->is_forked()) return;
  const cuda::Current current(gpu_->driver(), gpu_->context());
  (void)library_.functions().abort(std::exchange(comm_, nullptr));
}

}  // namespace beeline::transport::nccl
