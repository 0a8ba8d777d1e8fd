#include "icd/tensor_view.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <Eigen/Core>
#include <cassert>
#include <cstring>

#include "icd/error.h"

namespace icd {
namespace {

// Data may stand at any byte address, so elements are loaded by memcpy.
template <typename Stored>
Stored load(const std::byte* from) {
  Stored value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

/// Calls `visit(bytes of the element)` for every element, row-major.
template <typename Visit>
void for_each_element(const TensorView& view, int axis, const std::byte* from, Visit& visit) {
  const auto size = static_cast<std::int64_t>(dtype_bytes(view.dtype));
  if (axis == view.rank()) return visit(from);
  const auto a = static_cast<std::size_t>(axis);
  const std::int64_t step = view.strides[a] * size;
  for (std::int64_t i = 0; i < view.shape[a]; ++i) {
    for_each_element(view, axis + 1, from + i * step, visit);
  }
}

template <typename Stored, typename Real>
void read_typed(const TensorView& view, std::span<Real> out) {
  if (view.is_packed()) {
    const std::byte* from = view.data;
    for (Real& value : out) {
      value = static_cast<Real>(load<Stored>(from));
      from += sizeof(Stored);
    }
    return;
  }
  auto* to = out.data();
  auto visit = [&](const std::byte* from) { *to++ = static_cast<Real>(load<Stored>(from)); };
  for_each_element(view, 0, view.data, visit);
}

template <typename Real>
void read_real(const TensorView& view, std::span<Real> out) {
  assert(static_cast<std::int64_t>(out.size()) == view.elements());
  switch (view.dtype) {
    case DType::f16:
      return read_typed<Eigen::half>(view, out);
    case DType::bf16:
      return read_typed<Eigen::bfloat16>(view, out);
    case DType::f32:
      return read_typed<float>(view, out);
    case DType::f64:
      return read_typed<double>(view, out);
    default:
      throw Error(
          ErrorCode::unsupported,
          fmt::format("values of type {} cannot be computed with, expected F16, BF16, F32 or F64",
                      dtype_name(view.dtype)));
  }
}

}  // namespace

std::int64_t TensorView::elements() const noexcept {
  std::int64_t product = 1;
  for (const std::int64_t extent : shape) product *= extent;
  return product;
}

bool TensorView::is_packed() const noexcept {
  std::int64_t expected = 1;
  for (auto a = shape.size(); a-- > 0;) {
    // An axis of one element is never stepped along, so its stride says nothing.
    if (shape[a] != 1 && strides[a] != expected) return elements() == 0;
    expected *= shape[a];
  }
  return true;
}

std::vector<std::int64_t> packed_strides(std::span<const std::int64_t> shape) {
  std::vector<std::int64_t> strides(shape.size());
  std::int64_t stride = 1;
  for (auto a = shape.size(); a-- > 0;) {
    strides[a] = stride;
    stride *= shape[a];
  }
  return strides;
}

std::string shape_text(std::span<const std::int64_t> shape) {
  return fmt::format("({}{})", fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
}

void read_as(const TensorView& view, std::span<float> out) { read_real(view, out); }
void read_as(const TensorView& view, std::span<double> out) { read_real(view, out); }

}  // namespace icd
