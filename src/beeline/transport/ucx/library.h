// UCX as it is found at run time, and what it has to say when something fails.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "beeline/base/status.h"
#include "beeline/transport/ucx/abi.h"

namespace beeline::transport::ucx {

// What UCX reports as errors on this thread while this lives; it is not printed then. A thread's newest one hears.
class Words {
 public:
  Words();
  ~Words();
  Words(const Words&) = delete;
  Words& operator=(const Words&) = delete;

  // The first of them; empty if there were none.
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  static int hear(const char* file, unsigned line, const char* function, int level, const void* component,
                  const char* format, std::va_list arguments);
  friend class Library;

  Words* const outer_;
  std::string text_;
};

// The library; never unloaded, for threads of its own may run on. Thread-safe.
class Library {
 public:
  // The first one in which reads that the owner would have to emulate can be switched off.
  static constexpr unsigned kMajor = 1, kMinor = 21;

  // One that this process has loaded already, or the one that BEELINE_UCX_LIBRARY names, or `given` (libucp's path,
  // empty for none), or the one that the loader finds. kUnsupported, with what would help, if there is none that will
  // do.
  static Result<std::shared_ptr<const Library>> open(const std::string& given);

  [[nodiscard]] const Functions& functions() const { return functions_; }
  // "UCX 1.22.0 (/usr/lib/libucp.so.0)".
  [[nodiscard]] const std::string& description() const { return description_; }

  // What a status means, said with UCX's own words if there are any; kOk for kOk.
  [[nodiscard]] Status status(UcsStatus status, std::string_view what, const Words& words) const;
  // Before UCX is used in this process. kUnsupported in one that was forked from a process which had: UCX does not bear
  // that.
  static Status note_use();
  static Status check_use();

 private:
  Functions functions_{};
  std::string description_;
};

}  // namespace beeline::transport::ucx
