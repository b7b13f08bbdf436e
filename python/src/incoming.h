// Where tensors that are fetched go: what the caller gives to be filled, or new tensors; and what they become on the
// way.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "beeline/memory/arena.h"
#include "beeline/transfer/fetch.h"
#include "local_tensors.h"

namespace beeline::python {

// Smaller tensors that are fetched get ordinary memory: a block of the arena takes whole pages.
inline constexpr std::uint64_t kArenaFrom = 64 * 1024;

// (dtype code, bits, lanes)
using DTypeRow = std::tuple<int, int, int>;
transfer::DType dtype_of(const DTypeRow& row);

// What tensors are fetched as, by position; nothing for those that stay as their owner has them.
using DTypeRows = std::optional<std::vector<std::optional<DTypeRow>>>;
// Rows and columns of the blocks in which those that become float8_e4m3fn are quantised.
using BlockRow = std::optional<std::pair<std::int64_t, std::int64_t>>;

struct Incoming {
  std::vector<transfer::Copy> copies;
  nb::list tensors;  // what the caller gets: for one that is quantised a pair (values, scales)
  nb::list kept;     // what owns the memory of those that the caller gave
};

// Raises ValueError where targets do not fit, or where what is wanted is not to be had, before anything is written.
Incoming incoming_of(const std::shared_ptr<memory::Arena>& arena,
                     std::span<const transfer::RemoteTensor* const> remotes, const std::optional<nb::list>& targets,
                     const DTypeRows& dtypes, const BlockRow& block);

// A tensor of that shape, whose strides leave no gaps; large ones in the arena, so that they can be registered in turn.
std::pair<nb::object, std::byte*> make_tensor(const std::shared_ptr<memory::Arena>& arena,
                                              const transfer::TensorSpec& spec, std::uint64_t arena_from = kArenaFrom);

// The memory of a tensor or array, which must have the spec's shape and dtype; `whose` spec it is stands in the
// message.
transfer::LocalTensor local_of(nb::handle value, const transfer::TensorSpec& spec, const std::string& whose,
                               transfer::Use use);

void require_as_many(std::size_t refs, const nb::list& tensors);

}  // namespace beeline::python
