#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "solvers.h"

namespace icd {

// By strength (the weighted degree), heavy first: puts the channels that correlate with
// everything together. Reads neither the objective nor the blocks.
//
// Source  the usual baseline of vertex re-ordering: V. Balaji, B. Lucia, "When is graph
//         reordering an optimization?", IISWC 2018.
// Cost    O(V log V).
// Ties    to the lower vertex.
Permutation solve_degree(const Problem& problem, const SolveOptions&) {
  const Graph& graph = problem.graph();
  std::vector<Index> order(static_cast<std::size_t>(graph.size()));
  std::iota(order.begin(), order.end(), Index{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](Index u, Index v) { return graph.strength(u) > graph.strength(v); });
  return Permutation::from_gather(std::move(order));
}

}  // namespace icd
