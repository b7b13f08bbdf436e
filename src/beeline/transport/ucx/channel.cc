#include "beeline/transport/ucx/channel.h"

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

namespace beeline::transport::ucx {
namespace {

// Of one request, and how many are under way: what is still copied once the deadline has passed.
constexpr std::uint64_t kSlice = std::uint64_t{1} << 20;
constexpr std::size_t kMaxUnderWay = 16;
// At a worker, while an endpoint of it is closed.
constexpr int kMaxCloseLooks = 1000;

// A key starts with the extent's address in its owner, see Engine::key().
using KeyAddress = std::uint64_t;

std::uint64_t address_of(const ExtentKey& extent) {
  KeyAddress address = 0;
  std::memcpy(&address, extent.key.data(), sizeof address);
  return address;
}

}  // namespace

Result<std::unique_ptr<Channel>> Channel::open(std::shared_ptr<Engine> engine, BytesView contact, OwnerLine& owner,
                                               std::string_view path) {
  BEELINE_ASSIGN(auto worker, engine->make_worker());
  std::unique_ptr<Channel> channel(new Channel(std::move(engine), std::move(worker), owner, path));
  BEELINE_RETURN_IF_ERROR(channel->connect(contact));
  return channel;
}

Channel::~Channel() {
  if (engine_->is_own()) close();
}

Status Channel::connect(BytesView contact) {
  const Words words;
  BEELINE_RETURN_IF_ERROR(
      library().status(ucx().worker_get_efd(worker_.get(), &event_fd_), "asking a worker for its descriptor", words));
  UcpEndpointParams params{};
  params.field_mask = UcpEndpointParams::kAddress;
  params.address = reinterpret_cast<const UcpAddress*>(contact.data());
  return library().status(ucx().ep_create(worker_.get(), &params, &endpoint_), "connecting", words);
}

Result<std::shared_ptr<void>> Channel::open_key(const ExtentKey& extent) {
  if (extent.key.size() <= sizeof(KeyAddress)) return Status(Code::kCorrupt, "a key that is none of UCX's");
  const Words words;
  UcpKey* key = nullptr;
  const auto status = ucx().ep_rkey_unpack(endpoint_, extent.key.data() + sizeof(KeyAddress), &key);
  BEELINE_RETURN_IF_ERROR(library().status(status, "opening a key", words));
  return std::shared_ptr<void>(key, [engine = engine_](void* own) {
    if (engine->is_own()) engine->functions().rkey_destroy(static_cast<UcpKey*>(own));
  });
}

Status Channel::transfer(std::span<const Run> runs, Access access, const os::Wait& wait) {
  std::vector<KeyedRun> pieces;
  std::vector<std::shared_ptr<const Keys::Extents>> kept;
  const auto open = [this](const ExtentKey& extent) { return open_key(extent); };
  BEELINE_RETURN_IF_ERROR(keys_.append_pieces(runs, access, open, wait, pieces, kept));
  Status status = move(pieces, access, wait);
  if (!status) drain();  // before the keys go
  return status;
}

Status Channel::move(std::span<const KeyedRun> pieces, Access access, const os::Wait& wait) {
  std::size_t started = 0;
  for (const auto& [run, extent] : pieces) {
    for (std::uint64_t i = 0; i < run.count; ++i) {
      for (std::uint64_t done = 0; done < run.length; done += kSlice) {
        Run part = run;
        part.offset += i * run.stride + done;
        part.local += i * run.local_stride + done;
        part.length = std::min(kSlice, run.length - done);
        BEELINE_RETURN_IF_ERROR(start(part, *extent, access));
        BEELINE_RETURN_IF_ERROR(wait_for(kMaxUnderWay - 1, wait));
        // Where each one is done at once, nobody looks at the deadline.
        if (++started % kMaxUnderWay == 0) BEELINE_RETURN_IF_ERROR(wait.check());
      }
    }
  }
  if (access == Access::kWrite) BEELINE_RETURN_IF_ERROR(flush());
  return wait_for(0, wait);
}

Status Channel::start(const Run& run, const ExtentKey& extent, Access access) {
  const Words words;
  UcpRequestParams params = request_params();
  params.field_mask |= UcpRequestParams::kMemoryType;
  params.memory_type = kHostMemoryType;
  auto* const key = static_cast<UcpKey*>(extent.opened.get());
  const std::uint64_t remote = address_of(extent) + run.offset;
  return note_started(access == Access::kRead ? ucx().get_nbx(endpoint_, run.local, run.length, remote, key, &params)
                                              : ucx().put_nbx(endpoint_, run.local, run.length, remote, key, &params),
                      words);
}

// That a write has left this side says nothing of the other one.
Status Channel::flush() {
  const Words words;
  const UcpRequestParams params = request_params();
  return note_started(ucx().ep_flush_nbx(endpoint_, &params), words);
}

UcpRequestParams Channel::request_params() {
  UcpRequestParams params{};
  params.field_mask = UcpRequestParams::kCallback | UcpRequestParams::kUserData;
  params.user_data = this;
  params.on_done = [](void* request, UcsStatus status, void* user_data) {
    auto& own = *static_cast<Channel*>(user_data);
    --own.under_way_;
    if (own.failure_ == UcsStatus::kOk) own.failure_ = status;
    own.ucx().request_free(request);
  };
  return params;
}

Status Channel::note_started(UcsStatusPointer started, const Words& words) {
  if (started == nullptr) return Status::ok();
  if (is_error(started)) return library().status(error_of(started), "starting", words);
  ++under_way_;
  return Status::ok();
}

Status Channel::wait_for(std::size_t at_most, const os::Wait& wait) {
  const Words words;
  for (;;) {
    if (failure_ != UcsStatus::kOk) return library().status(failure_, "moving", words);
    if (under_way_ <= at_most) return Status::ok();
    BEELINE_RETURN_IF_ERROR(wait.check());
    // That nothing was progressed is not said reliably: what is under way is looked at before going to sleep.
    const std::size_t before = under_way_;
    if (ucx().worker_progress(worker_.get()) > 0 || under_way_ < before) continue;
    const UcsStatus armed = ucx().worker_arm(worker_.get());
    if (armed == UcsStatus::kOk) {
      BEELINE_RETURN_IF_ERROR(os::wait_ready(event_fd_, POLLIN, wait, "UCX"));
    } else if (armed != UcsStatus::kBusy) {  // busy: there is something to progress
      return library().status(armed, "waiting", words);
    }
  }
}

// Nothing is written to local memory once this returns. UCX cancels no read: by the kernel what is under way takes some
// milliseconds, a NIC gives up when it has tried often enough.
void Channel::drain() {
  const Words unsaid;  // of what is given up
  while (under_way_ > 0) {
    if (ucx().worker_progress(worker_.get()) == 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

// The worker's end ends what is left of an endpoint that takes its time.
void Channel::close() {
  if (endpoint_ == nullptr) return;
  const Words unsaid;
  const UcpRequestParams params{};
  const UcsStatusPointer closing = ucx().ep_close_nbx(endpoint_, &params);
  if (closing == nullptr || is_error(closing)) return;
  for (int i = 0; i < kMaxCloseLooks && ucx().request_check_status(closing) == UcsStatus::kInProgress; ++i) {
    (void)ucx().worker_progress(worker_.get());
  }
  ucx().request_free(closing);
}

}  // namespace beeline::transport::ucx
