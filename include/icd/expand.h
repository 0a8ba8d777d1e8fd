#pragma once

#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/layout.h"
#include "icd/permutation.h"

namespace icd {

/// A re-ordering of one whole axis of one tensor, or of several axes in a row taken as one:
/// [dim, dim + span), row-major.
struct AxisMove {
  int dim = 0;
  Permutation order;
  int span = 1;

  friend bool operator==(const AxisMove&, const AxisMove&) = default;
};

/// What happens to one tensor: out[i, j, ...] = from[p0[i], p1[j], ...].
struct TensorMove {
  TensorMove() = default;
  TensorMove(std::initializer_list<AxisMove> moves) : axes(moves) {}

  std::vector<AxisMove> axes;  ///< at most one an axis; moves on different axes commute
  std::string from;            ///< another tensor, of the same shape and dtype; empty: itself

  friend bool operator==(const TensorMove&, const TensorMove&) = default;
};

/// By tensor name; tensors that stay as they are are not in it.
using TensorMoves = std::map<std::string, TensorMove>;

/// Expands the order of each group to every axis that must follow it, finer groups first, each
/// where its elements stand in the checkpoint as it is. The groups and sizes have to be those of
/// the layout, the layout that of the checkpoint (check_plan).
TensorMoves expand(const Checkpoint& checkpoint, const Layout& layout,
                   const std::map<std::string, Permutation>& groups);

/// What undoes the moves.
TensorMoves inverse(const TensorMoves& moves);

/// How an order of d_model hidden channels becomes one of d_inner channels.
enum class HiddenExpansion {
  block,   ///< channel c owns the run [c * factor, (c + 1) * factor): inflate
  repeat,  ///< the first of every run, then the second of every run, ...: deal
};

/// `hidden` on `size` points, size = hidden.size() * factor with a whole factor >= 1.
/// Throws Error{usage} for any other ratio, naming both sizes.
Permutation expand_hidden(const Permutation& hidden, Index size, HiddenExpansion expansion);

}  // namespace icd
