// The transfer engine for programs in C++: any two processes hand each other tensors by the shortest path there is.
// Installed as <beeline/transfer.h>; link beeline::transfer. docs/cpp.md and examples/cpp show its use.
//
//   namespace transfer = beeline::transfer;
//
//   // one process                                       // another, in C++ or Python
//   auto agent = transfer::Agent::open({.name = "a"});   auto agent = transfer::Agent::open({.name = "b"});
//   auto refs = agent->register_tensor(tensor);          auto refs = transfer::TensorRefs::from_json(text);
//   std::string text = refs->to_json();                  auto status = agent->fetch(*refs->at(0), target);
//
// Failures are values: a Status, or a Result that holds either one or what was asked for. Nothing is thrown but
// std::bad_alloc. Reading the value of a Result that holds none throws std::bad_variant_access.
#pragma once

#include "beeline/api/agent.h"
#include "beeline/api/fault.h"
#include "beeline/api/references.h"
#include "beeline/api/started.h"
#include "beeline/api/target.h"
#include "beeline/api/tensor.h"
#include "beeline/api/wait.h"
#include "beeline/base/status.h"

// In the library itself that name is a layer's: its sources include the headers above one by one.
namespace beeline {
namespace transfer = api;
}  // namespace beeline
