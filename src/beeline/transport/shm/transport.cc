#include "beeline/transport/shm/transport.h"

#include <algorithm>

#include "beeline/memory/copy.h"

namespace beeline::transport::shm {
namespace {

// Between two looks at the deadline: some milliseconds of copying.
constexpr std::uint64_t kSlice = std::uint64_t{64} << 20;

class ShmEndpoint final : public Endpoint {
 public:
  ShmEndpoint(std::shared_ptr<memory::PeerArena> arena, const std::byte* view)
      : arena_(std::move(arena)), view_(view) {}

  Status read(std::span<const Run> runs, const os::Wait& wait) override {
    std::uint64_t since_check = 0;
    for (const Run& run : runs) {
      const std::byte* from = view(*run.region) + run.offset;
      std::byte* to = run.local;
      for (std::uint64_t i = 0; i < run.count; ++i, from += run.stride, to += run.local_stride) {
        for (std::uint64_t at = 0; at < run.length; at += kSlice) {
          const std::uint64_t size = std::min(kSlice, run.length - at);
          memory::copy_bytes(to + at, from + at, size);
          since_check += size;
          if (since_check < kSlice) continue;
          since_check = 0;
          BEELINE_RETURN_IF_ERROR(wait.check());
        }
      }
    }
    return Status::ok();
  }

  [[nodiscard]] const std::byte* view(const Region& region) const override { return view_ + region.arena_offset; }

  // The reader's descriptor of the arena is open for reading only.
  Status write(std::span<const Run> /*runs*/, const os::Wait& /*wait*/) override {
    return {Code::kUnsupported, "shm maps a peer's memory for reading only"};
  }

 private:
  std::shared_ptr<memory::PeerArena> arena_;
  const std::byte* view_;
};

class ShmTransport final : public Transport {
 public:
  [[nodiscard]] std::string_view name() const override { return "shm"; }
  [[nodiscard]] const Capabilities& capabilities() const override {
    static constexpr Capabilities kCapabilities{
        .same_host_only = true, .arena_only = true, .maps = true, .writes = false, .expected_gbps = 10};
    return kCapabilities;
  }

  [[nodiscard]] Status reaches(const PeerFacts& peer, const Region& region) const override {
    if (!peer.same_host()) return {Code::kUnsupported, "the peer is not on this host"};
    if (!region.device.is_host()) return {Code::kUnsupported, "the memory is not the host's"};
    return check_in_arena(peer, region);
  }

  Result<std::unique_ptr<Endpoint>> connect(const PeerFacts& peer, const os::Wait& /*wait*/) const override {
    BEELINE_ASSIGN(const std::byte* view, peer.arena->view());
    return std::unique_ptr<Endpoint>(std::make_unique<ShmEndpoint>(peer.arena, view));
  }
};

}  // namespace

std::unique_ptr<Transport> make() {
  return std::make_unique<ShmTransport>();
}

}  // namespace beeline::transport::shm
