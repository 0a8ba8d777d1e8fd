#pragma once

#include <cstddef>
#include <vector>

#include "icd/graph.h"
#include "icd/random.h"

namespace icd {

/// A graph whose vertices stand for sets of vertices: what Louvain and Leiden work on. Weights
/// inside a set do not matter to them, so there are no loops; the strengths are those of the sets.
struct Aggregate {
  std::vector<std::size_t> begin;  ///< (n + 1) of rows
  std::vector<Neighbour> edges;
  std::vector<double> strength;  ///< (n)

  Index size() const noexcept { return static_cast<Index>(strength.size()); }
};

Aggregate aggregate_of(const Graph& graph);

/// The graph of the sets that `set` (n) numbers 0 ... sets - 1. O(n + E).
Aggregate aggregate_of(const Aggregate& graph, const std::vector<Index>& set, Index sets);

/// Moves single vertices to the community of a neighbour, or into an empty one, while the
/// modularity times W rises by more than `smallest_gain`: each vertex when it is new or a
/// neighbour has left, first in a random order. kappa is gamma / 2W. True if anybody moved. Ties
/// stay, then go to the community that is met first in the row.
bool move_locally(const Aggregate& graph, double kappa, double smallest_gain, Random& random,
                  std::vector<Index>& community);

/// Numbers the values of `labels`, each below n, by first occurrence; how many there are.
Index renumber(std::vector<Index>& labels);

}  // namespace icd
