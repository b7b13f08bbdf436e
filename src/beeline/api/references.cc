#include "beeline/api/references.h"

#include <algorithm>

#include "beeline/api/impl.h"

namespace beeline::api {

using transfer::Descriptor;
using transfer::RemoteTensor;

const std::vector<std::int64_t>& TensorRef::shape() const {
  return impl_->remote.spec.shape;
}

DType TensorRef::dtype() const {
  return from_core(impl_->remote.spec.dtype);
}

std::size_t TensorRef::bytes() const {
  return impl_->remote.spec.bytes();
}

const std::string& TensorRef::owner() const {
  return impl_->remote.descriptor->owner;
}

Result<TensorRef> TensorRef::part(std::span<const Slice> slices) const {
  std::vector<transfer::Slice> pieces;
  for (const Slice& slice : slices) pieces.push_back({slice.start, slice.step, slice.count});
  BEELINE_ASSIGN(auto part, impl_->remote.part(pieces));
  return Access::make_ref(std::move(part), impl_->registration);
}

Result<TensorRef> TensorRef::select(std::size_t dimension, std::int64_t index) const {
  const auto& sizes = shape();
  if (dimension >= sizes.size()) {
    return Status(Code::kInvalidArgument,
                  "dimension " + std::to_string(dimension) + " of a tensor that has " + std::to_string(sizes.size()));
  }
  std::vector<transfer::Slice> pieces;
  for (std::size_t i = 0; i < dimension; ++i) pieces.push_back({0, 1, sizes[i]});
  pieces.push_back({index, 1, 1});
  BEELINE_ASSIGN(auto part, impl_->remote.part(pieces));
  part.spec.shape.erase(part.spec.shape.begin() + static_cast<std::ptrdiff_t>(dimension));
  part.spec.strides.erase(part.spec.strides.begin() + static_cast<std::ptrdiff_t>(dimension));
  return Access::make_ref(std::move(part), impl_->registration);
}

TensorRefs TensorRef::alone() const {
  auto descriptor = std::make_shared<const Descriptor>(impl_->remote.alone());
  return Access::make_refs(std::move(descriptor), impl_->registration);
}

std::size_t TensorRefs::size() const {
  return impl_->descriptor->places.size();
}

std::size_t TensorRefs::bytes() const {
  return impl_->descriptor->bytes();
}

const std::vector<std::string>& TensorRefs::names() const {
  return impl_->descriptor->names;
}

const std::string& TensorRefs::owner() const {
  return impl_->descriptor->owner;
}

Result<TensorRef> TensorRefs::at(std::size_t index) const {
  if (index >= size()) {
    return Status(Code::kNotFound,
                  "tensor " + std::to_string(index) + " of references to " + std::to_string(size()) + " tensors");
  }
  return Access::make_ref(RemoteTensor::whole(impl_->descriptor, index), impl_->registration);
}

Result<TensorRef> TensorRefs::at(std::string_view name) const {
  const auto found = std::ranges::find(names(), name);
  if (found == names().end()) {
    return Status(Code::kNotFound, "no tensor \"" + std::string(name) + "\" among the names of references to " +
                                       std::to_string(size()) + " tensors");
  }
  return at(static_cast<std::size_t>(found - names().begin()));
}

std::vector<TensorRef> TensorRefs::all() const {
  std::vector<TensorRef> out;
  for (std::size_t i = 0; i < size(); ++i) {
    out.push_back(Access::make_ref(RemoteTensor::whole(impl_->descriptor, i), impl_->registration));
  }
  return out;
}

std::vector<std::byte> TensorRefs::to_bytes() const {
  return impl_->descriptor->encode();
}

std::string TensorRefs::to_json() const {
  return impl_->descriptor->to_json();
}

Result<TensorRefs> TensorRefs::from_bytes(std::span<const std::byte> bytes) {
  BEELINE_ASSIGN(auto decoded, Descriptor::decode(bytes));
  return Access::make_refs(std::make_shared<const Descriptor>(std::move(decoded)), nullptr);
}

Result<TensorRefs> TensorRefs::from_json(std::string_view text) {
  BEELINE_ASSIGN(auto decoded, Descriptor::from_json(text));
  return Access::make_refs(std::make_shared<const Descriptor>(std::move(decoded)), nullptr);
}

}  // namespace beeline::api
