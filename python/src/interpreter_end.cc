// What becomes of daemon threads when the interpreter ends.
#include "interpreter_end.h"

#include <unistd.h>

#include <exception>

#include "beeline/os/thread.h"
#include "bindings.h"

namespace beeline::python {
namespace {

std::terminate_handler otherwise = nullptr;

// CPython (until 3.13) ends a thread that asks for the GIL of an interpreter that ends, by unwinding it. Frames of C++
// on its way (waits of ours that let go of the GIL, and torch's) do not let that pass: the whole program would be
// aborted for a daemon thread that the process does not wait for anyway. It stays where it is instead.
void terminate() {
  const bool is_waited_for = on_main_thread() || os::is_own_thread();
  if (std::current_exception() == nullptr && is_finalizing() && !is_waited_for) {
    for (;;) ::pause();
  }
  if (otherwise != nullptr) otherwise();
}

}  // namespace

bool is_finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

void outlive_interpreter() {
  if (otherwise == nullptr) otherwise = std::set_terminate(terminate);
}

}  // namespace beeline::python
