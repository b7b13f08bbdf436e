// Apart from thread.cc, which the preload library has, too: that is built without exceptions.
#include <system_error>
#include <utility>

#include "beeline/os/thread.h"

namespace beeline::os {

Result<std::thread> try_start_thread(std::function<void()> body) {
  try {
    return start_thread(std::move(body));
  } catch (const std::system_error& error) {
    return Status::from_errno("start a thread", error.code().value());
  }
}

}  // namespace beeline::os
