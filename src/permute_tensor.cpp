#include "permute_tensor.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace icd {
namespace {

/// to[i] = from[order[i]], for elements of a size that the compiler knows.
template <std::size_t kBytes>
void gather(const std::byte* from, const Permutation& order, std::byte* to) {
  for (const Index source : order.gather()) {
    std::memcpy(to,
                from + static_cast<std::ptrdiff_t>(source) * static_cast<std::ptrdiff_t>(kBytes),
                kBytes);
    to += kBytes;
  }
}

}  // namespace

PackedPermuter::PackedPermuter(const TensorView& in, std::span<const AxisMove> moves)
    : data_(in.data) {
  assert(in.is_packed() && dtype_bytes(in.dtype) > 0);
  std::size_t last = 0;
  for (const AxisMove& move : moves) {
    last = std::max(last, static_cast<std::size_t>(move.dim + move.span));
  }
  std::int64_t bytes = in.elements() * dtype_bytes(in.dtype);
  for (std::size_t a = 0; a < std::max<std::size_t>(last, 1) && a < in.shape.size();) {
    const auto move = std::find_if(moves.begin(), moves.end(), [&](const AxisMove& m) {
      return static_cast<std::size_t>(m.dim) == a;
    });
    std::int64_t extent = in.shape[a++];
    for (int more = 1; move != moves.end() && more < move->span; ++more) extent *= in.shape[a++];
    if (extent > 0) bytes /= extent;
    extents_.push_back(extent);
    orders_.push_back(move == moves.end() ? nullptr : &move->order);
    steps_.push_back(bytes);
  }
  rows_ = extents_.empty() ? 1 : extents_.front();
  row_bytes_ = extents_.empty() ? bytes : steps_.front();
}

void PackedPermuter::write_rows(std::int64_t first, std::int64_t last, std::byte* out) const {
  for (std::int64_t row = first; row < last; ++row) {
    const bool moves = !orders_.empty() && orders_.front() != nullptr;
    const std::int64_t source = moves ? (*orders_.front())[static_cast<Index>(row)] : row;
    write_axis(1, data_ + source * row_bytes_, out);
  }
}

void PackedPermuter::write_axis(std::size_t axis, const std::byte* from, std::byte*& to) const {
  if (axis >= extents_.size()) {
    const std::int64_t bytes = steps_.empty() ? row_bytes_ : steps_[axis - 1];
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
    to += bytes;
    return;
  }
  const Permutation* order = orders_[axis];
  const std::int64_t step = steps_[axis];
  if (order != nullptr && axis + 1 == extents_.size()) {
    switch (step) {
      case 1:
        gather<1>(from, *order, to);
        break;
      case 2:
        gather<2>(from, *order, to);
        break;
      case 4:
        gather<4>(from, *order, to);
        break;
      case 8:
        gather<8>(from, *order, to);
        break;
      default:
        for (const Index source : order->gather()) {
          std::memcpy(to, from + source * step, static_cast<std::size_t>(step));
          to += step;
        }
        return;
    }
    to += extents_[axis] * step;
    return;
  }
  for (std::int64_t i = 0; i < extents_[axis]; ++i) {
    write_axis(axis + 1, from + (order == nullptr ? i : (*order)[static_cast<Index>(i)]) * step,
               to);
  }
}

}  // namespace icd
