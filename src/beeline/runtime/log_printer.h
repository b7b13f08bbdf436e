// Prints what workers wrote to the driver's own stdout and stderr, each line with a prefix that says who wrote it.
// A reader of that stdout that does not read (a paused pager) holds up this printer and nothing else.
//
// Thread-safe.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

#include "beeline/base/clock.h"
#include "beeline/runtime/control.h"

namespace beeline::runtime {

class LogPrinter {
 public:
  LogPrinter() = default;
  LogPrinter(const LogPrinter&) = delete;
  LogPrinter& operator=(const LogPrinter&) = delete;
  ~LogPrinter() { stop(Deadline::after(Nanos::zero())); }

  // Queues the lines. Beyond 64 MiB that nobody reads, the oldest are dropped.
  void print(const control::LogLines& lines);
  // Ends the thread once all is written, or at the deadline.
  void stop(Deadline deadline);

 private:
  struct Text {
    int fd;
    std::string bytes;
  };
  void run();
  bool write(const Text& text);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Text> queue_;
  std::size_t queued_bytes_ = 0;
  bool stopping_ = false;
  Deadline give_up_ = Deadline::never();
  std::thread thread_;  // started by the first line
};

}  // namespace beeline::runtime
