#pragma once

#include <cstdint>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/layout.h"
#include "icd/tensor_view.h"

namespace icd {

/// A segment as a matrix of coordinates by members: axes (the others of the tensor, block,
/// members), strided over the tensor where it lies; a stride may be negative.
struct MemberView {
  DType dtype;
  Shape shape;
  std::vector<std::int64_t> strides;
  const std::byte* data;

  /// Coordinates: all axes but the last.
  std::int64_t rows() const noexcept;

  /// Entries [first, first + count) of the leading axis; the axis goes if one is left.
  MemberView part(std::int64_t first, std::int64_t count) const;

  TensorView view() const { return {dtype, shape, strides, data}; }
};

/// Throws Error{usage} for a segment that does not lie in its tensor, Error{unsupported} for a
/// dtype that is no readable float. Not for segments of whole tensors.
MemberView member_view(const Checkpoint& checkpoint, const AxisGroup& group,
                       const AxisSegment& segment);

}  // namespace icd
