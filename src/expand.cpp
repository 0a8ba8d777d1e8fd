#include "icd/expand.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

#include "icd/error.h"

namespace icd {
namespace {

/// A part of an axis that an order acts on.
struct Stretch {
  const AxisSegment* segment;
  const Permutation* order;
};

/// The order of a whole axis: its stretches where they stand, everything else in place.
Permutation whole_axis(std::vector<Stretch> stretches, Index length) {
  std::sort(stretches.begin(), stretches.end(), [](const Stretch& a, const Stretch& b) {
    return a.segment->offset < b.segment->offset;
  });
  std::vector<Permutation> parts;
  Index filled = 0;
  const auto keep_until = [&](Index position) {
    assert(position >= filled);
    parts.push_back(Permutation::identity(position - filled));
    filled = position;
  };
  for (const Stretch& stretch : stretches) {
    keep_until(stretch.segment->offset);
    parts.push_back(inflate(*stretch.order, stretch.segment->block));
    filled += parts.back().size();
  }
  keep_until(length);
  return direct_sum(parts);
}

}  // namespace

TensorMoves expand(const Checkpoint& checkpoint, const Layout& layout,
                   const std::map<std::string, Permutation>& groups) {
  std::map<std::string, std::map<int, std::vector<Stretch>>> stretches;
  for (const auto& [name, order] : groups) {
    if (order.is_identity()) continue;
    for (const AxisSegment& segment : layout.find(name)->segments) {
      stretches[segment.tensor][segment.dim].push_back({&segment, &order});
    }
  }
  TensorMoves moves;
  for (auto& [tensor, axes] : stretches) {
    const Shape& shape = checkpoint.find(tensor)->shape;
    for (auto& [dim, parts] : axes) {
      const auto length = static_cast<Index>(shape[static_cast<std::size_t>(dim)]);
      moves[tensor].push_back({dim, whole_axis(std::move(parts), length)});
    }
  }
  return moves;
}

Permutation expand_hidden(const Permutation& hidden, Index size, HiddenExpansion expansion) {
  if (hidden.size() == 0 || size < hidden.size() || size % hidden.size() != 0) {
    throw Error(
        ErrorCode::usage,
        fmt::format("expansion: {} channels from {} hidden ones is a ratio of {:.4g}, expected "
                    "a whole number of at least 1",
                    size, hidden.size(), static_cast<double>(size) / hidden.size()),
        "--expand independent solves the inner axis by itself");
  }
  const Index factor = size / hidden.size();
  return expansion == HiddenExpansion::block ? inflate(hidden, factor) : deal(hidden, factor);
}

}  // namespace icd
