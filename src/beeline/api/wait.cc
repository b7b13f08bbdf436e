#include "beeline/api/wait.h"

#include "beeline/api/impl.h"

namespace beeline::api {

Result<Cancellation> Cancellation::make() {
  BEELINE_ASSIGN(auto made, os::Cancellation::make());
  return Cancellation(std::make_shared<Impl>(Impl{std::move(made)}));
}

void Cancellation::cancel() const {
  impl_->cancellation->cancel();
}

bool Cancellation::is_cancelled() const {
  return impl_->cancellation->is_cancelled();
}

}  // namespace beeline::api
