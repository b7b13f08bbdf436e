// Threads of the core: signals are for the program's own.
#pragma once

#include <functional>
#include <thread>

namespace beeline::os {

// A thread that blocks all signals from its first instruction on.
std::thread start_thread(std::function<void()> body);

}  // namespace beeline::os
