#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "icd/graph.h"

namespace icd {

/// Makes graphs of what is known to be one.
struct GraphBuilder {
  static constexpr Index kParallelSize = 512;  // smaller graphs are made before threads wake up

  /// Compressed rows as Graph has them.
  static Graph of_rows(std::vector<std::int64_t> begin, std::vector<Neighbour> neighbours) {
    Graph graph;
    graph.begin_ = std::move(begin);
    graph.neighbours_ = std::move(neighbours);
    graph.add_up();
    return graph;
  }

  /// `weight(u, v)` for u != v is symmetric, and 0 or a weight.
  template <typename Weight>
  static Graph of_matrix(Index n, const Weight& weight) {
    std::vector<std::int64_t> begin(static_cast<std::size_t>(n) + 1);
#pragma omp parallel for schedule(static) if (n >= kParallelSize)
    for (Index u = 0; u < n; ++u) {
      std::int64_t degree = 0;
      for (Index v = 0; v < n; ++v) degree += v != u && weight(u, v) != 0 ? 1 : 0;
      begin[static_cast<std::size_t>(u) + 1] = degree;
    }
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    std::vector<Neighbour> neighbours(static_cast<std::size_t>(begin.back()));
#pragma omp parallel for schedule(static) if (n >= kParallelSize)
    for (Index u = 0; u < n; ++u) {
      Neighbour* next = neighbours.data() + begin[static_cast<std::size_t>(u)];
      for (Index v = 0; v < n; ++v) {
        if (v == u) continue;
        const float w = weight(u, v);
        if (w != 0) *next++ = {v, w};
      }
    }
    return of_rows(std::move(begin), std::move(neighbours));
  }
};

}  // namespace icd
