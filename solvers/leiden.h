#pragma once

#include <cstdint>
#include <vector>

#include "icd/graph.h"
#include "icd/permutation.h"

namespace icd {

/// The community of every vertex: (n), numbered from 0 by lowest member. Maximises
///   sum over communities c of [ L_c / W - gamma (S_c / 2W)^2 ],
/// Newman's modularity, over partitions of any number and size. `iterations` whole runs, each
/// from the communities of the last; fewer where one changes nothing.
std::vector<Index> leiden(const Graph& graph, double gamma, std::uint64_t seed, int iterations);

/// The same without refinement, from single vertices: Louvain.
std::vector<Index> louvain(const Graph& graph, double gamma, std::uint64_t seed);

/// The vertices with communities side by side, by lowest member; members ascending. Communities
/// have any numbers in [0, n).
Permutation side_by_side(const std::vector<Index>& community);

}  // namespace icd
