#include "incoming.h"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstdlib>

namespace beeline::python {
namespace {

using transfer::Copy;
using transfer::LocalTensor;
using transfer::RemoteTensor;
using transfer::TensorSpec;
using transfer::text_of;

void require(const Status& status, const std::string& what) {
  if (!status) raise_status(status, what, Work::kAgent);
}

// The two tensors that one which is quantised fills.
std::pair<nb::object, nb::object> pair_of(nb::handle target) {
  if ((nb::isinstance<nb::tuple>(target) || nb::isinstance<nb::list>(target)) && nb::len(target) == 2) {
    return {nb::object(target[0]), nb::object(target[1])};
  }
  throw nb::value_error("block= fills a pair (values, scales) for each tensor; nothing was written");
}

class Maker {
 public:
  Maker(const std::shared_ptr<memory::Arena>& arena, Incoming& incoming) : arena_(arena), incoming_(incoming) {}

  // As its owner has it, or converted to the dtype of `spec`.
  void add(Copy copy, const TensorSpec& spec, std::optional<nb::object> target) {
    const bool converts = !(spec.dtype == copy.remote->spec.dtype);
    if (converts) {
      const auto conversion = transfer::Conversion::of(copy.remote->spec.dtype, spec.dtype);
      require(conversion.status(), "convert " + text_of(copy.remote->spec) + ", nothing was written");
      copy.conversion = *conversion;
    }
    auto [tensor, memory] = fill(spec, std::move(target), converts ? "dtype= asks for" : "the remote one is");
    copy.local = std::move(memory);
    incoming_.tensors.append(std::move(tensor));
    incoming_.copies.push_back(std::move(copy));
  }

  void add_quantized(Copy copy, const TensorSpec& spec, const transfer::BlockShape& shape,
                     std::optional<nb::object> target) {
    const TensorSpec& remote = copy.remote->spec;
    const auto quantizer = transfer::Quantizer::of(remote.dtype);
    const Status fits = quantizer ? transfer::check(shape, remote) : quantizer.status();
    require(fits, "quantise " + text_of(remote) + ", nothing was written");
    std::optional<nb::object> given_values, given_scales;
    if (target) std::tie(given_values, given_scales) = pair_of(*target);
    auto [values, values_memory] = fill(spec, std::move(given_values), "dtype= asks for values that are");
    auto [scales, scales_memory] =
        fill(transfer::scales_of(shape, remote), std::move(given_scales), "block= gives scales that are");
    copy.local = std::move(values_memory);
    copy.quantization = transfer::Quantization{*quantizer, shape, std::move(scales_memory)};
    incoming_.tensors.append(target ? std::move(*target) : nb::object(nb::make_tuple(values, scales)));
    incoming_.copies.push_back(std::move(copy));
  }

 private:
  std::pair<nb::object, LocalTensor> fill(const TensorSpec& spec, std::optional<nb::object> target, const char* whose) {
    if (!target) {
      auto [tensor, data] = make_tensor(arena_, spec);
      return {std::move(tensor), LocalTensor{data, spec.strides}};
    }
    incoming_.kept.append(owner_of(*target));
    LocalTensor local = local_of(*target, spec, whose, transfer::Use::kFilled);
    return {std::move(*target), std::move(local)};
  }

  const std::shared_ptr<memory::Arena>& arena_;
  Incoming& incoming_;
};

}  // namespace

transfer::DType dtype_of(const DTypeRow& row) {
  const auto& [code, bits, lanes] = row;
  return {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(bits), static_cast<std::uint16_t>(lanes)};
}

Incoming incoming_of(const std::shared_ptr<memory::Arena>& arena, std::span<const RemoteTensor* const> remotes,
                     const std::optional<nb::list>& targets, const DTypeRows& dtypes, const BlockRow& block) {
  if (targets) require_as_many(remotes.size(), *targets);
  if (dtypes && dtypes->size() != remotes.size()) throw nb::value_error("as many dtypes as references");
  Incoming incoming;
  Maker maker(arena, incoming);
  incoming.copies.reserve(remotes.size());
  for (std::size_t i = 0; i < remotes.size(); ++i) {
    Copy copy;
    copy.remote = remotes[i];
    TensorSpec spec{remotes[i]->spec.dtype, remotes[i]->spec.shape, {}};
    const bool is_asked = dtypes && (*dtypes)[i].has_value();
    if (is_asked) spec.dtype = dtype_of(*(*dtypes)[i]);
    std::optional<nb::object> target;
    if (targets) target = nb::object((*targets)[i]);
    if (block && is_asked && spec.dtype == transfer::kFloat8E4M3) {
      maker.add_quantized(std::move(copy), spec, {block->first, block->second}, std::move(target));
    } else {
      if (!target) spec.strides = transfer::preserved_strides(remotes[i]->spec);
      maker.add(std::move(copy), spec, std::move(target));
    }
  }
  return incoming;
}

std::pair<nb::object, std::byte*> make_tensor(const std::shared_ptr<memory::Arena>& arena, const TensorSpec& spec,
                                              std::uint64_t arena_from) {
  const std::uint64_t bytes = spec.bytes();
  std::byte* data = nullptr;
  std::shared_ptr<void> memory;
  if (bytes >= arena_from) {
    auto allocated = arena->allocate(bytes);
    require(allocated.status(), "allocate " + std::to_string(bytes) + " bytes for a fetched tensor");
    data = *allocated;
    memory = {data, [arena](void* held) { arena->release(static_cast<std::byte*>(held)); }};
  } else {
    constexpr std::size_t kAlign = 64;
    memory = {std::aligned_alloc(kAlign, std::max<std::size_t>(kAlign, (bytes + kAlign - 1) / kAlign * kAlign)),
              std::free};
    data = static_cast<std::byte*>(memory.get());
  }
  const transfer::DType& dtype = spec.dtype;
  return {import_tensor({dtype.code, dtype.bits, dtype.lanes}, spec.shape, spec.strides, data, std::move(memory)),
          data};
}

LocalTensor local_of(nb::handle value, const TensorSpec& spec, const std::string& whose, transfer::Use use) {
  const auto described = describe(value, use == transfer::Use::kFilled);
  auto local = transfer::fit(spec, whose, described.spec, described.data, use);
  require(local.status(), "transfer");
  local->device = described.device;
  return std::move(*local);
}

void require_as_many(std::size_t refs, const nb::list& tensors) {
  if (nb::len(tensors) == refs) return;
  throw nb::value_error(
      (std::to_string(refs) + " references, but " + std::to_string(nb::len(tensors)) + " tensors; nothing was written")
          .c_str());
}

}  // namespace beeline::python
