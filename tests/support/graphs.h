#pragma once

#include <cstdint>

#include "icd/graph.h"

namespace icd::testing {

/// `blocks` communities of `size` vertices with weights of 1 to 2 inside and, for one pair in
/// four, up to 0.1 between them; the numbers of the vertices are shuffled.
Graph planted_blocks(Index blocks, Index size, std::uint64_t seed);

/// Is an edge with probability `density` between every two of n vertices, weights in (0, 1].
Graph random_graph(Index n, double density, std::uint64_t seed);

}  // namespace icd::testing
