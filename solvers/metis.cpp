#include <metis.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "icd/error.h"
#include "solvers.h"

namespace icd {

// METIS's recursive bisection into as many parts as there are blocks, at the tightest balance.
// Sizes of its parts differ by a few vertices: they are laid side by side, members ascending,
// and the line is chopped into equal blocks. Does not read the objective.
//
// Source  G. Karypis, V. Kumar, "A fast and high quality multilevel scheme for partitioning
//         irregular graphs", SIAM J. Sci. Comput. 1998; METIS 5.
// Cost    O(E log(V/B)); 8 bytes an edge end. The seed is METIS's.
// Ties    the library's.
Permutation solve_metis(const Problem& problem, const SolveOptions& options) {
  const Graph& graph = problem.graph();
  const Blocks blocks = problem.blocks();
  if (graph.edges() == 0 || blocks.size == 1 || blocks.count(graph.size()) <= 1) {
    return Permutation::identity(graph.size());
  }
  idx_t n = graph.size();
  idx_t constraints = 1;
  idx_t parts = blocks.count(graph.size());

  // METIS sums weights in 32 bits: at n = 2560, 10^4 w has given a negative cut. All weights
  // together stay below 2^31.
  const double unit = 2147483647.0 / 1.25 / (2 * graph.total_weight());
  std::vector<idx_t> begin = {0};
  std::vector<idx_t> ends;
  std::vector<idx_t> weights;
  ends.reserve(2 * static_cast<std::size_t>(graph.edges()));
  weights.reserve(ends.capacity());
  for (Index v = 0; v < graph.size(); ++v) {
    for (const Neighbour& next : graph.neighbours(v)) {
      ends.push_back(next.vertex);
      const auto weight = static_cast<idx_t>(std::lround(double{next.weight} * unit));
      weights.push_back(std::max<idx_t>(weight, 1));  // METIS wants them positive
    }
    begin.push_back(static_cast<idx_t>(ends.size()));
  }

  std::vector<idx_t> settings(METIS_NOPTIONS);
  METIS_SetDefaultOptions(settings.data());
  settings[METIS_OPTION_UFACTOR] = 1;  // parts at most 0.1% too large, as far as it can
  settings[METIS_OPTION_SEED] = static_cast<idx_t>(options.seed & 0x7FFFFFFF);
  idx_t cut = 0;
  std::vector<idx_t> part(static_cast<std::size_t>(n));
  const int status = METIS_PartGraphRecursive(&n, &constraints, begin.data(), ends.data(), nullptr,
                                              nullptr, weights.data(), &parts, nullptr, nullptr,
                                              settings.data(), &cut, part.data());
  if (status != METIS_OK || cut < 0) {
    throw Error(ErrorCode::unsupported, "METIS: it has failed on a graph of " + std::to_string(n) +
                                            " vertices, expected " + std::to_string(parts) +
                                            " parts");
  }

  std::vector<Index> order(part.size());
  std::iota(order.begin(), order.end(), Index{0});
  std::stable_sort(order.begin(), order.end(), [&](Index u, Index v) {
    return part[static_cast<std::size_t>(u)] < part[static_cast<std::size_t>(v)];
  });
  return Permutation::from_gather(std::move(order));
}

}  // namespace icd
