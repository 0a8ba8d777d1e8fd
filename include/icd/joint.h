#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/layout.h"
#include "icd/permutation.h"
#include "icd/problem.h"

namespace icd {

/// Groups of which one moves runs and others move inside them, as heads and the channels of each:
/// together they order one line of members * run entries.
struct Nest {
  AxisGroup line;  ///< the entries one by one, as if their order were free: kind "line"
  const AxisGroup* coarse = nullptr;
  std::vector<const AxisGroup*> fine = {};  ///< by run; null where nobody orders a run's inside
  Index run = 1;
};

/// The nests among `groups`: a coarse group is one whose members are runs of columns of the
/// matrices that read it, the fine ones those of the same columns. Pointers are those of `groups`.
std::vector<Nest> nests_of(const Checkpoint& checkpoint, const Layout& layout,
                           const std::vector<const AxisGroup*>& groups);

/// Orders of a nest.
struct NestOrders {
  Permutation coarse;
  std::vector<Permutation> fine;  ///< by run in the checkpoint's order; the identity where null

  /// The order of the line that they make.
  Permutation line() const;
};

/// Orders the groups of a nest by what the whole line scores: coordinate descent, each fine group
/// in turn and then the coarse one by exchanges, until a round gains nothing. Never worse than the
/// order as it is. `problem` is of nest.line; takes what it used from `steps`.
NestOrders solve_jointly(const Problem& problem, const Nest& nest, std::int64_t& steps);

}  // namespace icd
