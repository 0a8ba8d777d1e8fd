#pragma once

#include "icd/graph.h"
#include "icd/problem.h"

namespace icd {

/// Grows the blocks one after the other: each from the heaviest vertex left, by the vertex
/// that raises the score most. Where the search by swaps starts.
/// O(V^2 + E). Ties to the lower vertex.
Permutation greedy_blocks(const Graph& graph, double gamma, Blocks blocks);

}  // namespace icd
