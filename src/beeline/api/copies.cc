#include "beeline/api/copies.h"

#include <string>
#include <utility>

#include "beeline/api/impl.h"

namespace beeline::api {
namespace {

transfer::TensorSpec spec_of(const Tensor& tensor) {
  return {to_core(tensor.dtype), tensor.shape, tensor.strides};
}

// kInvalidArgument for a tensor that is none.
Status check(const Tensor& tensor, const transfer::TensorSpec& spec) {
  BEELINE_RETURN_IF_ERROR(transfer::check(spec));
  if (tensor.data == nullptr && spec.elements() > 0) {
    return {Code::kInvalidArgument, "no tensor: " + transfer::text_of(spec) + " without memory"};
  }
  return Status::ok();
}

Result<transfer::LocalTensor> fit(const transfer::TensorSpec& wanted, const char* whose, const Tensor& tensor,
                                  transfer::Use use) {
  const auto spec = spec_of(tensor);
  BEELINE_RETURN_IF_ERROR(check(tensor, spec));
  return transfer::fit(wanted, whose, spec, tensor.data, use);
}

Result<transfer::Copy> as_it_is(const transfer::RemoteTensor& remote, const Tensor& tensor, transfer::Use use) {
  BEELINE_ASSIGN(auto local, fit(remote.spec, "the remote one is", tensor, use));
  return transfer::Copy{&remote, std::move(local)};
}

// The elements of `remote` as those of the target's dtype.
Result<transfer::Copy> converted(const transfer::RemoteTensor& remote, const Tensor& tensor) {
  const transfer::TensorSpec wanted{to_core(tensor.dtype), remote.spec.shape, {}};
  BEELINE_ASSIGN(auto local, fit(wanted, "the remote one, converted, is", tensor, transfer::Use::kFilled));
  transfer::Copy copy{&remote, std::move(local)};
  BEELINE_ASSIGN(copy.conversion, transfer::Conversion::of(remote.spec.dtype, wanted.dtype));
  return copy;
}

Result<transfer::Copy> quantized(const transfer::RemoteTensor& remote, const Tensor& tensor, const Scales& scales) {
  const transfer::TensorSpec& spec = remote.spec;
  const transfer::BlockShape block{scales.rows, scales.columns};
  BEELINE_ASSIGN(const auto quantizer, transfer::Quantizer::of(spec.dtype));
  BEELINE_RETURN_IF_ERROR(transfer::check(block, spec));
  BEELINE_ASSIGN(auto values, fit({transfer::kFloat8E4M3, spec.shape, {}}, "the remote one, quantised, is", tensor,
                                  transfer::Use::kFilled));
  BEELINE_ASSIGN(auto factors, fit(transfer::scales_of(block, spec), "the remote one's scales are", scales.tensor,
                                   transfer::Use::kFilled));
  transfer::Copy copy{&remote, std::move(values)};
  copy.quantization = transfer::Quantization{quantizer, block, std::move(factors)};
  return copy;
}

Result<transfer::Copy> copy_into(const transfer::RemoteTensor& remote, const Target& target) {
  if (target.scales) {
    if (!target.convert) return Status(Code::kInvalidArgument, "scales need `convert`; nothing was written");
    return quantized(remote, target.tensor, *target.scales);
  }
  if (!target.convert || to_core(target.tensor.dtype) == remote.spec.dtype) {
    return as_it_is(remote, target.tensor, transfer::Use::kFilled);
  }
  return converted(remote, target.tensor);
}

template <typename Local, typename Pair>
Result<std::vector<transfer::Copy>> pair_up(std::span<const TensorRef> refs, std::span<const Local> locals,
                                            Pair&& pair) {
  if (refs.size() != locals.size()) {
    return Status(Code::kInvalidArgument, std::to_string(refs.size()) + " references, but " +
                                              std::to_string(locals.size()) + " tensors; nothing was written");
  }
  std::vector<transfer::Copy> copies;
  copies.reserve(refs.size());
  for (std::size_t i = 0; i < refs.size(); ++i) {
    BEELINE_ASSIGN(auto copy, pair(Access::remote_of(refs[i]), locals[i]));
    copies.push_back(std::move(copy));
  }
  BEELINE_RETURN_IF_ERROR(transfer::check_one_owner(copies));
  return copies;
}

}  // namespace

Result<Sources> Sources::of(std::span<const Tensor> tensors) {
  auto schema = std::make_shared<transfer::Schema>();
  for (const Tensor& tensor : tensors) {
    schema->tensors.push_back(spec_of(tensor));
    BEELINE_RETURN_IF_ERROR(check(tensor, schema->tensors.back()));
  }
  Sources out{std::move(schema), {}};
  for (std::size_t i = 0; i < tensors.size(); ++i) out.all.push_back({&out.schema->tensors[i], tensors[i].data});
  return out;
}

Result<std::vector<transfer::Copy>> copies_into(std::span<const TensorRef> refs, std::span<const Tensor> targets) {
  return pair_up(refs, targets, [](const transfer::RemoteTensor& remote, const Tensor& target) {
    return as_it_is(remote, target, transfer::Use::kFilled);
  });
}

Result<std::vector<transfer::Copy>> copies_into(std::span<const TensorRef> refs, std::span<const Target> targets) {
  return pair_up(refs, targets, copy_into);
}

Result<std::vector<transfer::Copy>> copies_from(std::span<const TensorRef> refs, std::span<const Tensor> sources) {
  return pair_up(refs, sources, [](const transfer::RemoteTensor& remote, const Tensor& source) {
    return as_it_is(remote, source, transfer::Use::kRead);
  });
}

std::vector<std::shared_ptr<void>> memory_of(std::span<const Tensor> tensors) {
  std::vector<std::shared_ptr<void>> memory;
  for (const Tensor& tensor : tensors) memory.push_back(tensor.memory);
  return memory;
}

std::vector<std::shared_ptr<void>> memory_of(std::span<const Target> targets) {
  std::vector<std::shared_ptr<void>> memory;
  for (const Target& target : targets) {
    memory.push_back(target.tensor.memory);
    if (target.scales) memory.push_back(target.scales->tensor.memory);
  }
  return memory;
}

}  // namespace beeline::api
