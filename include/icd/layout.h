#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/model_spec.h"
#include "icd/permutation.h"

namespace icd {

/// A stretch of one axis of one tensor that follows an order: entries
/// [offset, offset + size * block) of axis `dim`, `size` being the group's.
struct AxisSegment {
  std::string tensor;
  int dim = 0;
  Index offset = 0;
  Index block = 1;  ///< entries that move as one
};

/// One symmetry of a model: `size` things whose order is free, and every stretch
/// of every tensor that has to follow that order for the model to compute the
/// same function (up to the order in which floating-point sums are taken).
struct AxisGroup {
  std::string name;  ///< unique in the layout: "layers.3/inner", "model"
  std::string kind;  ///< what the command line calls it: "inner", "state", "dt_rank", "model"
  Index layer = -1;  ///< -1 for a group of the whole model
  Index size = 0;
  std::vector<AxisSegment> segments = {};
};

/// The symmetries of one checkpoint, and what its architecture says of each tensor.
struct Layout {
  std::vector<AxisGroup> groups;
  std::vector<std::string>
      strangers;  ///< tensors that the table does not know: carried as they are

  const AxisGroup* find(std::string_view name) const noexcept;

  /// The kinds that occur, in table order.
  std::vector<std::string> kinds() const;
};

/// The layout of a checkpoint, from the table of its architecture. Every tensor that the
/// table names is there with the shape it should have, and every segment lies within its
/// axis. Throws Error{input} naming the first tensor, in table order, that is missing or
/// has another shape, or a stranger of which an axis is as long as one of the groups.
Layout layout_of(const Checkpoint& checkpoint, const ModelSpec& spec);

}  // namespace icd
