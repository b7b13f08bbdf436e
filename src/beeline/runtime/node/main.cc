// beelined: started by a driver (runtime/launch.cc), which is connected by descriptor 3 and has locked the session
// directory through descriptor 4.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>

#include "beeline/runtime/node/daemon.h"

namespace {

using beeline::Deadline;
using beeline::Result;
using beeline::Status;
using beeline::os::Fd;
using beeline::os::FrameSocket;
using beeline::runtime::LaunchOptions;

constexpr int kDriverFd = 3;
constexpr int kLockFd = 4;

Result<LaunchOptions> read_options(FrameSocket& driver) {
  beeline::os::Frame frame;
  BEELINE_RETURN_IF_ERROR(driver.receive_within(frame, Deadline::after(std::chrono::seconds(10))));
  try {
    const auto handle = msgpack::unpack(reinterpret_cast<const char*>(frame.bytes.data()), frame.bytes.size());
    return handle.get().as<LaunchOptions>();
  } catch (const std::exception& error) {
    return Status(beeline::Code::kCorrupt, std::string("the options do not decode: ") + error.what());
  }
}

Status run() {
  // Descriptors that the driver had open and did not mark are not ours to keep.
  ::close_range(kLockFd + 1, ~0u, 0);
  for (const int fd : {kDriverFd, kLockFd}) {
    if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
      return {beeline::Code::kInvalidArgument, "beelined is started by beeline.init(), not by hand"};
    }
  }
  for (const int signal : {SIGINT, SIGHUP, SIGPIPE, SIGQUIT}) ::signal(signal, SIG_IGN);
  FrameSocket driver{Fd(kDriverFd)};
  Fd lock(kLockFd);
  BEELINE_ASSIGN(auto options, read_options(driver));
  BEELINE_ASSIGN(auto daemon,
                 beeline::runtime::node::Daemon::make(std::move(options), std::move(driver), std::move(lock)));
  return daemon->run();
}

}  // namespace

int main() {
  const auto status = run();
  if (status.is_ok()) return 0;
  std::fprintf(stderr, "beelined: %s\n", status.message().c_str());
  return 1;
}
