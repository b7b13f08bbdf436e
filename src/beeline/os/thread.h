// Threads: those of the core leave signals to the program.
#pragma once

#include <cstdint>
#include <functional>
#include <thread>

#include "beeline/base/status.h"

namespace beeline::os {

// A thread that blocks all signals from its first instruction on.
std::thread start_thread(std::function<void()> body);
// The same; kSystem where the process may have no more of them. For threads that others can make it start.
Result<std::thread> try_start_thread(std::function<void()> body);
// Whether the calling thread is one of those: the core waits for their end.
bool is_own_thread();

// The kernel's number of the calling thread; asked for once. In a child of fork() the parent's.
std::uint32_t thread_id();

}  // namespace beeline::os
