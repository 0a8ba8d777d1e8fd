#include <cstdint>
#include <utility>

#include "icd/random.h"
#include "line_search.h"
#include "solvers.h"

namespace icd {

// Short linear arrangement: each vertex in turn goes where the sum of weight times distance is
// least, until nobody moves. From the spectral order, which is the relaxed problem's solution,
// and from the order as it is; from shuffles if more starts are asked for. Reads neither the
// objective nor the blocks.
//
// Source  minimum linear arrangement: L. H. Harper, 1964; the start: M. Juvan, B. Mohar,
//         "Optimal linear labelings and eigenvalues of graphs", Discrete Appl. Math. 1992;
//         insertions as J. Petit's experiments, ACM J. Exp. Algorithmics 2003, use swaps.
// Cost    spectral, then O(V + E/V) a vertex visited. A step is one vertex.
// Ties    to the place nearest to where a vertex is, then to the earlier start.
Permutation solve_arrange(const Problem& problem, const SolveOptions& options) {
  const Graph& graph = problem.graph();
  std::int64_t steps = options.max_steps;
  Permutation best = Permutation::identity(graph.size());
  double least = line_length(graph, best);
  const auto improve = [&](const Permutation& from) {
    LineSearch search(graph, from);
    search.descend(steps);
    Permutation order = search.order();
    if (const double length = line_length(graph, order); length < least) {
      least = length;
      best = std::move(order);
    }
  };

  improve(solve_spectral(problem, options));
  improve(Permutation::identity(graph.size()));
  for (int start = 2; start < options.starts && steps > 0; ++start) {
    Random random = Random::derived(options.seed, static_cast<std::uint64_t>(start));
    improve(random_permutation(graph.size(), random));
  }
  return best;
}

}  // namespace icd
