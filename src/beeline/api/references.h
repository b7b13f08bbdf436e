// References to registered tensors: values that say whose they are and where they lie. They hold no secret, and may
// travel anywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "beeline/api/tensor.h"
#include "beeline/base/export.h"
#include "beeline/base/status.h"

namespace beeline::api {

struct Access;  // of the library to what stands behind its types
class TensorRefs;

// `count` indices of a dimension from `start` on, `step` apart (negative: backwards).
struct Slice {
  std::int64_t start = 0;
  std::int64_t step = 1;
  std::int64_t count = 0;
};

// A tensor, or a part of one, where its owner has it. Immutable; copies share it. Thread-safe.
class BEELINE_API TensorRef {
 public:
  // Elements in each dimension.
  [[nodiscard]] const std::vector<std::int64_t>& shape() const;
  [[nodiscard]] DType dtype() const;
  // Of all elements.
  [[nodiscard]] std::size_t bytes() const;
  // The address of the agent that registered it.
  [[nodiscard]] const std::string& owner() const;

  // A part, without moving a byte: one slice for each of the first dimensions, the others whole. kInvalidArgument when
  // one leaves its dimension.
  [[nodiscard]] Result<TensorRef> part(std::span<const Slice> slices) const;
  // What lies at `index` of a dimension, which is then gone. kInvalidArgument when there is no such index.
  [[nodiscard]] Result<TensorRef> select(std::size_t dimension, std::int64_t index) const;
  // By itself, to be written down.
  [[nodiscard]] TensorRefs alone() const;

 private:
  friend struct Access;
  struct Impl;
  explicit TensorRef(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

// References to tensors that were registered together, by position or by name. Immutable; copies share them.
// Thread-safe.
//
// Those that register_tensors() gave hold the registration: when they and all parts that were taken from them are gone,
// it is undone. Those that have travelled hold nothing.
class BEELINE_API TensorRefs {
 public:
  [[nodiscard]] std::size_t size() const;
  // Of all tensors.
  [[nodiscard]] std::size_t bytes() const;
  // In order; empty where they have none.
  [[nodiscard]] const std::vector<std::string>& names() const;
  // The address of the agent that registered them.
  [[nodiscard]] const std::string& owner() const;

  // kNotFound when there is no such tensor.
  [[nodiscard]] Result<TensorRef> at(std::size_t index) const;
  [[nodiscard]] Result<TensorRef> at(std::string_view name) const;
  [[nodiscard]] std::vector<TensorRef> all() const;

  // As msgpack: a few bytes for each tensor, names apart.
  [[nodiscard]] std::vector<std::byte> to_bytes() const;
  // As a JSON object. The same text as Python's.
  [[nodiscard]] std::string to_json() const;
  // What those two gave, in C++ or in Python. kCorrupt for anything else; bytes and text may come from outside.
  static Result<TensorRefs> from_bytes(std::span<const std::byte> bytes);
  static Result<TensorRefs> from_json(std::string_view text);

 private:
  friend struct Access;
  struct Impl;
  explicit TensorRefs(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace beeline::api
