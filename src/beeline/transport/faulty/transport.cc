#include "beeline/transport/faulty/transport.h"

#include <algorithm>
#include <thread>
#include <utility>

namespace beeline::transport::faulty {
namespace {

using Runs = std::vector<Run>;

// Each piece of each run on its own.
Runs flat(std::span<const Run> runs) {
  Runs pieces;
  for (const Run& run : runs) {
    for (std::uint64_t i = 0; i < run.count; ++i) {
      Run& piece = pieces.emplace_back(run);
      piece.offset += i * run.stride;
      piece.local += i * run.local_stride;
      piece.count = 1;
    }
  }
  return pieces;
}

// The first `bytes` of the pieces, and the rest.
std::pair<Runs, Runs> split(const Runs& pieces, std::uint64_t bytes) {
  std::pair<Runs, Runs> parts;
  for (Run piece : pieces) {
    const std::uint64_t size = std::min(piece.length, bytes);
    bytes -= size;
    Run rest = piece;
    rest.offset += size;
    rest.local += size;
    rest.length -= size;
    piece.length = size;
    if (size > 0) parts.first.push_back(piece);
    if (rest.length > 0) parts.second.push_back(rest);
  }
  return parts;
}

Status sleep_for(Nanos delay, const os::Wait& wait) {
  for (const Deadline until = Deadline::after(delay); !until.passed();) {
    BEELINE_RETURN_IF_ERROR(wait.check().with_context("in a delay made on purpose"));
    if (wait.is_interrupted()) return {Code::kInterrupted, "a signal ended a delay made on purpose"};
    std::this_thread::sleep_for(std::min<Nanos>(until.left(), std::chrono::milliseconds(1)));
  }
  return Status::ok();
}

Status broken() {
  return {Code::kSystem, "a fault made on purpose"};
}

// The first that applies and is not used up; counts it.
const Fault* next(const std::vector<Fault>& faults, Fault::At at, std::uint64_t bytes) {
  for (const Fault& fault : faults) {
    if (fault.at != at || (at != Fault::At::kConnect && bytes <= fault.after_bytes)) continue;
    // Relaxed: a count on its own.
    const std::uint64_t before = fault.made->fetch_add(1, std::memory_order_relaxed);
    if (fault.times == 0 || before < fault.times) return &fault;
    fault.made->fetch_sub(1, std::memory_order_relaxed);
  }
  return nullptr;
}

class FaultyEndpoint final : public Endpoint {
 public:
  FaultyEndpoint(std::unique_ptr<Endpoint> inner, const std::vector<Fault>& faults)
      : inner_(std::move(inner)), faults_(faults) {}

  Status read(std::span<const Run> runs, const os::Wait& wait) override {
    return transfer(runs, wait, Fault::At::kRead, &Endpoint::read);
  }
  Status write(std::span<const Run> runs, const os::Wait& wait) override {
    return transfer(runs, wait, Fault::At::kWrite, &Endpoint::write);
  }
  Result<MappedBytes> map(const Region& region, std::uint64_t offset, std::uint64_t length,
                          const os::Wait& wait) override {
    return inner_->map(region, offset, length, wait);
  }
  Status quiet(const os::Wait& wait) override { return inner_->quiet(wait); }
  Result<Device> here(const Device& theirs, const os::Wait& wait) override { return inner_->here(theirs, wait); }

 private:
  using Move = Status (Endpoint::*)(std::span<const Run>, const os::Wait&);

  Status transfer(std::span<const Run> runs, const os::Wait& wait, Fault::At at, Move move) {
    const Fault* const fault = next(faults_, at, bytes_of(runs));
    if (fault == nullptr) return (inner_.get()->*move)(runs, wait);
    const auto [first, rest] = split(flat(runs), fault->after_bytes);
    const auto one_byte = split(rest, 1);
    const auto then = [&](const Runs& more) { return more.empty() ? Status::ok() : (inner_.get()->*move)(more, wait); };
    if (fault->kind == Fault::Kind::kReorder) {
      BEELINE_RETURN_IF_ERROR(then(rest));
      return then(first);
    }
    BEELINE_RETURN_IF_ERROR(then(first));
    switch (fault->kind) {
      case Fault::Kind::kDelay:
        BEELINE_RETURN_IF_ERROR(sleep_for(fault->delay, wait));
        return then(rest);
      case Fault::Kind::kStall:
        return sleep_for(Nanos::max(), wait);
      case Fault::Kind::kFail:
        return broken();
      case Fault::Kind::kTruncate:
        return Status::ok();
      case Fault::Kind::kDrop:
        return then(one_byte.second);
      default:
        BEELINE_RETURN_IF_ERROR(then(rest));
        return corrupt(one_byte.first.front(), at, then);
    }
  }

  // Changes what arrived.
  template <typename Then>
  Status corrupt(Run byte, Fault::At at, Then&& then) {
    if (!byte.local_device.is_host()) {
      return {Code::kUnsupported, "bytes are corrupted on purpose in the host's memory only"};
    }
    if (at == Fault::At::kRead) {
      *byte.local ^= std::byte{1};
      return Status::ok();
    }
    std::byte changed = *byte.local ^ std::byte{1};
    byte.local = &changed;
    return then({byte});
  }

  const std::unique_ptr<Endpoint> inner_;
  const std::vector<Fault> faults_;
};

class FaultyTransport final : public Transport {
 public:
  FaultyTransport(std::unique_ptr<const Transport> inner, std::vector<Fault> faults)
      : inner_(std::move(inner)), faults_(std::move(faults)) {}

  [[nodiscard]] std::string_view name() const override { return inner_->name(); }
  [[nodiscard]] const Capabilities& capabilities() const override { return inner_->capabilities(); }
  [[nodiscard]] Status reaches(const PeerFacts& peer, const Region& region) const override {
    return inner_->reaches(peer, region);
  }
  [[nodiscard]] Exporter* exporter() const override { return inner_->exporter(); }
  [[nodiscard]] Status settle(const Device& device, std::uintptr_t stream, const os::Wait& wait) const override {
    return inner_->settle(device, stream, wait);
  }
  [[nodiscard]] std::uint64_t copies_through_host() const override { return inner_->copies_through_host(); }

  Result<std::unique_ptr<Endpoint>> connect(const PeerFacts& peer, const os::Wait& wait) const override {
    if (const Fault* const fault = next(faults_, Fault::At::kConnect, 0)) {
      if (fault->kind == Fault::Kind::kDelay) BEELINE_RETURN_IF_ERROR(sleep_for(fault->delay, wait));
      if (fault->kind == Fault::Kind::kStall) return sleep_for(Nanos::max(), wait);
      if (fault->kind != Fault::Kind::kDelay) return broken();
    }
    BEELINE_ASSIGN(auto endpoint, inner_->connect(peer, wait));
    return std::unique_ptr<Endpoint>(std::make_unique<FaultyEndpoint>(std::move(endpoint), faults_));
  }

 private:
  const std::unique_ptr<const Transport> inner_;
  const std::vector<Fault> faults_;
};

}  // namespace

std::unique_ptr<Transport> make(std::unique_ptr<const Transport> inner, std::vector<Fault> faults) {
  return std::make_unique<FaultyTransport>(std::move(inner), std::move(faults));
}

}  // namespace beeline::transport::faulty
