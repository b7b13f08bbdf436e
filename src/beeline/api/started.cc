#include "beeline/api/started.h"

#include <chrono>
#include <mutex>
#include <utility>
#include <vector>

#include "beeline/api/impl.h"

namespace beeline::api {

struct Transfer::Impl {
  using Told = std::function<void(const Status& status)>;

  std::weak_ptr<transfer::Runner> runner;
  std::shared_ptr<transfer::Runner::Started> started;
  std::promise<Status> promise;
  std::shared_future<Status> future = promise.get_future().share();
  std::mutex mutex;
  std::vector<Told> told;  // needs mutex
  bool is_done = false;    // likewise

  void end(const Status& status) {
    promise.set_value(status);
    std::vector<Told> all;
    {
      const std::lock_guard locked(mutex);
      is_done = true;
      all.swap(told);
    }
    for (const Told& function : all) function(status);
  }
};

bool Transfer::is_done() const {
  return impl_->future.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

const std::shared_future<Status>& Transfer::future() const {
  return impl_->future;
}

void Transfer::cancel() const {
  if (const auto runner = impl_->runner.lock()) runner->cancel(impl_->started);
}

void Transfer::on_done(std::function<void(const Status& status)> function) const {
  {
    const std::lock_guard locked(impl_->mutex);
    if (!impl_->is_done) {
      impl_->told.push_back(std::move(function));
      return;
    }
  }
  function(impl_->future.get());
}

Result<Transfer> Access::start(const std::shared_ptr<transfer::Runner>& runner, const std::string& peer,
                               Deadline deadline, transfer::Runner::Work work) {
  auto impl = std::make_shared<Transfer::Impl>();
  impl->runner = runner;
  BEELINE_ASSIGN(impl->started,
                 runner->start(peer, deadline, std::move(work), [impl](const Status& status) { impl->end(status); }));
  return Transfer(std::move(impl));
}

}  // namespace beeline::api
