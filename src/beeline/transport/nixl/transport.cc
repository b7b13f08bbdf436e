#include "beeline/transport/nixl/transport.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "beeline/os/fd.h"
#include "beeline/os/process.h"
#include "beeline/os/remote_memory.h"
#include "beeline/transport/exposures.h"
#include "beeline/transport/nixl/engine.h"
#include "beeline/transport/nixl/library.h"
#include "beeline/transport/nixl/session.h"

namespace beeline::transport::nixl {
namespace {

using Reach = NixlOptions::Reach;

constexpr std::string_view kName = "nixl";
// Of one endpoint: as many as overlapping registrations of one peer need at a time. The one that was used longest ago
// makes room.
constexpr std::size_t kMaxSessions = 4;

class NixlExporter final : public Exporter {
 public:
  NixlExporter(Place place, Reach reach) : place_(std::move(place)), reach_(reach) {}

  Result<Bytes> contact() override {
    BEELINE_ASSIGN(Engine* const engine, open());
    BEELINE_ASSIGN(Bytes metadata, engine->connection());
    return pack(Contact{Contact::kFormat, place_.version, static_cast<std::uint8_t>(reach_), engine->name(),
                        std::move(metadata)});
  }

  Result<Bytes> key(memory::PublicationId id, const RegionSource::Held& held, Access access) override {
    if (!held.device.is_host()) return Status(Code::kUnsupported, "nixl serves the host's memory only");
    BEELINE_ASSIGN(Engine* const engine, open());
    return exposures_.key(id, held, access, [&](std::byte* data, std::uint64_t length) -> Result<Exposures::Exposed> {
      BEELINE_ASSIGN(Bytes metadata, engine->add(data, length));
      std::shared_ptr<void> added(
          data, [engine, length](void* memory) { engine->remove(static_cast<std::byte*>(memory), length); });
      return Exposures::Exposed{std::move(added),
                                pack(ExtentContact{reinterpret_cast<std::uintptr_t>(data), std::move(metadata)})};
    });
  }

  void withdraw(memory::PublicationId id) override { exposures_.withdraw(id); }

 private:
  Result<Engine*> open() {
    const std::lock_guard guard(mutex_);
    if (engine_ == nullptr) {
      BEELINE_ASSIGN(const capi::Functions* const functions, open_library(place_));
      BEELINE_ASSIGN(engine_, Engine::open(*functions, reach_, Engine::Role::kOwner));
    }
    return engine_.get();
  }

  const Place place_;
  const Reach reach_;
  std::mutex mutex_;
  std::unique_ptr<Engine> engine_;  // needs mutex_ until it is there
  Exposures exposures_;             // below the engine: ends before it does
};

class NixlEndpoint final : public Endpoint {
 public:
  NixlEndpoint(const capi::Functions& functions, Reach reach, const PeerFacts& peer, Contact contact, os::Fd pidfd,
               std::shared_ptr<Session> session)
      : functions_(functions),
        reach_(reach),
        peer_(peer),
        contact_(std::move(contact)),
        pidfd_(std::move(pidfd)),
        keys_(*peer.owner, kName),
        sessions_{std::move(session)} {}

  Status read(std::span<const Run> runs, const os::Wait& wait) override {
    return transfer(runs, Access::kRead, capi::kRead, wait);
  }
  Status write(std::span<const Run> runs, const os::Wait& wait) override {
    return transfer(runs, Access::kWrite, capi::kWrite, wait);
  }

