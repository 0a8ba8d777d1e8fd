#include "leiden.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <utility>

#include "aggregate.h"
#include "icd/random.h"
#include "solvers.h"

namespace icd {
namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// Correlation graphs stand still after 3 to 6.
constexpr int kIterations = 10;

/// Splits communities into well connected parts: single vertices merge into parts of their own
/// community. A vertex or part is well connected if its weight to the rest of the community is
/// not below what chance gives. Merges into the part where most is gained; ties to the part that
/// is met first in the row.
class Refinement {
 public:
  Refinement(const Aggregate& graph, double kappa, const std::vector<Index>& community)
      : graph_(graph),
        kappa_(kappa),
        community_(community),
        community_strength_(at(graph.size())),
        part_(at(graph.size())),
        strength_(graph.strength),
        to_rest_(at(graph.size())),
        members_(at(graph.size()), 1),
        joined_(at(graph.size())) {
    std::iota(part_.begin(), part_.end(), Index{0});
    for (Index v = 0; v < graph.size(); ++v) {
      community_strength_[at(community[at(v)])] += graph.strength[at(v)];
      for (const Neighbour& next : row(v)) {
        if (community[at(next.vertex)] == community[at(v)]) {
          to_rest_[at(v)] += double{next.weight};
        }
      }
    }
  }

  std::vector<Index> run(Random& random) {
    const Permutation visits = random_permutation(graph_.size(), random);
    for (const Index v : visits.gather()) {
      if (members_[at(part_[at(v)])] == 1 && is_well_connected(part_[at(v)], v)) merge(v);
    }
    return part_;
  }

 private:
  std::span<const Neighbour> row(Index v) const {
    return {graph_.edges.data() + graph_.begin[at(v)],
            graph_.edges.data() + graph_.begin[at(v) + 1]};
  }

  /// Of the community that v is in.
  bool is_well_connected(Index part, Index v) const {
    const double strength = strength_[at(part)];
    return to_rest_[at(part)] >=
           kappa_ * strength * (community_strength_[at(community_[at(v)])] - strength);
  }

  void merge(Index v) {
    for (const Neighbour& next : row(v)) {
      if (community_[at(next.vertex)] == community_[at(v)]) {
        joined_[at(part_[at(next.vertex)])] += double{next.weight};
      }
    }
    const Index home = part_[at(v)];
    double most = 0;
    Index best = home;
    for (const Neighbour& next : row(v)) {
      if (community_[at(next.vertex)] != community_[at(v)]) continue;
      const Index part = part_[at(next.vertex)];
      const double gain = joined_[at(part)] - kappa_ * strength_[at(home)] * strength_[at(part)];
      if (gain > most && is_well_connected(part, v)) {
        most = gain;
        best = part;
      }
    }
    if (best != home) {
      part_[at(v)] = best;
      ++members_[at(best)];
      strength_[at(best)] += strength_[at(home)];
      to_rest_[at(best)] += to_rest_[at(home)] - 2 * joined_[at(best)];
    }
    for (const Neighbour& next : row(v)) {
      joined_[at(part_[at(next.vertex)])] = 0;
    }
  }

  const Aggregate& graph_;
  double kappa_;
  const std::vector<Index>& community_;
  std::vector<double> community_strength_;  // by community
  std::vector<Index> part_;                 // (n)
  std::vector<double> strength_;            // by part, as the rest; parts are called by a member
  std::vector<double> to_rest_;             // the weight to the rest of the community
  std::vector<Index> members_;
  std::vector<double> joined_;  // scratch: the weight of the vertex at hand
};

/// One run: move, refine, aggregate the parts, until every community is one vertex.
void iterate(const Aggregate& base, double kappa, double smallest_gain, Random& random,
             std::vector<Index>& community) {
  Aggregate graph = base;
  std::vector<Index> node(community.size());  // of the aggregate, by vertex
  std::iota(node.begin(), node.end(), Index{0});
  std::vector<Index> of_node = community;
  for (;;) {
    move_locally(graph, kappa, smallest_gain, random, of_node);
    const Index communities = renumber(of_node);
    if (communities == graph.size()) break;
    std::vector<Index> part = Refinement(graph, kappa, of_node).run(random);
    Index parts = renumber(part);
    if (parts == graph.size()) {  // nothing well connected to merge: go on with the communities
      part = of_node;
      parts = communities;
    }
    std::vector<Index> of_part(at(parts));
    for (Index v = 0; v < graph.size(); ++v) of_part[at(part[at(v)])] = of_node[at(v)];
    graph = aggregate_of(graph, part, parts);
    for (Index& of_vertex : node) of_vertex = part[at(of_vertex)];
    of_node = std::move(of_part);
  }
  for (std::size_t v = 0; v < community.size(); ++v) community[v] = of_node[at(node[v])];
}

}  // namespace

