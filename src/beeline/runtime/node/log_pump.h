// Output of workers: from their pipes, by whole lines, into files of the session and to whoever listens.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "beeline/os/epoll.h"
#include "beeline/os/fd.h"
#include "beeline/runtime/control.h"

namespace beeline::runtime::node {

// On the daemon's thread. A pipe is read for as long as anybody holds its other end, also after the worker's death:
// its children may still write.
class LogPump {
 public:
  // Longer lines are split; the last, unfinished line is handed on at the pipe's end.
  static constexpr std::size_t kMaxLine = 64 * 1024;

  // Whose lines they are.
  struct Source {
    std::int32_t pid = 0;
    JobId job = 0;    // whose driver they are for
    std::string who;  // the label it has
  };
  // Called with whole lines ("a\nb\n").
  using Sink = std::function<void(const Source& source, bool is_stderr, const std::string& lines)>;

  LogPump(os::EventLoop& loop, std::string log_dir, std::uint64_t max_file_bytes, Sink sink);

  struct Ends {
    os::Fd out;
    os::Fd err;
  };
  // Makes the pipes of a worker and returns the ends to write to.
  Result<Ends> open(std::uint64_t worker, JobId job);
  // Goes on with the pipes of a worker that another daemon has read so far: both ends to read from.
  Status adopt(std::uint64_t worker, Source source, os::Fd out, os::Fd err);
  // The files are named by pid, which is not known at first; what came before is kept.
  void name(std::uint64_t worker, std::int32_t pid);
  // What the worker is now, for people.
  void label(std::uint64_t worker, std::string who);
  // Hands on what has been written so far, so that it comes before the news of the worker's end.
  void drain(std::uint64_t worker);
  // The end of what the worker wrote to its stderr.
  [[nodiscard]] std::string stderr_tail(std::uint64_t worker) const;
  // The worker has ended: its pipes are forgotten when they close.
  void ended(std::uint64_t worker);
  // What the log files did not take (a full disk); the driver is warned at the first of them.
  [[nodiscard]] std::uint64_t lost_bytes() const { return lost_bytes_; }

 private:
  struct Pipe {
    os::Fd read_end;
    std::string partial;
    std::string unnamed;  // lines from before the pid was known
    std::string tail;
    std::uint64_t file_bytes = 0;
    os::Fd file;
  };
  struct Worker {
    Pipe pipes[2];  // out, err
    Source source;
    bool ended = false;
  };

  Status watch(std::uint64_t worker, int which);
  // Reads what is there; closes the pipe at its end.
  void read(std::uint64_t worker, int which);
  void take(std::uint64_t worker, int which, const char* data, std::size_t size);
  void emit(std::uint64_t worker, int which, const std::string& lines);
  void append_to_file(const Worker& worker, int which, Pipe& pipe, const std::string& lines);
  void close(std::uint64_t worker, int which);

  os::EventLoop& loop_;
  std::string log_dir_;
  std::uint64_t max_file_bytes_;
  Sink sink_;
  std::map<std::uint64_t, Worker> workers_;
  std::uint64_t lost_bytes_ = 0;
};

}  // namespace beeline::runtime::node
