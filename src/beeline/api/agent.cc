#include "beeline/api/agent.h"

#include <algorithm>
#include <utility>

#include "beeline/api/copies.h"
#include "beeline/api/impl.h"
#include "beeline/transfer/registered.h"
#include "beeline/transfer/runner.h"
#include "beeline/transfer/writing.h"

namespace beeline::api {

Batch::Batch(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Batch::Batch(Batch&&) noexcept = default;
Batch& Batch::operator=(Batch&&) noexcept = default;
Batch::~Batch() = default;

Status Batch::run(const Wait& wait) {
  Status status = impl_->batch->run(to_core(wait));
  if (status) return status;
  return std::move(status).with_context("while fetching a batch of " + std::to_string(impl_->tensors) + " tensors, " +
                                        std::to_string(bytes()) + " bytes");
}

std::size_t Batch::bytes() const {
  return impl_->batch->bytes();
}

std::optional<Version> Subscription::latest() const {
  auto& own = *impl_->subscription;
  auto version = impl_->relays ? own.nearest_latest() : own.latest();
  if (version.number == 0) return std::nullopt;
  return Version{version.number, Access::make_refs(std::move(version.tensors), std::move(version.copy))};
}

Result<Version> Subscription::newer_than(std::uint64_t number, const Wait& wait) const {
  auto& own = *impl_->subscription;
  const os::Wait until = to_core(wait);
  BEELINE_ASSIGN(auto version, impl_->relays ? own.nearest_newer_than(number, until) : own.newer_than(number, until));
  return Version{version.number, Access::make_refs(std::move(version.tensors), std::move(version.copy))};
}

namespace {

Notification from_core(transfer::Notification notification) {
  return {std::move(notification.sender_id), std::move(notification.sender), std::move(notification.payload)};
}

}  // namespace

Result<Notification> Notifications::next(const Wait& wait) const {
  BEELINE_ASSIGN(auto first, impl_->notifications->next(to_core(wait)));
  return from_core(std::move(first));
}

std::optional<Notification> Notifications::poll() const {
  auto first = impl_->notifications->poll();
  if (!first) return std::nullopt;
  return from_core(std::move(*first));
}

Notifications::Stats Notifications::stats() const {
  const auto [waiting, refused, dropped] = impl_->notifications->stats();
  return {waiting, refused, dropped};
}

namespace {

using Copies = std::vector<transfer::Copy>;
using Operation = Status (*)(transfer::Peer& peer, std::span<const transfer::Copy> copies,
                             const transfer::Requirement& requirement, const os::Wait& wait);

Status move(transfer::Agent& agent, Operation operation, const char* doing, const Copies& copies,
            const Requirement& requirement, const os::Wait& wait) {
  if (copies.empty()) return Status::ok();
  BEELINE_ASSIGN(const auto peer, agent.peer(copies.front().remote->descriptor->owner, wait));
  Status status = operation(*peer, copies, to_core(requirement), wait);
  if (status) return status;
  return std::move(status).with_context(std::string("while ") + doing + " " + transfer::text_of(copies) + ", agent \"" +
                                        peer->address().name + "\"");
}

Status refuse_verifying(const Requirement& requirement, const char* what) {
  if (!requirement.verify) return Status::ok();
  return {Code::kInvalidArgument, std::string(what) + " is not verified: that is for fetches; nothing was written"};
}

}  // namespace

struct Agent::Impl {
  std::shared_ptr<transfer::Agent> agent;
  std::string address;
  const std::shared_ptr<transfer::Runner> runner = transfer::Runner::make();

  Impl(std::shared_ptr<transfer::Agent> own, std::string at) : agent(std::move(own)), address(std::move(at)) {}
  ~Impl() { runner->close(); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  Result<Transfer> start(Operation operation, const char* doing, std::span<const TensorRef> refs, Copies copies,
                         std::vector<std::shared_ptr<void>> kept, const Requirement& requirement,
                         Timeout timeout) const {
    const std::string peer = refs.empty() ? std::string() : refs.front().owner();
    auto work = [agent = agent, operation, doing, requirement, copies = std::move(copies), kept = std::move(kept),
                 referred = std::vector<TensorRef>(refs.begin(), refs.end())](const os::Wait& wait) {
      return move(*agent, operation, doing, copies, requirement, wait);
    };
    return Access::start(runner, peer, deadline_of(timeout), std::move(work));
  }

  Result<Batch> prepare(Copies copies, std::vector<std::shared_ptr<void>> kept, const Requirement& requirement,
                        const Wait& wait) const {
    if (copies.empty()) return Status(Code::kInvalidArgument, "a batch of no tensors");
    BEELINE_RETURN_IF_ERROR(refuse_verifying(requirement, "a batch"));
    const os::Wait until = to_core(wait);
    BEELINE_ASSIGN(auto peer, agent->peer(copies.front().remote->descriptor->owner, until));
    BEELINE_ASSIGN(auto batch, transfer::Batch::prepare(std::move(peer), copies, to_core(requirement), until));
    return Access::make_batch(std::move(batch), copies.size(), std::move(kept));
  }
};

Agent::Agent(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Agent::Agent(Agent&&) noexcept = default;
Agent& Agent::operator=(Agent&&) noexcept = default;
Agent::~Agent() = default;

Result<Agent> Agent::open(const Options& options) {
  transfer::Agent::Options core;
  core.name = options.name;
  core.folder = options.folder;
  core.share_memory = options.share_memory;
  core.advertise = options.advertise;
  core.token = options.token;
  core.warn = options.warn;
  core.plugins = options.plugins;
  core.nixl.reach = to_core(options.nixl);
  for (const Fault& fault : options.faults) core.faults.push_back(to_core(fault));
  if (options.tls) core.tls = os::TlsOptions{options.tls->certificate, options.tls->key, options.tls->ca};
  if (!options.tcp.empty()) {
    BEELINE_ASSIGN(core.tcp, os::TcpAddress::parse(options.tcp));
  }
  if (options.quota_bytes > 0) {
    BEELINE_ASSIGN(core.arena, memory::Arena::open_with_quota(options.quota_bytes));
  }
  BEELINE_ASSIGN(auto agent, transfer::Agent::open(std::move(core)));
  std::string address = agent->address().text();
  return Agent(std::make_unique<Impl>(std::move(agent), std::move(address)));
}

const std::string& Agent::address() const {
  return impl_->address;
}

Result<Tensor> Agent::empty(std::vector<std::int64_t> shape, DType dtype) const {
  const transfer::TensorSpec spec{to_core(dtype), shape, {}};
  BEELINE_RETURN_IF_ERROR(transfer::check(spec));
  const auto& arena = impl_->agent->arena();
  BEELINE_ASSIGN(std::byte* const data, arena->allocate(std::max<std::size_t>(spec.bytes(), 1)));
  std::shared_ptr<void> memory(data, [arena](void* held) { arena->release(static_cast<std::byte*>(held)); });
  return Tensor{data, dtype, std::move(shape), {}, std::move(memory)};
}

Result<TensorRefs> Agent::register_tensors(std::span<const Tensor> tensors, RegisterOptions options) const {
  BEELINE_ASSIGN(auto sources, Sources::of(tensors));
  auto kept = std::make_shared<std::vector<std::shared_ptr<void>>>();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (!transfer::is_pinned(*impl_->agent->arena(), sources.all[i])) kept->push_back(tensors[i].memory);
  }
  BEELINE_ASSIGN(auto registered,
                 transfer::register_tensors(*impl_->agent->regions(), impl_->address, std::move(sources.schema),
                                            sources.all, std::move(options.names), std::move(kept), options.checksum));
  return Access::make_refs(std::move(registered.tensors), std::move(registered.registration));
}

Result<Writing> Agent::writing(const TensorRefs& refs, const Wait& wait) const {
  BEELINE_ASSIGN(auto until_it_ends, transfer::begin_write(*impl_->agent, Access::descriptor_of(refs),
                                                           Access::registration_of(refs), to_core(wait)));
  return Access::make_writing(std::move(until_it_ends));
}

Status Agent::grant(const TensorRefs& refs, const std::string& to) const {
  BEELINE_ASSIGN(const auto address, transfer::Address::parse(to));
  for (const auto& region : Access::descriptor_of(refs).regions) {
    BEELINE_RETURN_IF_ERROR(impl_->agent->regions()->grant(region.id, address.id));
  }
  return Status::ok();
}

Status Agent::connect(const std::string& address, const Wait& wait) const {
  return impl_->agent->peer(address, to_core(wait)).status();
}

Status Agent::fetch(std::span<const TensorRef> refs, std::span<const Tensor> targets, const Requirement& requirement,
                    const Wait& wait) const {
  BEELINE_ASSIGN(const auto copies, copies_into(refs, targets));
  return move(*impl_->agent, transfer::fetch, "fetching", copies, requirement, to_core(wait));
}

Status Agent::fetch(std::span<const TensorRef> refs, std::span<const Target> targets, const Requirement& requirement,
                    const Wait& wait) const {
  BEELINE_ASSIGN(const auto copies, copies_into(refs, targets));
  return move(*impl_->agent, transfer::fetch, "fetching", copies, requirement, to_core(wait));
}

Status Agent::push(std::span<const TensorRef> refs, std::span<const Tensor> sources, const Requirement& requirement,
                   const Wait& wait) const {
  BEELINE_RETURN_IF_ERROR(refuse_verifying(requirement, "a push"));
  BEELINE_ASSIGN(const auto copies, copies_from(refs, sources));
  return move(*impl_->agent, transfer::push, "pushing", copies, requirement, to_core(wait));
}

Result<Transfer> Agent::fetch_async(std::span<const TensorRef> refs, std::span<const Tensor> targets,
                                    const Requirement& requirement, Timeout timeout) const {
  BEELINE_ASSIGN(auto copies, copies_into(refs, targets));
  return impl_->start(transfer::fetch, "fetching", refs, std::move(copies), memory_of(targets), requirement, timeout);
}

Result<Transfer> Agent::fetch_async(std::span<const TensorRef> refs, std::span<const Target> targets,
                                    const Requirement& requirement, Timeout timeout) const {
  BEELINE_ASSIGN(auto copies, copies_into(refs, targets));
  return impl_->start(transfer::fetch, "fetching", refs, std::move(copies), memory_of(targets), requirement, timeout);
}

Result<Transfer> Agent::push_async(std::span<const TensorRef> refs, std::span<const Tensor> sources,
                                   const Requirement& requirement, Timeout timeout) const {
  BEELINE_RETURN_IF_ERROR(refuse_verifying(requirement, "a push"));
  BEELINE_ASSIGN(auto copies, copies_from(refs, sources));
  return impl_->start(transfer::push, "pushing", refs, std::move(copies), memory_of(sources), requirement, timeout);
}

Status Agent::notify(const std::string& address, const std::string& topic, std::span<const std::byte> payload,
                     const Wait& wait) const {
  const os::Wait until = to_core(wait);
  BEELINE_ASSIGN(const auto peer, impl_->agent->peer(address, until));
  return peer->notify(topic, payload, until).with_context("while notifying agent \"" + peer->address().name + "\"");
}

Result<Notifications> Agent::notifications(const std::string& topic, std::size_t limit,
                                           Notifications::WhenFull when_full) const {
  using WhenFull = transfer::Notifications::WhenFull;
  const bool drops_oldest = when_full == Notifications::WhenFull::kDropOldest;
  BEELINE_ASSIGN(auto taken,
                 impl_->agent->notifications(topic, limit, drops_oldest ? WhenFull::kDropOldest : WhenFull::kRefuse));
  return Access::make_notifications(std::move(taken));
}

Result<Batch> Agent::prepare(std::span<const TensorRef> refs, std::span<const Tensor> targets,
                             const Requirement& requirement, const Wait& wait) const {
  BEELINE_ASSIGN(auto copies, copies_into(refs, targets));
  return impl_->prepare(std::move(copies), memory_of(targets), requirement, wait);
}

Result<Batch> Agent::prepare(std::span<const TensorRef> refs, std::span<const Target> targets,
                             const Requirement& requirement, const Wait& wait) const {
  BEELINE_ASSIGN(auto copies, copies_into(refs, targets));
  return impl_->prepare(std::move(copies), memory_of(targets), requirement, wait);
}

namespace {

// The tensor over the owner's memory, its bytes [offset, offset + length) of a region brought near by `bring`.
template <typename Bring>
Result<Tensor> near(transfer::Agent& agent, const TensorRef& ref, const Wait& wait, Bring&& bring) {
  const transfer::RemoteTensor& remote = Access::remote_of(ref);
  Tensor out{nullptr, ref.dtype(), remote.spec.shape, remote.spec.strides, nullptr};
  if (remote.spec.elements() == 0) return out;
  if (!remote.home().device.is_host()) {
    return Status(Code::kUnsupported, "a tensor of the C++ API is the host's memory: fetch() copies it there");
  }
  BEELINE_ASSIGN(const auto peer, agent.peer(ref.owner(), to_core(wait)));
  const auto extent = transfer::extent_of(remote.spec);
  auto mapped = bring(*peer, remote.home(), remote.offset + static_cast<std::uint64_t>(extent.first),
                      static_cast<std::uint64_t>(extent.end - extent.first));
  if (!mapped) {
    return mapped.status().with_context("while mapping " + transfer::text_of(remote.spec) + " of agent \"" +
                                        peer->address().name + "\"");
  }
  out.data = mapped->data - extent.first;
  out.memory = std::move(mapped->lease);
  return out;
}

}  // namespace

Result<Tensor> Agent::map(const TensorRef& ref, const Wait& wait) const {
  const auto bring = [](transfer::Peer& peer, const auto&... range) { return peer.map(range...); };
  return near(*impl_->agent, ref, wait, bring);
}

Result<Tensor> Agent::view(const TensorRef& ref, const Wait& wait) const {
  const auto bring = [](transfer::Peer& peer, const auto&... range) { return peer.view(range...); };
  return near(*impl_->agent, ref, wait, bring);
}

Result<Explanation> Agent::explain(const TensorRef& ref, const Requirement& requirement, const Wait& wait) const {
  BEELINE_ASSIGN(const auto peer, impl_->agent->peer(ref.owner(), to_core(wait)));
  auto explained = peer->explain(Access::remote_of(ref).home(), ref.bytes(), to_core(requirement));
  Explanation out{{}, std::move(explained.chosen), explained.failovers};
  for (auto& candidate : explained.candidates) {
    out.candidates.push_back(
        {std::move(candidate.path), candidate.usable, std::move(candidate.reason), candidate.gbps, candidate.measured});
  }
  return out;
}

Result<std::uint64_t> Agent::publish(const std::string& name, std::span<const Tensor> tensors,
                                     PublishOptions options) const {
  BEELINE_ASSIGN(const auto sources, Sources::of(tensors));
  BEELINE_RETURN_IF_ERROR(transfer::check_names(options.names, tensors.size()));
  const auto& agent = *impl_->agent;
  BEELINE_ASSIGN(auto snapshot, transfer::take_snapshot(*agent.arena(), *agent.regions(), impl_->address, sources.all,
                                                        std::move(options.names), options.checksum));
  return impl_->agent->publish(name, options.number, std::move(snapshot), options.keep, options.fan_out);
}

void Agent::withdraw(const std::string& name) const {
  impl_->agent->withdraw(name);
}

Result<Subscription> Agent::subscribe(const std::string& address, const std::string& name,
                                      const SubscribeOptions& options, const Wait& wait) const {
  BEELINE_ASSIGN(auto subscription, impl_->agent->subscribe(address, name, to_core(wait), options.relay));
  return Access::make_subscription(std::move(subscription), options.relay);
}

Agent::Stats Agent::stats() const {
  const auto agents = impl_->agent->stats();
  const auto regions = impl_->agent->regions()->stats();
  return {agents.peers,   agents.visitors,     agents.refused,        agents.faults,  agents.relays,  agents.reparented,
          agents.overdue, agents.parents_lost, regions.registrations, regions.reused, regions.waiting};
}

}  // namespace beeline::api
