#include <algorithm>
#include <boost/graph/compressed_sparse_row_graph.hpp>
#include <boost/graph/cuthill_mckee_ordering.hpp>
#include <boost/graph/properties.hpp>
#include <boost/property_map/property_map.hpp>
#include <numeric>
#include <tuple>
#include <utility>
#include <vector>

#include "solvers.h"

namespace icd {
namespace {

using Unweighted =
    boost::compressed_sparse_row_graph<boost::directedS, boost::no_property, boost::no_property,
                                       boost::no_property, std::uint32_t, std::uint64_t>;

Unweighted without_weights(const Graph& graph) {
  std::vector<std::uint32_t> sources;
  std::vector<std::uint32_t> targets;
  sources.reserve(2 * static_cast<std::size_t>(graph.edges()));
  targets.reserve(sources.capacity());
  for (Index u = 0; u < graph.size(); ++u) {
    for (const Neighbour& next : graph.neighbours(u)) {
      sources.push_back(static_cast<std::uint32_t>(u));
      targets.push_back(static_cast<std::uint32_t>(next.vertex));
    }
  }
  return {boost::construct_inplace_from_sources_and_targets, sources, targets,
          static_cast<std::uint32_t>(graph.size())};
}

}  // namespace

// Reverse Cuthill-McKee: from a pseudo-peripheral vertex of each component, walk breadth
// first, visiting neighbours by rising degree; then reverse the walk. Narrows the bandwidth.
// Reads neither the weights nor the objective.
//
// Source  E. Cuthill, J. McKee, "Reducing the bandwidth of sparse symmetric matrices", ACM
//         National Conference 1969; reversal: A. George, 1971. Boost.Graph's walk and starts.
// Cost    O(V log V + E log d) for largest degree d; 8 bytes an edge end.
// Ties    to the lower vertex, components by their lowest vertex.
Permutation solve_rcm(const Problem& problem, const SolveOptions&) {
  const Graph& graph = problem.graph();
  const auto n = static_cast<std::size_t>(graph.size());

  // Boost sorts by degree with std::sort, which leaves ties to the library. Ranks have none.
  std::vector<Index> by_degree(n);
  std::iota(by_degree.begin(), by_degree.end(), Index{0});
  std::stable_sort(by_degree.begin(), by_degree.end(),
                   [&](Index u, Index v) { return graph.degree(u) < graph.degree(v); });
  std::vector<Index> rank(n);
  for (std::size_t i = 0; i < n; ++i) {
    rank[static_cast<std::size_t>(by_degree[i])] = static_cast<Index>(i);
  }

  const Unweighted structure = without_weights(graph);
  const auto index = get(boost::vertex_index, structure);
  std::vector<boost::default_color_type> colours(n);
  std::vector<Index> order(n);
  boost::cuthill_mckee_ordering(structure, order.rbegin(),
                                boost::make_iterator_property_map(colours.begin(), index),
                                boost::make_iterator_property_map(rank.begin(), index));
  return Permutation::from_gather(std::move(order));
}

}  // namespace icd
