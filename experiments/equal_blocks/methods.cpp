#include "methods.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "icd/solver.h"
#include "solvers/greedy.h"

#ifdef ICD_WITH_METIS
#include <metis.h>
#endif

namespace icd::experiments {
namespace {

Method of_icd(std::string_view name) {
  return {name, [solver = find_solver(name)](const Graph& graph, Blocks blocks) {
            return solver->solve(graph, intra_block(), {.blocks = blocks, .seed = 1});
          }};
}

Permutation grow(const Graph& graph, Blocks blocks) {
  return greedy_blocks(graph, intra_block().gamma(), blocks);
}

#ifdef ICD_WITH_METIS

/// Sizes of METIS's parts differ by a few vertices: they are laid side by side, members
/// ascending, and the line is chopped into equal blocks.
template <auto kPartition>
Permutation with_metis(const Graph& graph, Blocks blocks) {
  idx_t n = graph.size();
  idx_t constraints = 1;
  idx_t parts = blocks.count(graph.size());

  // METIS sums weights in 32 bits: at n = 2560, 10^4 w has given a negative cut. All weights
  // together stay below 2^31.
  const double unit = 2147483647.0 / 1.25 / (2 * graph.total_weight());
  std::vector<idx_t> begin = {0};
  std::vector<idx_t> ends;
  std::vector<idx_t> weights;
  for (Index v = 0; v < graph.size(); ++v) {
    for (const Neighbour& next : graph.neighbours(v)) {
      ends.push_back(next.vertex);
      const auto weight = static_cast<idx_t>(std::lround(double{next.weight} * unit));
      weights.push_back(std::max<idx_t>(weight, 1));  // METIS wants them positive
    }
    begin.push_back(static_cast<idx_t>(ends.size()));
  }

  std::vector<idx_t> options(METIS_NOPTIONS);
  METIS_SetDefaultOptions(options.data());
  options[METIS_OPTION_UFACTOR] = 1;  // parts at most 0.1% too large, as far as it can
  options[METIS_OPTION_SEED] = 1;
  idx_t cut = 0;
  std::vector<idx_t> part(static_cast<std::size_t>(n));
  const int status =
      kPartition(&n, &constraints, begin.data(), ends.data(), nullptr, nullptr, weights.data(),
                 &parts, nullptr, nullptr, options.data(), &cut, part.data());
  if (status != METIS_OK || cut < 0) throw std::runtime_error("METIS failed");

  std::vector<Index> order(part.size());
  std::iota(order.begin(), order.end(), Index{0});
  std::stable_sort(order.begin(), order.end(), [&](Index u, Index v) {
    return part[static_cast<std::size_t>(u)] < part[static_cast<std::size_t>(v)];
  });
  return Permutation::from_gather(std::move(order));
}

#endif

}  // namespace

std::vector<Method> methods() {
  std::vector<Method> all = {of_icd("identity"), of_icd("random"),        of_icd("degree"),
                             of_icd("spectral"), {"greedy growth", grow}, of_icd("swap")};
#ifdef ICD_WITH_METIS
  all.push_back({"METIS kway", with_metis<METIS_PartGraphKway>});
  all.push_back({"METIS rb", with_metis<METIS_PartGraphRecursive>});
#endif
  return all;
}

}  // namespace icd::experiments
