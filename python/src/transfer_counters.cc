// Counters and spans that agents keep in files: read as plain dicts, by whoever may read the files.
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "beeline/transfer/agent.h"
#include "beeline/transfer/counters.h"
#include "beeline/transfer/spans.h"
#include "bindings.h"
#include "dicts.h"

namespace beeline::python {
namespace {

using transfer::CountersReading;

constexpr const char* kOperationNames[transfer::kOperations] = {"fetch", "push", "map", "publish"};

// Bytes from outside: what is no UTF-8 shows as such.
nb::object decoded(const std::string& bytes) {
  return nb::steal(PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "replace"));
}

nb::dict counters_row(const CountersReading::Row& row) {
  return dict_of("peer_id", decoded(row.peer_id), "peer", decoded(row.peer_name), "path", decoded(row.path),
                 "operation", kOperationNames[static_cast<std::size_t>(row.operation) % transfer::kOperations],
                 "size_class", row.size_class, "nbytes", row.bytes, "nanoseconds", row.nanoseconds, "failures",
                 row.failures, "failovers", row.failovers, "latency", row.latency);
}

// None when the file is not there.
nb::object read_counters(const std::string& path) {
  auto reading = [&] {
    const nb::gil_scoped_release released;
    return transfer::read_counters(path);
  }();
  if (reading.status().code() == Code::kNotFound) return nb::none();
  if (!reading) raise_status(reading.status(), "read counters", Work::kAgent);
  return dict_of("id", decoded(reading->id), "name", decoded(reading->name), "address", decoded(reading->address),
                 "pid", reading->pid, "started_ns", reading->started_ns, "alive", reading->alive, "refused",
                 reading->refused, "registrations", reading->registrations, "visitors", reading->visitors, "peers",
                 reading->peers, "unreached", reading->unreached, "rows_lost", reading->rows_lost, "rest",
                 counters_row(reading->rest), "rows", list_of(reading->rows, counters_row));
}

// None when the file is not there.
nb::object read_spans(const std::string& path) {
  auto reading = [&] {
    const nb::gil_scoped_release released;
    return transfer::read_spans(path);
  }();
  if (reading.status().code() == Code::kNotFound) return nb::none();
  if (!reading) raise_status(reading.status(), "read spans", Work::kAgent);
  const auto span_of = [](const transfer::SpansReading::Span& span) {
    const std::string_view outcome = code_name(span.outcome);
    return nb::make_tuple(span.begin_ns, span.nanoseconds, span.bytes, span.thread, span.row,
                          kOperationNames[static_cast<std::size_t>(span.operation) % transfer::kOperations],
                          nb::str(outcome.data(), outcome.size()), decoded(span.name));
  };
  return dict_of("recorded", reading->recorded, "overwritten", reading->overwritten, "dropped", reading->dropped,
                 "changing", reading->changing, "spans", list_of(reading->spans, span_of));
}

}  // namespace

void bind_transfer_counters(nb::module_& m) {
  m.def("agents_folder", &transfer::agents_folder);
  m.def("read_counters", &read_counters, nb::arg("path"));
  m.def("read_spans", &read_spans, nb::arg("path"));
}

}  // namespace beeline::python
