// Faults on purpose: what a path of an agent does wrong, so that a program's way of bearing it can be tested.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace beeline::api {

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

  Kind kind = Kind::kFail;
  std::string path = {};  // by name; empty: every one
  At at = At::kRead;
  std::uint64_t after_bytes = 0;  // of a transfer; one that has no more is spared
  std::chrono::nanoseconds delay{0};
  std::uint64_t times = 1;  // how often; 0: always
};

}  // namespace beeline::api
