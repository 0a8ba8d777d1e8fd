#include "block_weights.h"

#include <fmt/format.h>

#include "icd/error.h"
#include "layer_weights.h"

namespace icd {

template <typename Real>
std::int64_t BlockWeights<Real>::size(std::string_view name) const {
  const auto found = block_.sizes.find(name);
  if (found == block_.sizes.end()) {
    throw Error(ErrorCode::input, fmt::format("block '{}': a {} without the size '{}'",
                                              block_.prefix, block_.type, name));
  }
  return found->second;
}

template <typename Real>
std::int64_t BlockWeights<Real>::size(std::string_view name, std::int64_t fallback) const {
  const auto found = block_.sizes.find(name);
  return found == block_.sizes.end() ? fallback : found->second;
}

template <typename Real>
double BlockWeights<Real>::number(std::string_view name, double fallback) const {
  const auto found = block_.numbers.find(name);
  return found == block_.numbers.end() ? fallback : found->second;
}

template <typename Real>
const std::string& BlockWeights<Real>::name(std::string_view role) const {
  const auto found = block_.tensors.find(role);
  if (found == block_.tensors.end()) {
    throw Error(ErrorCode::input, fmt::format("block '{}': a {} without the tensor '{}'",
                                              block_.prefix, block_.type, role));
  }
  return found->second;
}

template <typename Real>
const Shape& BlockWeights<Real>::shape(std::string_view role, std::size_t rank) const {
  const std::string& tensor_name = name(role);
  const StoredTensor* tensor = checkpoint_.find(tensor_name);
  if (tensor == nullptr) {
    throw Error(ErrorCode::input, fmt::format("tensor '{}': missing", tensor_name));
  }
  if (tensor->shape.size() != rank) {
    throw Error(ErrorCode::input, fmt::format("tensor '{}': shape is {}, expected one of {} axes",
                                              tensor_name, shape_text(tensor->shape), rank));
  }
  return tensor->shape;
}

template <typename Real>
std::vector<Real> BlockWeights<Real>::tensor(std::string_view role, const Shape& shape) const {
  return read_tensor<Real>(checkpoint_, name(role), shape);
}

template <typename Real>
std::vector<Real> BlockWeights<Real>::optional(std::string_view role, const Shape& shape) const {
  return has(role) ? tensor(role, shape) : std::vector<Real>();
}

template class BlockWeights<float>;
template class BlockWeights<double>;

}  // namespace icd
