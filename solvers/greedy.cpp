#include "solvers.h"

namespace icd {

// Whatever simple construction the objective has: blocks grown from heavy vertices, columns dealt
// to groups, a sort.
//
// Source  the objective's, which its file names.
// Cost    O(V^2) at most.
// Ties    to the lower member.
Permutation solve_greedy(const Problem& problem, const SolveOptions&) { return problem.greedy(); }

}  // namespace icd
