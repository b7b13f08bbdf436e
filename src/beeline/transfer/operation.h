// What an agent does with tensors, as its counters and spans tell it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace beeline::transfer {

// The first three, with memory of a peer, are counted; of publications there are spans alone.
enum class Operation : std::uint8_t { kFetch = 0, kPush = 1, kMap = 2, kPublish = 3 };
inline constexpr std::size_t kOperations = 4;
inline constexpr std::size_t kCountedOperations = 3;

}  // namespace beeline::transfer
