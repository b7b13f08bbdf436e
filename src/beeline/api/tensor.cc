#include "beeline/api/tensor.h"

#include "beeline/api/impl.h"

namespace beeline::api {

std::size_t Tensor::elements() const {
  return transfer::TensorSpec{to_core(dtype), shape, {}}.elements();
}

std::size_t Tensor::bytes() const {
  return transfer::TensorSpec{to_core(dtype), shape, {}}.bytes();
}

}  // namespace beeline::api
