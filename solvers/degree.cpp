#include <vector>

#include "plain_search.h"
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
  std::vector<double> strengths;
  for (Index v = 0; v < problem.size(); ++v) strengths.push_back(problem.graph().strength(v));
  return sorted_by_falling(strengths);
}

}  // namespace icd
