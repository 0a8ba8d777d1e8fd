#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "icd/axis_facts.h"
#include "icd/graph.h"
#include "icd/objective.h"

namespace icd::testing {

/// `blocks` communities of `size` vertices with weights of 1 to 2 inside and, for one pair in
/// four, up to 0.1 between them; the numbers of the vertices are shuffled.
Graph planted_blocks(Index blocks, Index size, std::uint64_t seed);

/// Is an edge with probability `density` between every two of n vertices, weights in (0, 1].
Graph random_graph(Index n, double density, std::uint64_t seed);

/// Everything that can be known of an axis whose members are the vertices: two readers, the
/// moments of a signal, decays, activity. All but the graph is made from the seed.
AxisFacts facts_of(Graph graph, std::uint64_t seed = 1);

/// An objective of the table on a graph and facts_of() it, which it keeps alive.
std::shared_ptr<const Problem> problem_of(std::string_view objective, Graph graph,
                                          const ObjectiveOptions& options = {});

/// A graph that a solver or an objective may stumble over, and the block that goes with it.
struct AwkwardGraph {
  std::string_view name;
  Graph graph;
  Index block;
};

/// No vertices, one, no edges, pieces, a star, equal weights, very small and large weights, blocks
/// that do not divide the size, are larger than it, or hold one member.
std::vector<AwkwardGraph> awkward_graphs();

}  // namespace icd::testing
