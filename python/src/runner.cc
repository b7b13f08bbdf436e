#include "runner.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "beeline/transfer/runner.h"
#include "interpreter_end.h"
#include "waits.h"

namespace beeline::python {
namespace {

using transfer::Runner;

nb::handle held_by(const std::shared_ptr<void>& kept) {
  return static_cast<PyObject*>(kept.get());
}

// Seconds; none: for ever.
std::optional<double> left_of(const Deadline& deadline) {
  if (deadline.is_never()) return std::nullopt;
  return std::chrono::duration<double>(deadline.left()).count();
}

// What a transfer does not raise itself.
template <typename Call>
void call(Call&& function) {
  if (is_finalizing()) return;
  const nb::gil_scoped_acquire acquired;
  try {
    function();
  } catch (nb::python_error& error) {
    error.discard_as_unraisable("a transfer that was started");
  }
}

// One that was started.
class PyStarted {
 public:
  PyStarted(std::shared_ptr<Runner> runner, std::shared_ptr<Runner::Started> started)
      : runner_(std::move(runner)), started_(std::move(started)) {}

  void cancel() const {
    without_gil([&] { runner_->cancel(started_); });
  }

 private:
  std::shared_ptr<Runner> runner_;
  std::shared_ptr<Runner::Started> started_;
};

class PyRunner {
 public:
  PyRunner() : runner_(Runner::make()) {}
  ~PyRunner() { close(); }
  PyRunner(const PyRunner&) = delete;

  // work(cancellation, seconds) is called on a thread of the core, or unbegun(exception) instead.
  [[nodiscard]] PyStarted start(std::string peer, std::optional<double> timeout_s, nb::object work,
                                nb::object unbegun) const {
    auto run = [work = keep(std::move(work))](const os::Wait& wait) {
      call([&] { held_by(work)(nb::cast(wait.cancellation, nb::rv_policy::reference), left_of(wait.deadline)); });
      return Status::ok();
    };
    auto end = [unbegun = keep(std::move(unbegun))](const Status& status) {
      if (status) return;
      call([&] {
        try {
          require(status, "transfer");
        } catch (nb::python_error& error) {
          held_by(unbegun)(error.value());
        }
      });
    };
    auto started = without_gil([&] {
      return runner_->start(std::move(peer), Deadline::after_seconds(timeout_s), std::move(run), std::move(end));
    });
    if (started.status().code() == Code::kShutdown) throw nb::value_error("the agent was closed");
    require(started.status(), "start a transfer");
    return {runner_, std::move(*started)};
  }

  void close() const {
    without_gil([&] { runner_->close(); });
  }

 private:
  std::shared_ptr<Runner> runner_;
};

}  // namespace

void bind_runner(nb::module_& m) {
  nb::class_<os::Cancellation>(m, "Cancellation");
  nb::class_<PyStarted>(m, "Started").def("cancel", &PyStarted::cancel);
  nb::class_<PyRunner>(m, "Runner")
      .def(nb::init<>())
      .def("start", &PyRunner::start, nb::arg("peer"), nb::arg("timeout_s").none(), nb::arg("work"), nb::arg("unbegun"))
      .def("close", &PyRunner::close);
}

}  // namespace beeline::python
