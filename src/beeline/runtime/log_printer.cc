#include "beeline/runtime/log_printer.h"

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "beeline/os/thread.h"

namespace beeline::runtime {
namespace {

constexpr std::size_t kMaxQueued = 64u << 20;
constexpr std::size_t kChunk = 4096;  // what a pipe takes whole when poll() says that it is writable
constexpr int kLookForStopMs = 100;   // only while somebody does not read

std::string with_prefix(const control::LogLines& lines, bool colored) {
  std::string prefix = "(" + lines.who + " pid=" + std::to_string(lines.pid) + ")";
  if (colored) prefix = "\033[36m" + prefix + "\033[0m";
  prefix += ' ';
  std::string out;
  for (std::size_t at = 0; at < lines.text.size();) {
    const std::size_t end = std::min(lines.text.find('\n', at), lines.text.size());
    out += prefix;
    out.append(lines.text, at, end - at);
    out += '\n';
    at = end + 1;
  }
  return out;
}

}  // namespace

void LogPrinter::print(const control::LogLines& lines) {
  const int fd = lines.is_stderr ? STDERR_FILENO : STDOUT_FILENO;
  Text text{fd, with_prefix(lines, ::isatty(fd) == 1)};
  const std::lock_guard guard(mutex_);
  if (stopping_) return;
  queued_bytes_ += text.bytes.size();
  queue_.push_back(std::move(text));
  while (queued_bytes_ > kMaxQueued && queue_.size() > 1) {
    queued_bytes_ -= queue_.front().bytes.size();
    queue_.pop_front();
  }
  if (!thread_.joinable()) {
    thread_ = os::start_thread([this] { run(); });
  }
  changed_.notify_all();
}

void LogPrinter::stop(Deadline deadline) {
  {
    const std::lock_guard guard(mutex_);
    stopping_ = true;
    give_up_ = deadline;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void LogPrinter::run() {
  ::pthread_setname_np(::pthread_self(), "bee-output");
  std::unique_lock guard(mutex_);
  for (;;) {
    changed_.wait(guard, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const Text text = std::move(queue_.front());
    queue_.pop_front();
    queued_bytes_ -= text.bytes.size();
    guard.unlock();
    const bool go_on = write(text);
    guard.lock();
    if (!go_on) return;
  }
}

// False when it was stopped before the reader took all.
bool LogPrinter::write(const Text& text) {
  for (std::size_t at = 0; at < text.bytes.size();) {
    pollfd entry{text.fd, POLLOUT, 0};
    const int ready = ::poll(&entry, 1, kLookForStopMs);
    if (ready <= 0) {
      const std::lock_guard guard(mutex_);
      if (stopping_ && give_up_.passed()) return false;
      continue;
    }
    const auto count = ::write(text.fd, text.bytes.data() + at, std::min(kChunk, text.bytes.size() - at));
    if (count < 0 && errno != EINTR && errno != EAGAIN) return true;  // nobody will ever read it
    if (count > 0) at += static_cast<std::size_t>(count);
  }
  return true;
}

}  // namespace beeline::runtime
