#include "icd/random.h"

#include "solvers.h"

namespace icd {

// A uniform shuffle: the level that structure has to beat. Reads nothing but the seed.
//
// Source  R. Durstenfeld, "Algorithm 235: Random permutation", CACM 1964.
// Cost    O(V).
// Ties    none.
Permutation solve_random(const Problem& problem, const SolveOptions& options) {
  Random random(options.seed);
  return random_permutation(problem.size(), random);
}

}  // namespace icd
