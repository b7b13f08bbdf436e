// Transfers that were started.
#pragma once

#include <functional>
#include <future>
#include <memory>

#include "beeline/base/export.h"
#include "beeline/base/status.h"

namespace beeline::api {

struct Access;

// One that goes on by itself, see Agent::fetch_async(). Copies are the same one; it goes on without any. Thread-safe.
class BEELINE_API Transfer {
 public:
  // Whether it has ended, in whatever way: nothing of it is written later.
  [[nodiscard]] bool is_done() const;
  // Waits until it has ended, within its own timeout; what the call would have returned.
  [[nodiscard]] Status result() const { return future().get(); }
  // The same for who waits in another way.
  [[nodiscard]] const std::shared_future<Status>& future() const;
  // Ends it soon, with kCancelled unless it had ended before. Returns at once; once it is done, nothing of it is
  // written later.
  void cancel() const;
  // Calls `function` once it has ended: on a thread of the agent, or here and now. Before result() returns, it may not
  // have been called.
  void on_done(std::function<void(const Status& status)> function) const;

 private:
  friend struct Access;
  struct Impl;
  explicit Transfer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;
};

}  // namespace beeline::api
