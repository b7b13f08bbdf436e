// Values that are trees of plain containers and scalars with torch tensors or numpy arrays for leaves: weights,
// batches, rollouts. They are pickled here, without Python's pickler; anything else is left to beeline.tensors.
#pragma once

#include <string>
#include <vector>

#include "session.h"

namespace beeline::python {

struct Tree {
  std::string skeleton;  // a pickle whose tensors and arrays are buffers
  std::vector<runtime::SourceBuffer> buffers;
  std::vector<runtime::Extent> referred;  // in live mode: the program's memory that the value stands for
  std::vector<nb::object> leaves;         // keep the buffers alive
  nb::list counted;                       // in live mode: tensors whose writes torch counts, see tensors/mutation.py
};

// False where the value is no such tree, or holds no tensor or array: nothing was done, and `tree` is of no use.
// Tensors must be contiguous CPU memory without gradient, attributes or shared memory.
bool pickle_tree(nb::handle value, runtime::Mode mode, Tree& tree);

void bind_trees(nb::module_& m);

}  // namespace beeline::python
