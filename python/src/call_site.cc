#include "call_site.h"

#include <nanobind/stl/string.h>

#include <cstdlib>
#include <cstring>
#include <string_view>

#include "session.h"

namespace beeline::python {
namespace {

constexpr int kSiteFrames = 3;

bool sites_are_recorded() {
  const char* const setting = std::getenv("RAY_record_ref_creation_sites");
  return setting != nullptr && (std::strcmp(setting, "1") == 0 || std::strcmp(setting, "true") == 0);
}

// Where the package lies: its frames are not the program's.
const std::string& package_folder() {
  static const auto* const folder = new std::string([] {
    const auto file = nb::cast<std::string>(nb::module_::import_("beeline").attr("__file__"));
    return file.substr(0, file.rfind('/') + 1);
  }());
  return *folder;
}

}  // namespace

const std::string* call_site(const char* what) {
  static const bool is_recorded = sites_are_recorded();
  if (!is_recorded) return nullptr;
  std::string site = what;
  int frames = 0;
  nb::object frame = nb::borrow(reinterpret_cast<PyObject*>(PyEval_GetFrame()));
  while (frame.is_valid() && !frame.is_none() && frames < kSiteFrames) {
    const nb::object code = frame.attr("f_code");
    const auto file = nb::cast<std::string>(code.attr("co_filename"));
    if (!file.starts_with(package_folder())) {
      site += " | " + file + ":" + nb::cast<std::string>(code.attr("co_name")) + ":" +
              nb::cast<std::string>(nb::str(nb::object(frame.attr("f_lineno"))));
      ++frames;
    }
    frame = frame.attr("f_back");
  }
  return process().intern(site);
}

}  // namespace beeline::python
