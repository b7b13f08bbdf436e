// What stands behind the public types. Not installed.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "beeline/api/agent.h"
#include "beeline/transfer/agent.h"
#include "beeline/transfer/batch.h"
#include "beeline/transfer/fetch.h"
#include "beeline/transfer/runner.h"

namespace beeline::api {

struct TensorRef::Impl {
  transfer::RemoteTensor remote;
  std::shared_ptr<transfer::Registration> registration;  // if it is this process's own
};

struct TensorRefs::Impl {
  std::shared_ptr<const transfer::Descriptor> descriptor;
  std::shared_ptr<transfer::Registration> registration;  // likewise
};

struct Cancellation::Impl {
  std::shared_ptr<os::Cancellation> cancellation;
};

struct Batch::Impl {
  std::unique_ptr<transfer::Batch> batch;
  std::size_t tensors = 0;
  std::vector<std::shared_ptr<void>> kept;  // memory of the targets
};

struct Subscription::Impl {
  std::shared_ptr<transfer::Subscription> subscription;
  bool relays = false;
};

struct Notifications::Impl {
  std::shared_ptr<transfer::Notifications> notifications;
};

struct Access {
  static TensorRef make_ref(transfer::RemoteTensor remote, std::shared_ptr<transfer::Registration> registration) {
    return TensorRef(
        std::make_shared<const TensorRef::Impl>(TensorRef::Impl{std::move(remote), std::move(registration)}));
  }
  static TensorRefs make_refs(std::shared_ptr<const transfer::Descriptor> descriptor,
                              std::shared_ptr<transfer::Registration> registration) {
    return TensorRefs(
        std::make_shared<const TensorRefs::Impl>(TensorRefs::Impl{std::move(descriptor), std::move(registration)}));
  }
  static Batch make_batch(std::unique_ptr<transfer::Batch> batch, std::size_t tensors,
                          std::vector<std::shared_ptr<void>> kept) {
    return Batch(std::make_unique<Batch::Impl>(Batch::Impl{std::move(batch), tensors, std::move(kept)}));
  }
  static Subscription make_subscription(std::shared_ptr<transfer::Subscription> subscription, bool relays) {
    return Subscription(std::make_shared<Subscription::Impl>(Subscription::Impl{std::move(subscription), relays}));
  }
  static Notifications make_notifications(std::shared_ptr<transfer::Notifications> notifications) {
    return Notifications(std::make_shared<Notifications::Impl>(Notifications::Impl{std::move(notifications)}));
  }
  // See Runner::start().
  static Result<Transfer> start(const std::shared_ptr<transfer::Runner>& runner, const std::string& peer,
                                Deadline deadline, transfer::Runner::Work work);
  static const transfer::RemoteTensor& remote_of(const TensorRef& ref) { return ref.impl_->remote; }
  static const transfer::Descriptor& descriptor_of(const TensorRefs& refs) { return *refs.impl_->descriptor; }
  static const std::shared_ptr<transfer::Registration>& registration_of(const TensorRefs& refs) {
    return refs.impl_->registration;
  }
  static Writing make_writing(std::shared_ptr<void> until_it_ends) { return Writing(std::move(until_it_ends)); }
  static const os::Cancellation* cancellation_of(const Cancellation* cancellation) {
    return cancellation != nullptr ? cancellation->impl_->cancellation.get() : nullptr;
  }
};

inline transfer::DType to_core(const DType& dtype) {
  return {dtype.code, dtype.bits, dtype.lanes};
}
inline DType from_core(const transfer::DType& dtype) {
  return {dtype.code, dtype.bits, dtype.lanes};
}
inline Deadline deadline_of(Timeout timeout) {
  return timeout ? Deadline::after(*timeout) : Deadline::never();
}
inline os::Wait to_core(const Wait& wait) {
  os::Wait out(deadline_of(wait.timeout));
  out.cancellation = Access::cancellation_of(wait.cancellation);
  return out;
}
inline transfer::Requirement to_core(const Requirement& requirement) {
  return {requirement.path, requirement.min_gbps, requirement.verify};
}
inline transport::NixlOptions::Reach to_core(NixlReach reach) {
  using Reach = transport::NixlOptions::Reach;
  return reach == NixlReach::kAny ? Reach::kAny : reach == NixlReach::kRdma ? Reach::kRdma : Reach::kHost;
}
inline transport::Fault to_core(const Fault& fault) {
  using Core = transport::Fault;
  static_assert(static_cast<int>(Core::Kind::kReorder) == static_cast<int>(Fault::Kind::kReorder));
  static_assert(static_cast<int>(Core::At::kWrite) == static_cast<int>(Fault::At::kWrite));
  Core out;
  out.path = fault.path;
  out.kind = static_cast<Core::Kind>(fault.kind);
  out.at = static_cast<Core::At>(fault.at);
  out.after_bytes = fault.after_bytes;
  out.delay = fault.delay;
  out.times = fault.times;
  return out;
}

}  // namespace beeline::api
