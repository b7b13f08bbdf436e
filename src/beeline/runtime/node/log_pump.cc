#include "beeline/runtime/node/log_pump.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

namespace beeline::runtime::node {
namespace {

constexpr std::size_t kTailBytes = 4096;
// A worker that writes without end must not keep the daemon from its other work.
constexpr int kReadsPerEvent = 8;
constexpr int kReadsPerDrain = 64;

void keep_tail(std::string& tail, const std::string& text) {
  tail += text;
  if (tail.size() > 2 * kTailBytes) tail.erase(0, tail.size() - kTailBytes);
}

}  // namespace

LogPump::LogPump(os::EventLoop& loop, std::string log_dir, std::uint64_t max_file_bytes, Sink sink)
    : loop_(loop), log_dir_(std::move(log_dir)), max_file_bytes_(max_file_bytes), sink_(std::move(sink)) {}

Result<LogPump::Ends> LogPump::open(std::uint64_t worker, JobId job) {
  Ends ends;
  workers_[worker].source.job = job;
  for (const int which : {0, 1}) {
    std::array<int, 2> fds{};
    if (::pipe2(fds.data(), O_CLOEXEC) != 0) return Status::from_errno("make a pipe for a worker's output", errno);
    workers_[worker].pipes[which].read_end = os::Fd(fds[0]);
    (which == 0 ? ends.out : ends.err) = os::Fd(fds[1]);
    ::fcntl(fds[0], F_SETFL, O_NONBLOCK);
    BEELINE_RETURN_IF_ERROR(watch(worker, which));
  }
  return ends;
}

Status LogPump::adopt(std::uint64_t worker, Source source, os::Fd out, os::Fd err) {
  auto& entry = workers_[worker];
  entry.source = std::move(source);
  entry.pipes[0].read_end = std::move(out);
  entry.pipes[1].read_end = std::move(err);
  for (const int which : {0, 1}) {
    ::fcntl(entry.pipes[which].read_end.get(), F_SETFL, O_NONBLOCK);
    BEELINE_RETURN_IF_ERROR(watch(worker, which));
  }
  return Status::ok();
}

Status LogPump::watch(std::uint64_t worker, int which) {
  return loop_.watch(workers_.at(worker).pipes[which].read_end.get(), EPOLLIN,
                     [this, worker, which](std::uint32_t) { read(worker, which); });
}

void LogPump::name(std::uint64_t worker, std::int32_t pid) {
  const auto found = workers_.find(worker);
  if (found == workers_.end() || found->second.source.pid != 0) return;
  found->second.source.pid = pid;
  for (const int which : {0, 1}) {
    const auto lines = std::exchange(found->second.pipes[which].unnamed, {});
    if (!lines.empty()) append_to_file(found->second, which, found->second.pipes[which], lines);
  }
}

void LogPump::label(std::uint64_t worker, std::string who) {
  if (const auto found = workers_.find(worker); found != workers_.end()) {
    drain(worker);  // what it has written so far belongs to the label before
    found->second.source.who = std::move(who);
  }
}

void LogPump::read(std::uint64_t worker, int which) {
  std::array<char, 65536> buffer;
  for (int i = 0; i < kReadsPerEvent; ++i) {
    const auto& pipe = workers_.at(worker).pipes[which];
    const ssize_t got = ::read(pipe.read_end.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) return close(worker, which);
    take(worker, which, buffer.data(), static_cast<std::size_t>(got));
    if (static_cast<std::size_t>(got) < buffer.size()) return;
  }
}

void LogPump::take(std::uint64_t worker, int which, const char* data, std::size_t size) {
  auto& pipe = workers_.at(worker).pipes[which];
  pipe.partial.append(data, size);
  std::string lines;
  if (const auto end = pipe.partial.rfind('\n'); end != std::string::npos) {
    lines = pipe.partial.substr(0, end + 1);
    pipe.partial.erase(0, end + 1);
  }
  while (pipe.partial.size() > kMaxLine) {
    lines += pipe.partial.substr(0, kMaxLine) + "\n";
    pipe.partial.erase(0, kMaxLine);
  }
  if (!lines.empty()) emit(worker, which, lines);
}

void LogPump::emit(std::uint64_t worker, int which, const std::string& lines) {
  auto& entry = workers_.at(worker);
  auto& pipe = entry.pipes[which];
  keep_tail(pipe.tail, lines);
  if (entry.source.pid == 0) {
    keep_tail(pipe.unnamed, lines);
  } else {
    append_to_file(entry, which, pipe, lines);
  }
  sink_(entry.source, which == 1, lines);
}

void LogPump::append_to_file(const Worker& worker, int which, Pipe& pipe, const std::string& lines) {
  if (pipe.file_bytes >= max_file_bytes_) return;
  if (!pipe.file.is_open()) {
    const std::string path = log_dir_ + "/worker-" + std::to_string(worker.source.pid) + (which == 0 ? ".out" : ".err");
    pipe.file = os::Fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  }
  // A full disk costs the copy in the file; the lines go to the driver all the same.
  const ssize_t written = ::write(pipe.file.get(), lines.data(), lines.size());
  if (written != static_cast<ssize_t>(lines.size())) {
    const std::string why = std::strerror(written < 0 ? errno : ENOSPC);
    if (lost_bytes_ == 0) {
      sink_(worker.source, true,
            "[beeline: log files under " + log_dir_ + " cannot be written (" + why +
                "): what workers print reaches the driver only; free space there, or set BEELINE_TMPDIR]\n");
    }
    lost_bytes_ += lines.size() - static_cast<std::size_t>(std::max<ssize_t>(written, 0));
  }
  pipe.file_bytes += lines.size();
  if (pipe.file_bytes >= max_file_bytes_) {
    static constexpr char kNote[] = "[the log file has reached its limit: what follows went to the driver only]\n";
    [[maybe_unused]] const auto noted = ::write(pipe.file.get(), kNote, sizeof kNote - 1);
    pipe.file.reset();
  }
}

void LogPump::drain(std::uint64_t worker) {
  for (int i = 0; i < kReadsPerDrain / kReadsPerEvent; ++i) {
    for (const int which : {0, 1}) {
      const auto found = workers_.find(worker);
      if (found == workers_.end()) return;
      if (found->second.pipes[which].read_end.is_open()) read(worker, which);
    }
  }
}

std::string LogPump::stderr_tail(std::uint64_t worker) const {
  const auto found = workers_.find(worker);
  if (found == workers_.end()) return {};
  const auto& pipe = found->second.pipes[1];
  const std::string text = pipe.tail + pipe.partial;
  return text.size() <= kTailBytes ? text : text.substr(text.size() - kTailBytes);
}

void LogPump::close(std::uint64_t worker, int which) {
  auto& entry = workers_.at(worker);
  auto& pipe = entry.pipes[which];
  loop_.forget(pipe.read_end.get());
  pipe.read_end.reset();
  if (!pipe.partial.empty()) emit(worker, which, std::exchange(pipe.partial, {}) + "\n");
  pipe.file.reset();
  if (entry.ended && !entry.pipes[1 - which].read_end.is_open()) workers_.erase(worker);
}

void LogPump::ended(std::uint64_t worker) {
  const auto found = workers_.find(worker);
  if (found == workers_.end()) return;
  found->second.ended = true;
  if (!found->second.pipes[0].read_end.is_open() && !found->second.pipes[1].read_end.is_open()) workers_.erase(found);
}

}  // namespace beeline::runtime::node