std::vector<Index> leiden(const Graph& graph, double gamma, std::uint64_t seed, int iterations) {
  std::vector<Index> community(at(graph.size()));
  std::iota(community.begin(), community.end(), Index{0});
  if (graph.edges() == 0) return community;
  const Aggregate base = aggregate_of(graph);
  const double kappa = gamma / (2 * graph.total_weight());
  const double smallest_gain = 1e-10 * graph.total_weight() / graph.size();
  for (int iteration = 0; iteration < iterations; ++iteration) {
    Random random = Random::derived(seed, static_cast<std::uint64_t>(iteration));
    const std::vector<Index> before = community;
    iterate(base, kappa, smallest_gain, random, community);
    renumber(community);
    if (community == before) break;
  }
  return community;
}

std::vector<Index> louvain(const Graph& graph, double gamma, std::uint64_t seed) {
  std::vector<Index> community(at(graph.size()));
  std::iota(community.begin(), community.end(), Index{0});
  if (graph.edges() == 0) return community;
  const double kappa = gamma / (2 * graph.total_weight());
  const double smallest_gain = 1e-10 * graph.total_weight() / graph.size();
  Random random(seed);
  for (Aggregate level = aggregate_of(graph);;) {
    std::vector<Index> of_node(at(level.size()));
    std::iota(of_node.begin(), of_node.end(), Index{0});
    if (!move_locally(level, kappa, smallest_gain, random, of_node)) break;
    const Index communities = renumber(of_node);
    for (Index& of_vertex : community) of_vertex = of_node[at(of_vertex)];
    level = aggregate_of(level, of_node, communities);
  }
  renumber(community);
  return community;
}

Permutation side_by_side(const std::vector<Index>& community) {
  std::vector<Index> number = community;
  renumber(number);  // by lowest member
  std::vector<Index> order(number.size());
  std::iota(order.begin(), order.end(), Index{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](Index u, Index v) { return number[at(u)] < number[at(v)]; });
  return Permutation::from_gather(std::move(order));
}

// Leiden's communities side by side. Reads the objective's resolution, 1 where it has none, and
// not its blocks: communities have the sizes that modularity gives them.
//
// Source  V. A. Traag, L. Waltman, N. J. van Eck, "From Louvain to Leiden: guaranteeing
//         well-connected communities", Scientific Reports 2019. Refinement takes the best merge
//         rather than a random one (their theta to 0), as GVE-Leiden does.
// Cost    O(E) a sweep, of which a run takes some ten and a solve up to ten runs; 16 bytes an
//         edge end.
// Ties    to staying, then to the community that is met first by rising vertex.
Permutation solve_leiden(const Problem& problem, const SolveOptions& options) {
  const double gamma = problem.gamma() > 0 ? problem.gamma() : 1;
  return side_by_side(leiden(problem.graph(), gamma, options.seed, kIterations));
}

// Louvain's communities side by side; what Leiden is compared with.
//
// Source  V. D. Blondel et al., "Fast unfolding of communities in large networks", J. Stat.
//         Mech. 2008, with a queue of vertices to visit.
// Cost    O(E) a sweep; 8 bytes an edge end.
// Ties    as Leiden.
Permutation solve_louvain(const Problem& problem, const SolveOptions& options) {
  const double gamma = problem.gamma() > 0 ? problem.gamma() : 1;
  return side_by_side(louvain(problem.graph(), gamma, options.seed));
}

}  // namespace icd
