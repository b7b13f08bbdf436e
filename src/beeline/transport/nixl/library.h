// NIXL's library: where it is, which version it is, and what it exports.
#pragma once

#include <string>
#include <string_view>

#include "beeline/base/status.h"
#include "beeline/transport/nixl/capi.h"
#include "beeline/transport/nixl_options.h"

namespace beeline::transport::nixl {

// The library that the options mean; opens nothing. A value.
struct Place {
  std::string library;  // a path
  std::string version;  // of the package that it is part of; empty: unknown
  Status usable;        // kUnsupported, with what to install or to change
};
Place find_library(const NixlOptions& options);
// Whether the C interface and the metadata of that version are those that are used here; of one that is unknown (empty)
// it is assumed.
bool is_known_version(std::string_view version);

// Opens it; it stays loaded as long as the process. kUnsupported where it is none, is a stub, or lacks a function.
Result<const capi::Functions*> open_library(const Place& place);

}  // namespace beeline::transport::nixl
