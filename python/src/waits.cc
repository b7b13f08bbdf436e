#include "waits.h"

#include <utility>

namespace beeline::python {

std::shared_ptr<void> keep(nb::object object) {
  return {object.release().ptr(), [](void* held) {
            if (Py_IsInitialized() == 0) return;
            const nb::gil_scoped_acquire acquired;
            Py_DECREF(static_cast<PyObject*>(held));
          }};
}

os::Wait wait_for(std::optional<double> timeout_s, const os::Cancellation* cancellation) {
  static auto interrupted = [] {
    const nb::gil_scoped_acquire acquired;
    return PyErr_CheckSignals() != 0;
  };
  os::Wait wait(Deadline::after_seconds(timeout_s));
  wait.cancellation = cancellation;
  if (on_main_thread()) wait.interrupted = interrupted;
  return wait;
}

void require(const Status& status, const std::string& what) {
  if (!status) raise_status(status, what, Work::kAgent);
}

}  // namespace beeline::python
