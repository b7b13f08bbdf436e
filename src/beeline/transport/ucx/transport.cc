#include "beeline/transport/ucx/transport.h"

#include <mutex>
#include <utility>
#include <vector>

#include "beeline/os/process.h"
#include "beeline/transport/ucx/channel.h"
#include "beeline/transport/ucx/engine.h"

namespace beeline::transport::ucx {
namespace {

constexpr std::string_view kName = "ucx";
constexpr std::size_t kIdleChannels = 4;

class UcxEndpoint final : public Endpoint {
 public:
  UcxEndpoint(std::shared_ptr<Engine> engine, const PeerFacts& peer, Bytes contact, os::Fd pidfd)
      : engine_(std::move(engine)),
        name_(peer.name),
        pid_(peer.pid),
        owner_(*peer.owner),
        contact_(std::move(contact)),
        pidfd_(std::move(pidfd)) {}

  Status read(std::span<const Run> runs, const os::Wait& wait) override { return move(runs, Access::kRead, wait); }
  Status write(std::span<const Run> runs, const os::Wait& wait) override { return move(runs, Access::kWrite, wait); }

  // A channel that works, kept for the first transfer.
  Status open_first() {
    BEELINE_ASSIGN(auto channel, open());
    give(std::move(channel));
    return Status::ok();
  }

 private:
  Status move(std::span<const Run> runs, Access access, const os::Wait& wait) {
    BEELINE_ASSIGN(auto channel, take());
    Status status = channel->transfer(runs, access, wait);
    if (status) give(std::move(channel));
    // Transports of one host go by the peer's number: only a process that still runs is known to have been the one. Its
    // end is what UCX calls an error of input or output.
    const bool may_be_its_end = status || status.code() == Code::kSystem || status.code() == Code::kPeerLost;
    if (may_be_its_end && pidfd_.is_open() && (os::has_ended(pidfd_) || (!status && os::is_ending(pid_)))) {
      return {Code::kPeerLost, name_ + " (pid " + std::to_string(pid_) + ") has ended"};
    }
    return std::move(status).with_context("while moving " + std::to_string(bytes_of(runs)) + " bytes");
  }

  Result<std::unique_ptr<Channel>> take() {
    {
      const std::lock_guard guard(mutex_);
      if (!idle_.empty()) {
        auto channel = std::move(idle_.back());
        idle_.pop_back();
        return channel;
      }
    }
    return open();
  }

  void give(std::unique_ptr<Channel> channel) {
    const std::lock_guard guard(mutex_);
    if (idle_.size() < kIdleChannels) idle_.push_back(std::move(channel));
  }

  Result<std::unique_ptr<Channel>> open() {
    auto channel = Channel::open(engine_, contact_, owner_, kName);
    if (channel) return channel;
    return channel.status().with_context("while opening a channel to " + name_);
  }

  const std::shared_ptr<Engine> engine_;
  const std::string name_;
  const pid_t pid_;
  OwnerLine& owner_;
  const Bytes contact_;
  const os::Fd pidfd_;  // of a peer on this host
  std::mutex mutex_;
  std::vector<std::unique_ptr<Channel>> idle_;  // needs mutex_
};

class UcxTransport final : public Transport {
 public:
  explicit UcxTransport(const std::string& library) : engine_(std::make_shared<Engine>(library)) {}

  [[nodiscard]] std::string_view name() const override { return kName; }
  [[nodiscard]] const Capabilities& capabilities() const override {
    static constexpr Capabilities kCapabilities{
        .same_host_only = false, .arena_only = false, .maps = false, .writes = true, .expected_gbps = 8};
    return kCapabilities;
  }
  [[nodiscard]] Exporter* exporter() const override { return engine_.get(); }

  [[nodiscard]] Status reaches(const PeerFacts& peer, const Region& region) const override {
    if (!region.device.is_host()) return {Code::kUnsupported, "the memory is not the host's"};
    return engine_->check(peer.same_host());
  }

  Result<std::unique_ptr<Endpoint>> connect(const PeerFacts& peer, const os::Wait& wait) const override {
    os::Fd pidfd;
    if (peer.same_host()) {
      BEELINE_ASSIGN(pidfd, os::open_pidfd(peer.pid));
    }
    BEELINE_ASSIGN(Bytes contact, peer.owner->contact(name(), wait));
    auto endpoint = std::make_unique<UcxEndpoint>(engine_, peer, std::move(contact), std::move(pidfd));
    BEELINE_RETURN_IF_ERROR(endpoint->open_first());
    return std::unique_ptr<Endpoint>(std::move(endpoint));
  }

 private:
  const std::shared_ptr<Engine> engine_;
};

}  // namespace

std::unique_ptr<Transport> make(const std::string& library) {
  return std::make_unique<UcxTransport>(library);
}

Result<std::string> describe(const std::string& library) {
  return Engine(library).describe();
}

}  // namespace beeline::transport::ucx
