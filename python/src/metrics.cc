// What a program counts itself: the series of this process, and files of them from any process of the user.
#include "metrics.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "beeline/runtime/metrics.h"
#include "bindings.h"
#include "dicts.h"
#include "warn.h"

namespace beeline::python {
namespace {

using runtime::MetricKind;
using runtime::Metrics;
using runtime::MetricsReading;

// Of this process, from its first series on; serialized by the GIL. Outlives the interpreter's end, as what records
// may.
Metrics* the_metrics = nullptr;
bool was_refused = false;  // a file, in this session

Metrics& metrics() {
  if (the_metrics == nullptr) {
    auto made = Metrics::create();
    if (!made) raise_status(made.status(), "make metrics");
    the_metrics = new Metrics(std::move(*made));
  }
  return *the_metrics;
}

std::size_t series(int kind, const std::string& name, const std::string& description, const std::vector<double>& bounds,
                   const Metrics::Tags& tags) {
  if (kind < 0 || static_cast<std::size_t>(kind) >= runtime::kMetricKinds) throw nb::value_error("no kind of metric");
  auto& own = metrics();
  if (!own.is_exposed()) expose_metrics();
  const auto found = own.series(static_cast<MetricKind>(kind), name, description, bounds, tags);
  if (!found) raise_status(found.status(), "metric " + name);
  return *found;
}

// None when the file is not there.
nb::object read_metrics(const std::string& path) {
  auto reading = [&] {
    const nb::gil_scoped_release released;
    return runtime::read_metrics(path);
  }();
  if (reading.status().code() == Code::kNotFound) return nb::none();
  if (!reading) raise_status(reading.status(), "read metrics", Work::kAgent);
  const auto series_of = [](const MetricsReading::Series& row) {
    return dict_of("kind", static_cast<int>(row.kind), "name", row.name, "description", row.description, "tags",
                   row.tags, "value", row.value, "bounds", row.bounds, "counts", row.counts);
  };
  return dict_of("pid", reading->pid, "process", reading->process, "started_ns", reading->started_ns, "alive",
                 reading->alive, "lost", reading->lost, "series", list_of(reading->series, series_of));
}

}  // namespace

void expose_metrics() {
  const auto* running = process_or_null();
  if (the_metrics == nullptr || running == nullptr || was_refused) return;
  const auto index = running->self();
  const auto status = the_metrics->expose(runtime::control::agents_folder(running->registered().session_dir),
                                          "p" + std::to_string(index), index);
  if (status) return;
  // Numbers are no reason to fail.
  was_refused = true;
  warn("metrics of this process cannot be read from outside in this session: " + status.message());
}

void hide_metrics() {
  was_refused = false;
  if (the_metrics != nullptr) the_metrics->hide();
}

void bind_metrics(nb::module_& m) {
  m.def("metric_series", &series, nb::arg("kind"), nb::arg("name"), nb::arg("description"), nb::arg("bounds"),
        nb::arg("tags"));
  m.def("metric_add", [](std::size_t series, double amount) { metrics().add(series, amount); });
  m.def("metric_set", [](std::size_t series, double value) { metrics().set(series, value); });
  m.def("metric_observe", [](std::size_t series, double value) { metrics().observe(series, value); });
  m.def("read_metrics", &read_metrics, nb::arg("path"));
}

}  // namespace beeline::python
