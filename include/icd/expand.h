#pragma once

#include <map>
#include <string>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/layout.h"
#include "icd/permutation.h"

namespace icd {

/// A re-ordering of one whole axis of one tensor.
struct AxisMove {
  int dim = 0;
  Permutation order;
};

/// What happens to each tensor, by name; tensors without a move are not in it. At most
/// one move an axis; moves on different axes commute.
using TensorMoves = std::map<std::string, std::vector<AxisMove>>;

/// Expands the order of each group to every axis that must follow it. Identity moves are
/// left out. The groups and sizes have to be those of the layout, the layout that of the
/// checkpoint (check_plan).
TensorMoves expand(const Checkpoint& checkpoint, const Layout& layout,
                   const std::map<std::string, Permutation>& groups);

/// How an order of d_model hidden channels becomes one of d_inner channels.
enum class HiddenExpansion {
  block,   ///< channel c owns the run [c * factor, (c + 1) * factor): inflate
  repeat,  ///< the first of every run, then the second of every run, ...: deal
};

/// `hidden` on `size` points, size = hidden.size() * factor with a whole factor >= 1.
/// Throws Error{usage} for any other ratio, naming both sizes.
Permutation expand_hidden(const Permutation& hidden, Index size, HiddenExpansion expansion);

}  // namespace icd
