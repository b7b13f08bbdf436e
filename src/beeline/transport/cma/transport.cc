#include "beeline/transport/cma/transport.h"

#include <algorithm>
#include <array>

#include "beeline/os/process.h"
#include "beeline/os/remote_memory.h"

namespace beeline::transport::cma {
namespace {

// What one call of the kernel moves, between two looks at the deadline.
constexpr std::uint64_t kSlice = std::uint64_t{16} << 20;

// Cuts runs into calls of the kernel: at most kMaxIovecs pieces and kSlice bytes each.
class Slices {
 public:
  explicit Slices(std::span<const Run> runs) : runs_(runs) {}

  // The next call's pieces; false when all runs are done.
  bool next() {
    count_ = 0;
    bytes_ = 0;
    while (at_ < runs_.size() && count_ < local_.size() && bytes_ < kSlice) {
      const Run& run = runs_[at_];
      if (index_ == run.count || run.length == 0) {
        ++at_;
        index_ = 0;
        continue;
      }
      const std::uint64_t size = std::min(run.length - done_, kSlice - bytes_);
      const std::uint64_t remote = run.region->address + run.offset + index_ * run.stride + done_;
      local_[count_] = {run.local + index_ * run.local_stride + done_, size};
      remote_[count_] = {reinterpret_cast<void*>(remote), size};  // NOLINT: an address of the other process
      ++count_;
      bytes_ += size;
      done_ += size;
      if (done_ < run.length) continue;
      done_ = 0;
      ++index_;
    }
    return count_ > 0;
  }

  [[nodiscard]] std::span<const iovec> local() const { return {local_.data(), count_}; }
  [[nodiscard]] std::span<const iovec> remote() const { return {remote_.data(), count_}; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  std::span<const Run> runs_;
  std::size_t at_ = 0;       // run
  std::uint64_t index_ = 0;  // of its `count`
  std::uint64_t done_ = 0;   // bytes of that one
  std::array<iovec, os::kMaxIovecs> local_;
  std::array<iovec, os::kMaxIovecs> remote_;
  std::size_t count_ = 0;
  std::uint64_t bytes_ = 0;
};

class CmaEndpoint final : public Endpoint {
 public:
  CmaEndpoint(std::string name, pid_t pid, os::Fd pidfd)
      : name_(std::move(name)), pid_(pid), pidfd_(std::move(pidfd)) {}

  Status read(std::span<const Run> runs, const os::Wait& wait) override {
    return transfer(runs, wait, os::read_process);
  }
  Status write(std::span<const Run> runs, const os::Wait& wait) override {
    return transfer(runs, wait, os::write_process);
  }

 private:
  template <typename Call>
  Status transfer(std::span<const Run> runs, const os::Wait& wait, Call&& call) {
    Slices slices(runs);
    while (slices.next()) {
      BEELINE_ASSIGN(const std::size_t moved, call(pid_, slices.local(), slices.remote()));
      if (moved < slices.bytes()) {
        return {Code::kInvalidArgument, "only " + std::to_string(moved) + " of " + std::to_string(slices.bytes()) +
                                            " bytes are mapped in " + name_ + " (pid " + std::to_string(pid_) +
                                            "): it has unmapped registered memory"};
      }
      BEELINE_RETURN_IF_ERROR(wait.check());
    }
    // The kernel goes by number: only a process that still runs is known to have been the one.
    if (!os::has_ended(pidfd_)) return Status::ok();
    return {Code::kPeerLost, name_ + " (pid " + std::to_string(pid_) + ") has ended"};
  }

  std::string name_;
  pid_t pid_;
  os::Fd pidfd_;
};

class CmaTransport final : public Transport {
 public:
  [[nodiscard]] std::string_view name() const override { return "cma"; }
  [[nodiscard]] const Capabilities& capabilities() const override {
    static constexpr Capabilities kCapabilities{
        .same_host_only = true, .arena_only = false, .maps = false, .writes = true, .expected_gbps = 8};
    return kCapabilities;
  }

  [[nodiscard]] Status reaches(const PeerFacts& peer, const Region& region) const override {
    if (!peer.same_host()) return {Code::kUnsupported, "the peer is not on this host"};
    if (!region.device.is_host()) return {Code::kUnsupported, "the memory is not the host's"};
    return Status::ok();
  }

  Result<std::unique_ptr<Endpoint>> connect(const PeerFacts& peer, const os::Wait& /*wait*/) const override {
    BEELINE_ASSIGN(auto pidfd, os::open_pidfd(peer.pid));
    BEELINE_RETURN_IF_ERROR(os::may_read_process(peer.pid));
    return std::unique_ptr<Endpoint>(std::make_unique<CmaEndpoint>(peer.name, peer.pid, std::move(pidfd)));
  }
};

}  // namespace

std::unique_ptr<Transport> make() {
  return std::make_unique<CmaTransport>();
}

}  // namespace beeline::transport::cma
