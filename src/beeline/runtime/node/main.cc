// beelined: started by a driver (runtime/launch.cc), which is connected by descriptor 3 and has locked the session
// directory through descriptor 4. As `beelined --resume SESSION_DIR` it follows one that was killed, and has no
// descriptor 3.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

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

Status take_descriptor(int fd) {
  if (::fcntl(fd, F_SETFD, FD_CLOEXEC) == 0) return Status::ok();
  return {beeline::Code::kInvalidArgument, "beelined is started by beeline.init(), not by hand"};
}

Status run(const char* resumed_session) {
  // Descriptors that the driver had open and did not mark are not ours to keep.
  ::close_range(kLockFd + 1, ~0u, 0);
  BEELINE_RETURN_IF_ERROR(take_descriptor(kLockFd));
  for (const int signal : {SIGINT, SIGHUP, SIGPIPE, SIGQUIT}) ::signal(signal, SIG_IGN);
  if (resumed_session != nullptr) {
    ::close(kDriverFd);  // whatever its starter had there
    BEELINE_ASSIGN(auto daemon, beeline::runtime::node::Daemon::resume(resumed_session, Fd(kLockFd)));
    return daemon->run();
  }
  BEELINE_RETURN_IF_ERROR(take_descriptor(kDriverFd));
  FrameSocket driver{Fd(kDriverFd)};
  Fd lock(kLockFd);
  BEELINE_ASSIGN(auto options, read_options(driver));
  BEELINE_ASSIGN(auto daemon,
                 beeline::runtime::node::Daemon::make(std::move(options), std::move(driver), std::move(lock)));
  return daemon->run();
}

}  // namespace

int main(int argc, char** argv) {
  const auto status = run(argc == 3 && std::strcmp(argv[1], "--resume") == 0 ? argv[2] : nullptr);
  if (status.is_ok()) return 0;
  std::fprintf(stderr, "beelined: %s\n", status.message().c_str());
  return 1;
}
