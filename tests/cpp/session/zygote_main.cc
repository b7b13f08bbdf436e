// A zygote without Python: forks workers of behaviour.h on the daemon's word (runtime/control.h, kFork and below).
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "beeline/os/unix_socket.h"
#include "beeline/runtime/control.h"
#include "beeline/runtime/launch.h"
#include "session/behaviour.h"

namespace {

using namespace beeline;
using runtime::control::Type;

sigset_t child_signal() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGCHLD);
  return set;
}

template <typename Message>
bool tell(os::FrameSocket& daemon, Type type, const Message& message) {
  return daemon.send(runtime::control::encode(type, message)).is_ok() &&
         daemon.flush_all(Deadline::after(std::chrono::seconds(10))).is_ok();
}

[[noreturn]] void become_worker(const runtime::control::Fork& fork, std::vector<os::Fd> output) {
  const auto set = child_signal();
  ::sigprocmask(SIG_UNBLOCK, &set, nullptr);
  ::setpgid(0, 0);
  ::dup2(output[0].get(), STDOUT_FILENO);
  ::dup2(output[1].get(), STDERR_FILENO);
  output.clear();
  ::_exit(runtime::session::work(std::getenv(runtime::kSessionVariable), fork.token));
}

bool reap_children(os::FrameSocket& daemon) {
  int status = 0;
  for (pid_t pid = 0; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
    if (!tell(daemon, Type::kChildExited, runtime::control::ChildExited{pid, status})) return false;
  }
  return true;
}

// False at the end of the daemon.
bool serve(os::FrameSocket& daemon) {
  os::Frame frame;
  for (;;) {
    auto outcome = daemon.receive(frame);
    if (!outcome.is_ok() || *outcome == os::FrameSocket::Receive::kClosed) return false;
    if (*outcome == os::FrameSocket::Receive::kNothing) return true;
    if (*runtime::control::type_of(frame.bytes) != Type::kFork) return false;
    auto request = runtime::control::decode<runtime::control::Fork>(frame.bytes);
    if (!request.is_ok()) return false;
    const pid_t pid = ::fork();
    if (pid == 0) {
      daemon.close();
      become_worker(*request, std::move(frame.fds));
    }
    if (!tell(daemon, Type::kForked, runtime::control::Forked{request->token, pid})) return false;
  }
}

}  // namespace

int main() {
  const auto set = child_signal();
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  const os::Fd children(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  os::FrameSocket daemon{os::Fd(3)};
  if (!tell(daemon, Type::kZygoteReady, runtime::control::Empty{})) return 1;
  for (;;) {
    pollfd entries[] = {{daemon.fd(), POLLIN, 0}, {children.get(), POLLIN, 0}};
    if (::poll(entries, 2, -1) < 0 && errno != EINTR) return 1;
    signalfd_siginfo info;
    while (::read(children.get(), &info, sizeof info) > 0) {
    }
    if (!reap_children(daemon) || !serve(daemon)) return 0;
  }
}
