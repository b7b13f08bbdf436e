// Sessions, tasks and actors for programs in C++, together with those in Python. Installed as <beeline/beeline.h>; link
// beeline::beeline. docs/cpp.md and examples/cpp show its use.
//
// Failures are values: a Status, or a Result that holds either one or what was asked for.
#pragma once

#include "beeline/program/convert.h"
#include "beeline/program/remote.h"
#include "beeline/program/session.h"
#include "beeline/program/value.h"

namespace beeline {

// In the library itself these are of layers of their own.
using namespace program;  // NOLINT(google-build-using-namespace)
using api::DType;
using api::dtype_of;
using api::Tensor;
using api::Timeout;

}  // namespace beeline
