// The seed of a random test: printed before the test uses it, so that it is known whatever ends the process.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace beeline {

// Of the environment (BEELINE_TEST_SEED), to repeat a run; else a new one.
inline std::uint64_t test_seed() {
  const char* const given = std::getenv("BEELINE_TEST_SEED");
  const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::fprintf(stderr, "BEELINE_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

}  // namespace beeline
