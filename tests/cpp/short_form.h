// Whether tests that repeat or randomise are to do a tenth of their rounds, as for sanitizers on every push.
#pragma once

#include <cstdlib>

namespace beeline {

inline bool is_short() {
  return std::getenv("BEELINE_TEST_SHORT") != nullptr;
}

}  // namespace beeline
