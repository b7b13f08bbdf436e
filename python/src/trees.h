// Values that are trees of plain containers and scalars with torch tensors or numpy arrays for leaves: weights,
// batches, rollouts. They are pickled and read here, without Python's pickle; anything else is left to beeline.tensors.
// What is written is a pickle nonetheless (tree_format.h), which pickle reads as well.
#pragma once

#include <span>
#include <string>
#include <string_view>
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

struct View;
// The value of such a skeleton; null, without a Python error, where it is for pickle to read. Raises where a leaf's
// description does not fit its bytes.
nb::object unpickle_tree(std::string_view skeleton, std::span<const View> buffers);

void bind_trees(nb::module_& m);

}  // namespace beeline::python
