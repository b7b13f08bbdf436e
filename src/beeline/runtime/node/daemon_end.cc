// The daemon's part that ends a session: whatever its processes do, nothing of them is left two seconds later.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "beeline/os/process.h"
#include "beeline/runtime/node/daemon.h"

namespace beeline::runtime::node {
namespace {

using control::Type;

constexpr auto kExitWait = std::chrono::milliseconds(300);  // for workers to finish by themselves
constexpr auto kKillPeriod = std::chrono::milliseconds(20);
constexpr auto kGiveUp = std::chrono::milliseconds(1700);  // processes that not even SIGKILL ends

}  // namespace

bool Daemon::is_used_beside(const Connection* leaving) const {
  if (options_.lasting || actors_.any_detached()) return true;
  return std::any_of(connections_.begin(), connections_.end(), [leaving](const auto& entry) {
    const Connection& connection = *entry.second;
    return connection.kind == control::ProcessKind::kDriver && !connection.closing && &connection != leaving;
  });
}

void Daemon::leave(Connection& driver) {
  // At the session's end its connection stays open until the end of all: so it knows when nothing is left.
  if (is_used_beside(&driver)) {
    close_later(driver);
  } else {
    end();
  }
}

void Daemon::end_if_unused() {
  if (!ending_ && !is_used_beside(nullptr)) end();
}

bool Daemon::is_left_by_others() const {
  return is_resumed_ && !processes_in(options_.session_dir).empty();
}

void Daemon::end() {
  if (ending_) return;
  ending_ = true;
  ending_since_ = Clock::now();
  loop_.forget(listener_.get());
  listener_.reset();
  for (const auto& [index, connection] : processes_) {
    if (connection->kind == control::ProcessKind::kWorker)
      send(*connection, control::encode(Type::kExit, control::Empty{}));
  }
  pool_.stop();
  loop_.after(kExitWait, [this] { kill_rest(); });
}

// Everything below us: the children of workers as well, which became ours when those died.
void Daemon::kill_rest() {
  for (const pid_t pid : os::descendants_of(::getpid())) ::kill(pid, SIGKILL);
  // What an earlier daemon's processes have started is below nobody of ours.
  if (is_resumed_) {
    for (const pid_t pid : processes_in(options_.session_dir)) ::kill(pid, SIGKILL);
  }
  reap_children();
  if (is_resumed_ && !is_left_by_others() && os::descendants_of(::getpid()).empty()) ended_ = true;
  if (ended_) return;
  if (Clock::now() - ending_since_ < kGiveUp) {
    loop_.after(kKillPeriod, [this] { kill_rest(); });
    return;
  }
  std::fprintf(stderr, "beelined: leaves with processes that do not end\n");
  ended_ = true;
}

void Daemon::remove_session_dir() {
  const std::filesystem::path path(options_.session_dir);
  const auto removed = runtime::remove_session_dir(path.string());
  if (!removed) std::fprintf(stderr, "beelined: %s\n", removed.message().c_str());
  ::rmdir(path.parent_path().c_str());  // when it was the last session
}

}  // namespace beeline::runtime::node
