#include "icd/weight_similarity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "gram.h"
#include "icd/error.h"

namespace icd {
namespace {

constexpr std::int64_t kRows = 2048;  // coordinates of all members held at a time

/// A segment as a matrix of coordinates by members: axes (the others of the tensor, block,
/// members), strided over the tensor where it lies.
struct Coordinates {
  DType dtype;
  Shape shape;
  std::vector<std::int64_t> strides;
  const std::byte* data;

  std::int64_t rows() const noexcept {
    std::int64_t product = 1;
    for (std::size_t axis = 0; axis + 1 < shape.size(); ++axis) product *= shape[axis];
    return product;
  }

  /// Entries [first, first + count) of the leading axis; the axis goes if one is left.
  Coordinates part(std::int64_t first, std::int64_t count) const {
    Coordinates result = *this;
    result.data += first * strides[0] * dtype_bytes(dtype);
    result.shape[0] = count;
    if (count == 1) {
      result.shape.erase(result.shape.begin());
      result.strides.erase(result.strides.begin());
    }
    return result;
  }
};

Coordinates coordinates_of(const Checkpoint& checkpoint, const AxisGroup& group,
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
  Coordinates result{
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

/// Calls visit(values) with at most kRows rows (rows, n) at a time, each centred over
/// the members; the cuts depend on the shape alone.
template <typename Visit>
void for_centred_rows(const Coordinates& segment, std::vector<float>& buffer, const Visit& visit) {
  const std::int64_t rows = segment.rows();
  if (rows == 0) return;
  if (rows > kRows) {
    const std::int64_t inner = rows / segment.shape[0];
    const std::int64_t step = std::max<std::int64_t>(1, kRows / inner);
    for (std::int64_t first = 0; first < segment.shape[0]; first += step) {
      for_centred_rows(segment.part(first, std::min(step, segment.shape[0] - first)), buffer,
                       visit);
    }
    return;
  }
  const std::int64_t members = segment.shape.back();
  buffer.resize(static_cast<std::size_t>(rows * members));
  read_as({.dtype = segment.dtype,
           .shape = segment.shape,
           .strides = segment.strides,
           .data = segment.data},
          std::span<float>(buffer));
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) {
    float* values = buffer.data() + row * members;
    double sum = 0;
    for (std::int64_t member = 0; member < members; ++member) {
      sum += static_cast<double>(values[member]);
    }
    const double mean = sum / static_cast<double>(members);
    for (std::int64_t member = 0; member < members; ++member) {
      values[member] = static_cast<float>(static_cast<double>(values[member]) - mean);
    }
  }
  visit(std::span<const float>(buffer));
}

/// The Gram matrix of the members over rows of any number, added up kRows at a time: small
/// tensors share one pass over the matrix.
class RowBatch {
 public:
  explicit RowBatch(Index n) : gram_(n) {}

  void add(std::span<const float> values, double scale) {
    const auto capacity = static_cast<std::size_t>(kRows * gram_.size());
    for (const float value : values) {
      rows_.push_back(static_cast<float>(static_cast<double>(value) * scale));
      if (rows_.size() == capacity) flush();
    }
  }

  const GramMatrix& finish() {
    flush();
    return gram_;
  }

 private:
  void flush() {
    gram_.add(rows_);
    rows_.clear();
  }

  GramMatrix gram_;
  std::vector<float> rows_;
};

}  // namespace

std::vector<float> weight_similarity(const Checkpoint& checkpoint, const AxisGroup& group) {
  // The segments of one tensor, in the order in which tensors are first named, share a scale.
  std::vector<std::vector<const AxisSegment*>> tensors;
  for (const AxisSegment& segment : group.segments) {
    if (segment.dim == AxisSegment::kWholeTensors) continue;  // experts are told by their routers
    const auto known = std::find_if(tensors.begin(), tensors.end(), [&](const auto& segments) {
      return segments.front()->tensor == segment.tensor;
    });
    if (known == tensors.end()) {
      tensors.push_back({&segment});
    } else {
      known->push_back(&segment);
    }
  }

  const auto n = static_cast<std::size_t>(group.size);
  RowBatch batch(group.size);
  std::vector<float> buffer;
  for (const auto& segments : tensors) {
    double total = 0;
    for (const AxisSegment* segment : segments) {
      for_centred_rows(coordinates_of(checkpoint, group, *segment), buffer,
                       [&](std::span<const float> values) {
                         for (const float value : values) {
                           total += static_cast<double>(value) * static_cast<double>(value);
                         }
                       });
    }
    if (!std::isfinite(total)) {
      throw Error(ErrorCode::input,
                  fmt::format("tensor '{}': holds NaN or infinity, expected numbers",
                              segments.front()->tensor));
    }
    if (total == 0) continue;
    for (const AxisSegment* segment : segments) {
      for_centred_rows(
          coordinates_of(checkpoint, group, *segment), buffer,
          [&](std::span<const float> values) { batch.add(values, 1.0 / std::sqrt(total)); });
    }
  }

  const GramMatrix& gram = batch.finish();
  std::vector<double> square(n);
  for (std::size_t member = 0; member < n; ++member) {
    const auto index = static_cast<Index>(member);
    square[member] = gram(index, index);
  }
  return gram.cosines(std::vector<double>(n), square);
}

}  // namespace icd
