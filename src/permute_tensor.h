#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "icd/expand.h"
#include "icd/tensor_view.h"

namespace icd {

/// Re-orders a packed tensor, some of its rows (entries of axis 0) at a time.
/// The view and the moves have to outlive it.
class PackedPermuter {
 public:
  PackedPermuter(const TensorView& in, std::span<const AxisMove> moves);

  std::int64_t rows() const noexcept { return rows_; }
  std::int64_t row_bytes() const noexcept { return row_bytes_; }

  /// Rows [first, last) of the result, packed, to `out`. Any threads at once.
  void write_rows(std::int64_t first, std::int64_t last, std::byte* out) const;

 private:
  void write_axis(std::size_t axis, const std::byte* from, std::byte*& to) const;

  const std::byte* data_;
  std::vector<std::int64_t> extents_;       // from axis 0 to the last one that moves
  std::vector<const Permutation*> orders_;  // nullptr where the axis stays
  std::vector<std::int64_t> steps_;         // bytes from one entry to the next
  std::int64_t rows_;
  std::int64_t row_bytes_;
};

/// The same for any strides, in the plainest way: out and in lie alike, and element
/// (i, j, ...) of out becomes element (p0[i], p1[j], ...) of in. `visit(to, from)` gets the
/// byte offsets of the two, from the first element, for every element.
template <typename Visit>
void for_each_moved_element(const TensorView& view, std::span<const AxisMove> moves, Visit visit) {
  const auto size = static_cast<std::int64_t>(dtype_bytes(view.dtype));
  std::vector<std::int64_t> index(view.shape.size(), 0);
  std::vector<std::int64_t> source;
  for (std::int64_t left = view.elements(); left > 0; --left) {
    std::int64_t to = 0;
    std::int64_t from = 0;
    for (std::size_t a = 0; a < index.size(); ++a) to += index[a] * view.strides[a] * size;
    source = index;
    for (const AxisMove& move : moves) {
      const auto first = static_cast<std::size_t>(move.dim);
      const auto last = first + static_cast<std::size_t>(move.span);
      std::int64_t flat = 0;
      for (std::size_t a = first; a < last; ++a) flat = flat * view.shape[a] + index[a];
      flat = move.order[static_cast<Index>(flat)];
      for (std::size_t a = last; a-- > first;) {
        source[a] = flat % view.shape[a];
        flat /= view.shape[a];
      }
    }
    for (std::size_t a = 0; a < index.size(); ++a) from += source[a] * view.strides[a] * size;
    visit(to, from);
    for (auto a = index.size(); a-- > 0;) {
      if (++index[a] < view.shape[a]) break;
      index[a] = 0;
    }
  }
}

}  // namespace icd
