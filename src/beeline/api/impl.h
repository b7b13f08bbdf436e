// What stands behind the public types. Not installed.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "beeline/api/agent.h"
#include "beeline/transfer/agent.h"
#include "beeline/transfer/batch.h"
#include "beeline/transfer/fetch.h"

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
  static Batch make_batch(std::unique_ptr<transfer::Batch> batch, std::vector<std::shared_ptr<void>> kept) {
    return Batch(std::make_unique<Batch::Impl>(Batch::Impl{std::move(batch), std::move(kept)}));
  }
  static Subscription make_subscription(std::shared_ptr<transfer::Subscription> subscription, bool relays) {
    return Subscription(std::make_shared<Subscription::Impl>(Subscription::Impl{std::move(subscription), relays}));
  }
  static Notifications make_notifications(std::shared_ptr<transfer::Notifications> notifications) {
    return Notifications(std::make_shared<Notifications::Impl>(Notifications::Impl{std::move(notifications)}));
  }
  static const transfer::RemoteTensor& remote_of(const TensorRef& ref) { return ref.impl_->remote; }
  static const transfer::Descriptor& descriptor_of(const TensorRefs& refs) { return *refs.impl_->descriptor; }
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
inline os::Wait to_core(const Wait& wait) {
  os::Wait out(wait.timeout ? Deadline::after(*wait.timeout) : Deadline::never());
  out.cancellation = Access::cancellation_of(wait.cancellation);
  return out;
}
inline transfer::Requirement to_core(const Requirement& requirement) {
  return {requirement.path, requirement.min_gbps};
}

}  // namespace beeline::api