 private:
  Status transfer(std::span<const Run> runs, Access access, capi::Operation operation, const os::Wait& wait) {
    if (bytes_of(runs) == 0) return Status::ok();
    const Region& region = *runs.front().region;
    // On one host the caller's lease ends with this call, what NIXL has under way may not.
    std::shared_ptr<const void> hold;
    if (peer_.same_host()) {
      BEELINE_ASSIGN(auto lease, peer_.arena->acquire(region.id, {}));
      hold = std::make_shared<memory::Lease>(std::move(lease));
    }
    std::vector<KeyedRun> pieces;
    std::vector<std::shared_ptr<const Keys::Extents>> kept;
    const auto open = [](const ExtentKey& extent) { return decode(extent); };
    BEELINE_RETURN_IF_ERROR(keys_.append_pieces(runs, access, open, wait, pieces, kept));
    BEELINE_ASSIGN(const auto session, session_for({region.id.slot, access}, kept.front()));
    std::vector<Strip> strips;
    strips.reserve(pieces.size());
    for (const auto& [run, extent] : pieces) {
      strips.push_back(
          {run.local, contact_of(*extent).address + run.offset, run.length, run.count, run.local_stride, run.stride});
    }
    Status status = session->transfer(operation, strips, wait, std::move(hold));
    // UCX goes by number as well: only a process that still runs is known to have been the one.
    if (pidfd_.is_open() && (os::has_ended(pidfd_) || (!status && os::is_ending(peer_.pid)))) {
      return {Code::kPeerLost, peer_.name + " (pid " + std::to_string(peer_.pid) + ") has ended"};
    }
    return status ? status : reason_of(std::move(status), region, wait);
  }

  static Result<std::shared_ptr<void>> decode(const ExtentKey& extent) {
    BEELINE_ASSIGN(auto contact, unpack<ExtentContact>(extent.key, "what NIXL reaches memory by"));
    if (contact.address > ~std::uint64_t{0} - extent.length) {
      return Status(Code::kCorrupt, "an extent that lies nowhere");
    }
    return std::shared_ptr<void>(std::make_shared<ExtentContact>(std::move(contact)));
  }
  static const ExtentContact& contact_of(const ExtentKey& extent) {
    return *static_cast<const ExtentContact*>(extent.opened.get());
  }

  // NIXL says that it failed; the owner can tell why it may have.
  Status reason_of(Status status, const Region& region, const os::Wait& wait) const {
    if (status.code() != Code::kSystem && status.code() != Code::kPeerLost) return status;
    Status known;
    if (!peer_.same_host()) known = peer_.owner->writes(region, wait).status();
    const bool is_stale = peer_.same_host() ? !peer_.arena->is_published(region.id) : known.code() == Code::kStale;
    if (is_stale) return {Code::kStale, "the registration was undone while NIXL was at it"};
    // The process is there: it is the path that is lost.
    return peer_.same_host() ? Status(Code::kSystem, status.message()) : status;
  }

  using PlaceOfKeys = std::pair<std::uint32_t, Access>;
  struct Placed {
    std::shared_ptr<const Keys::Extents> extents;
    std::shared_ptr<Session> session;
  };

  // A session that knows the extents; another one where they overlap what those that there are know of the peer: an
  // earlier registration, say.
  Result<std::shared_ptr<Session>> session_for(const PlaceOfKeys& place,
                                               const std::shared_ptr<const Keys::Extents>& extents) {
    const std::lock_guard guard(mutex_);
    Placed& placed = placed_[place];
    if (placed.extents == extents && !placed.session->is_broken()) return placed.session;
    std::vector<Extent> wanted;
    for (const ExtentKey& extent : *extents) {
      const ExtentContact& contact = contact_of(extent);
      wanted.push_back({contact.address, extent.length, contact.metadata});
    }
    std::erase_if(sessions_, [](const auto& session) { return session->is_broken(); });
    placed = {};
    for (auto it = sessions_.rbegin(); it != sessions_.rend() && placed.session == nullptr; ++it) {
      BEELINE_ASSIGN(const bool is_loaded, (*it)->load(wanted));
      if (is_loaded) placed.session = *it;
    }
    if (placed.session == nullptr) {
      BEELINE_ASSIGN(placed.session, Session::open(functions_, reach_, contact_));
      BEELINE_ASSIGN(const bool is_loaded, placed.session->load(wanted));
      if (!is_loaded) return Status(Code::kCorrupt, "extents that overlap in their owner");
    }
    placed.extents = extents;
    auto session = placed.session;
    std::erase(sessions_, session);
    sessions_.push_back(session);
    if (sessions_.size() > kMaxSessions) sessions_.erase(sessions_.begin());
    // Those that were let go of end with their last transfer.
    std::erase_if(placed_, [this](const auto& entry) {
      return std::ranges::find(sessions_, entry.second.session) == sessions_.end();
    });
    return session;
  }

