#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "icd/dtype.h"

namespace icd {

using Shape = std::vector<std::int64_t>;

/// A tensor in borrowed memory: element (i, j, ...) stands at
/// data + (i * strides[0] + j * strides[1] + ...) * dtype_bytes(dtype).
/// Whoever made the view has checked that all of it lies inside its file.
struct TensorView {
  DType dtype = DType::f32;
  std::span<const std::int64_t> shape = {};
  std::span<const std::int64_t> strides = {};  ///< in elements, one an axis, >= 0
  const std::byte* data = nullptr;

  int rank() const noexcept { return static_cast<int>(shape.size()); }
  std::int64_t elements() const noexcept;

  /// Row-major without gaps? Then the bytes are [data, data + elements * size).
  bool is_packed() const noexcept;
};

/// Row-major strides of a packed tensor, in elements.
std::vector<std::int64_t> packed_strides(std::span<const std::int64_t> shape);

/// "(768, 192)", "(768,)"; "()" for a scalar.
std::string shape_text(std::span<const std::int64_t> shape);

/// Copies `view` to `out`, row-major and packed, as float or double.
/// Exact for every readable type but F64 to float, which rounds to nearest.
/// Throws Error{unsupported} for a type that is_readable_float denies.
void read_as(const TensorView& view, std::span<float> out);
void read_as(const TensorView& view, std::span<double> out);

}  // namespace icd
