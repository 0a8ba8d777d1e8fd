#include "plain_search.h"
#include "solvers.h"

namespace icd {

// By the objective's key, high first: the best order where the score wants a ranking
// (importance, act-order, timescale), a baseline for the others.
//
// Source  none.
// Cost    O(V log V).
// Ties    to the lower member.
Permutation solve_sort(const Problem& problem, const SolveOptions&) {
  const std::vector<double> keys = problem.keys();
  return keys.empty() ? Permutation::identity(problem.size()) : sorted_by_falling(keys);
}

}  // namespace icd
