// Random bytes that nobody can foresee.
#pragma once

#include <cstddef>
#include <span>

namespace beeline::os {

// At most 256, which the kernel gives whole and without a wait once it has booted.
void fill_with_random(std::span<std::byte> bytes);

}  // namespace beeline::os
