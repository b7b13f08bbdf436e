#include "beeline/os/random.h"

#include <sys/random.h>

#include "beeline/base/status.h"

namespace beeline::os {

void fill_with_random(std::span<std::byte> bytes) {
  BEELINE_CHECK(::getrandom(bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()),
                "the kernel gives random bytes");
}

}  // namespace beeline::os
