#include "member_view.h"

#include <fmt/format.h>

#include <algorithm>

#include "icd/error.h"

namespace icd {

std::int64_t MemberView::rows() const noexcept {
  std::int64_t product = 1;
  for (std::size_t axis = 0; axis + 1 < shape.size(); ++axis) product *= shape[axis];
  return product;
}

MemberView MemberView::part(std::int64_t first, std::int64_t count) const {
  MemberView result = *this;
  result.data += first * strides[0] * dtype_bytes(dtype);
  result.shape[0] = count;
  if (count == 1) {
    result.shape.erase(result.shape.begin());
    result.strides.erase(result.strides.begin());
  }
  return result;
}

MemberView member_view(const Checkpoint& checkpoint, const AxisGroup& group,
                       const AxisSegment& segment) {
  const StoredTensor* tensor = checkpoint.find(segment.tensor);
  if (tensor == nullptr) {
    throw Error(ErrorCode::usage, fmt::format("tensor '{}': is not in the checkpoint, expected by "
                                              "group '{}'",
                                              segment.tensor, group.name));
  }
  if (!is_readable_float(tensor->dtype)) {
    throw Error(ErrorCode::unsupported,
                fmt::format("tensor '{}': dtype is {}, expected a floating type of 16 bits or more",
                            tensor->name, tensor->dtype_text));
  }
  const auto axis = static_cast<std::size_t>(segment.dim);
  const std::int64_t last =
      std::int64_t{segment.offset} + std::int64_t{group.size - 1} * segment.stride;
  const std::int64_t begin = std::min<std::int64_t>(segment.offset, last);
  const std::int64_t end = std::max<std::int64_t>(segment.offset, last) + segment.block;
  if (segment.dim < 0 || axis >= tensor->shape.size() || begin < 0 || segment.block < 1 ||
      end > tensor->shape[axis]) {
    throw Error(ErrorCode::usage,
                fmt::format("tensor '{}': shape is {}, expected entries [{}, {}) on axis {}",
                            tensor->name, shape_text(tensor->shape), begin, end, segment.dim));
  }
  const std::int64_t stride = tensor->strides[axis];
  MemberView result{
      .dtype = tensor->dtype,
      .shape = tensor->shape,
      .strides = tensor->strides,
      .data = checkpoint.view(*tensor).data + segment.offset * stride * dtype_bytes(tensor->dtype)};
  for (const AxisSlice& slice : segment.within) {
    const auto other = static_cast<std::size_t>(slice.dim);
    result.data += slice.begin * tensor->strides[other] * dtype_bytes(tensor->dtype);
    result.shape[other] = slice.count;
  }
  result.shape.erase(result.shape.begin() + segment.dim);
  result.strides.erase(result.strides.begin() + segment.dim);
  result.shape.insert(result.shape.end(), {segment.block, group.size});
  result.strides.insert(result.strides.end(), {stride, stride * segment.stride});
  return result;
}

}  // namespace icd