  const capi::Functions& functions_;
  const Reach reach_;
  const PeerFacts peer_;
  const Contact contact_;
  const os::Fd pidfd_;  // on one host
  Keys keys_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<Session>> sessions_;  // needs mutex_; the one that was placed in last at the end
  std::map<PlaceOfKeys, Placed> placed_;            // needs mutex_
};

class NixlTransport final : public Transport {
 public:
  explicit NixlTransport(const NixlOptions& options)
      : reach_(options.reach),
        place_(find_library(options)),
        capabilities_{.same_host_only = reach_ == Reach::kHost,
                      .arena_only = false,
                      .maps = false,
                      .writes = true,
                      .expected_gbps = 5} {
    if (place_.usable) exporter_ = std::make_unique<NixlExporter>(place_, reach_);
  }

  [[nodiscard]] std::string_view name() const override { return kName; }
  [[nodiscard]] const Capabilities& capabilities() const override { return capabilities_; }
  [[nodiscard]] Exporter* exporter() const override { return exporter_.get(); }

  [[nodiscard]] Status reaches(const PeerFacts& /*peer*/, const Region& region) const override {
    BEELINE_RETURN_IF_ERROR(place_.usable);
    if (!region.device.is_host()) return {Code::kUnsupported, "the memory is not the host's"};
    return Status::ok();
  }

  Result<std::unique_ptr<Endpoint>> connect(const PeerFacts& peer, const os::Wait& wait) const override {
    BEELINE_ASSIGN(const capi::Functions* const functions, open_library(place_));
    BEELINE_ASSIGN(const Bytes answer, peer.owner->contact(kName, wait));
    BEELINE_ASSIGN(auto contact, unpack<Contact>(answer, "what NIXL finds an agent by"));
    if (contact.format != Contact::kFormat || !is_known_version(contact.version)) {
      return Status(Code::kUnsupported, peer.name + " has NIXL " + contact.version + ", this side " + place_.version +
                                            ": install one version on both");
    }
    if (!peer.same_host() && contact.reach == static_cast<std::uint8_t>(Reach::kHost)) {
      return Status(Code::kUnsupported,
                    peer.name + " lets NIXL reach its own host only: it is to be opened with nixl=\"rdma\" or \"any\"");
    }
    os::Fd pidfd;
    if (peer.same_host()) {
      BEELINE_ASSIGN(pidfd, os::open_pidfd(peer.pid));
      if (reach_ == Reach::kHost) BEELINE_RETURN_IF_ERROR(os::may_read_process(peer.pid));
    }
    BEELINE_ASSIGN(auto session, Session::open(*functions, reach_, contact));
    return std::unique_ptr<Endpoint>(std::make_unique<NixlEndpoint>(*functions, reach_, peer, std::move(contact),
                                                                    std::move(pidfd), std::move(session)));
  }

 private:
  const Reach reach_;
  const Place place_;
  const Capabilities capabilities_;
  std::unique_ptr<NixlExporter> exporter_;  // none where there is no NIXL
};

}  // namespace

std::unique_ptr<Transport> make(const NixlOptions& options) {
  return std::make_unique<NixlTransport>(options);
}

Result<std::string> check(const NixlOptions& options) {
  const Place place = find_library(options);
  BEELINE_ASSIGN(const capi::Functions* const functions, open_library(place));
  BEELINE_RETURN_IF_ERROR(Engine::open(*functions, options.reach, Engine::Role::kOwner).status());
  return (place.version.empty() ? "" : place.version + ", ") + place.library;
}

}  // namespace beeline::transport::nixl
