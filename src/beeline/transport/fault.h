// A fault that is made on purpose: what a path is to do wrong, when, and how often.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "beeline/base/clock.h"

namespace beeline::transport {

// A value; copies count together.
struct Fault {
  enum class Kind : std::uint8_t {
    kDelay,     // waits for `delay`, then goes on
    kStall,     // does not go on
    kFail,      // fails as a broken path does
    kTruncate,  // moves no more, and says that all went well
    kDrop,      // leaves one byte out, likewise
    kCorrupt,   // changes one byte, likewise
    kReorder,   // moves the last part first
  };
  enum class At : std::uint8_t { kConnect, kRead, kWrite };

  std::string path;  // by name; empty: every one
  Kind kind = Kind::kFail;
  At at = At::kRead;
  std::uint64_t after_bytes = 0;  // of a transfer; one that has no more is spared
  Nanos delay{0};
  std::uint64_t times = 1;  // how often; 0: always
  std::shared_ptr<std::atomic<std::uint64_t>> made = std::make_shared<std::atomic<std::uint64_t>>(0);  // so far
};

}  // namespace beeline::transport
