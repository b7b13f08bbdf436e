// What the parts of the preload library share.
#pragma once

#include "beeline/memory/heap.h"

#define BEELINE_EXPORT extern "C" __attribute__((visibility("default")))

namespace beeline::preload {

// Requests from this size on are served from the arena: torch's and numpy's large buffers, and hardly
// anything else.
inline constexpr std::size_t kThreshold = std::size_t{1} << 20;

// Serves nothing until Arena::open() activates it.
extern memory::Heap heap;

}  // namespace beeline::preload
