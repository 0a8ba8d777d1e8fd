#include "support/graphs.h"

#include <utility>
#include <vector>

#include "icd/random.h"

namespace icd::testing {

Graph planted_blocks(Index blocks, Index size, std::uint64_t seed) {
  Random random(seed);
  const Index n = blocks * size;
  const Permutation vertex = random_permutation(n, random);
  std::vector<Graph::Edge> edges;
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < i; ++j) {
      if (i / size == j / size) {
        edges.push_back({vertex[i], vertex[j], static_cast<float>(1 + random.uniform())});
      } else if (random.below(4) == 0) {
        edges.push_back({vertex[i], vertex[j], static_cast<float>(0.1 * random.uniform())});
      }
    }
  }
  return Graph::from_edges(n, std::move(edges));
}

Graph random_graph(Index n, double density, std::uint64_t seed) {
  Random random(seed);
  std::vector<Graph::Edge> edges;
  for (Index u = 0; u < n; ++u) {
    for (Index v = 0; v < u; ++v) {
      if (random.uniform() >= density) continue;
      edges.push_back({u, v, static_cast<float>(1 - random.uniform())});
    }
  }
  return Graph::from_edges(n, std::move(edges));
}

}  // namespace icd::testing
