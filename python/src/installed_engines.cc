#include "installed_engines.h"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include "bindings.h"
#include "waits.h"

namespace beeline::python {
namespace {

// Whether it can be used; what was found, or why not.
std::pair<bool, std::string> told(const Result<std::string>& found) {
  return {found.is_ok(), found ? *found : found.status().message()};
}

}  // namespace

transport::NixlOptions nixl_of(const std::pair<std::string, int>& row) {
  return {row.first, static_cast<transport::NixlOptions::Reach>(row.second)};
}

void bind_installed_engines(nb::module_& m) {
  m.def(
      "describe_ucx",
      [](const std::string& library) { return told(without_gil([&] { return transport::describe_ucx(library); })); },
      nb::arg("library"));
  m.def(
      "describe_nccl",
      [](const std::string& library) { return told(without_gil([&] { return transport::describe_nccl(library); })); },
      nb::arg("library"));
  m.def(
      "check_nixl",
      [](const std::pair<std::string, int>& row) {
        return told(without_gil([&] { return transport::check_nixl(nixl_of(row)); }));
      },
      nb::arg("nixl"));
}

}  // namespace beeline::python
