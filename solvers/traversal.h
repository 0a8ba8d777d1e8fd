#pragma once

#include <vector>

#include "icd/graph.h"

namespace icd {

/// The vertices of each connected component, ascending; components by their lowest vertex.
std::vector<std::vector<Index>> components(const Graph& graph);

/// How many edges each vertex is away from `root`: (n), -1 where no walk leads. O(n + E).
std::vector<Index> distances(const Graph& graph, Index root);

/// Two vertices of a component that are far apart: where a walk along it begins and ends.
/// Source: A. George, J. W. H. Liu, "An implementation of a pseudoperipheral node finder", ACM
/// TOMS 1979: from the vertex of least degree, jump to a vertex of least degree among the
/// farthest as long as that one sees farther. Ties to the lower vertex.
struct Ends {
  Index begin;
  Index end;
};
Ends far_ends(const Graph& graph, const std::vector<Index>& component);

}  // namespace icd
