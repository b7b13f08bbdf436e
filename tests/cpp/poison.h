// What memory holds where nothing has been fetched to.
#pragma once

#include <cstddef>

namespace beeline {

inline constexpr std::byte kPoison{0xEE};

}  // namespace beeline
