// A way to one peer for one transfer at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "beeline/transport/exposures.h"
#include "beeline/transport/ucx/engine.h"

namespace beeline::transport::ucx {

// A worker and an endpoint of its own: whoever waits for a transfer progresses it, sleeps when there is nothing to do,
// and ends nobody else's when it gives up. One thread at a time.
class Channel {
 public:
  // To the worker whose address the contact is. kUnsupported where none of the transports leads there.
  static Result<std::unique_ptr<Channel>> open(std::shared_ptr<Engine> engine, BytesView contact, OwnerLine& owner,
                                               std::string_view path);
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // As Endpoint::read() and write(). After a failure the channel is of no use any more.
  Status transfer(std::span<const Run> runs, Access access, const os::Wait& wait);

 private:
  Channel(std::shared_ptr<Engine> engine, std::shared_ptr<UcpWorker> worker, OwnerLine& owner, std::string_view path)
      : engine_(std::move(engine)), worker_(std::move(worker)), keys_(owner, path) {}
  Status connect(BytesView contact);
  Result<std::shared_ptr<void>> open_key(const ExtentKey& extent);
  Status move(std::span<const KeyedRun> pieces, Access access, const os::Wait& wait);
  // `run` is one stretch of an extent.
  Status start(const Run& run, const ExtentKey& extent, Access access);
  Status flush();
  UcpRequestParams request_params();
  // Counts what was started, unless it is done or failed at once.
  Status note_started(UcsStatusPointer started, const Words& words);
  // Until no more than so many requests are under way.
  Status wait_for(std::size_t at_most, const os::Wait& wait);
  void drain();
  void close();
  [[nodiscard]] const Library& library() const { return engine_->library(); }
  [[nodiscard]] const Functions& ucx() const { return engine_->functions(); }

  const std::shared_ptr<Engine> engine_;
  const std::shared_ptr<UcpWorker> worker_;
  int event_fd_ = -1;  // the worker's
  UcpEndpoint* endpoint_ = nullptr;
  std::size_t under_way_ = 0;
  UcsStatus failure_ = UcsStatus::kOk;  // of the first request that failed
  Keys keys_;                           // opened ones end before the worker does
};

}  // namespace beeline::transport::ucx
