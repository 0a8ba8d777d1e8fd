#include "icd/graph.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <tuple>
#include <utility>

#include "graph_builder.h"
#include "icd/axis_facts.h"
#include "icd/error.h"

namespace icd {
namespace {

constexpr Index kTile = 32;  // of a matrix read across the diagonal
constexpr Index kParallelSize = GraphBuilder::kParallelSize;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

void check_matrix_size(std::string_view what, std::size_t entries, Index n) {
  if (n < 0 || entries != at(n) * at(n)) {
    throw Error(ErrorCode::usage,
                fmt::format("{}: has {} entries, expected ({}, {})", what, entries, n, n));
  }
}

bool is_weight(float weight) { return weight >= 0 && !std::isinf(weight); }

void check_weight(Index u, Index v, float weight) {
  if (!is_weight(weight)) {
    throw Error(ErrorCode::usage,
                fmt::format("graph: the weight between {} and {} is {}, expected a finite number "
                            "that is not negative",
                            u, v, weight));
  }
}

/// Calls use(weight_of), where weight_of(r) is the weight of a correlation that is a number.
template <typename Use>
Graph with_weight_of(EdgeWeight weight, const Use& use) {
  switch (weight) {
    case EdgeWeight::absolute:
      break;
    case EdgeWeight::squared:
      return use([](float r) { return r * r; });
    case EdgeWeight::relu:
      return use([](float r) { return std::max(r, 0.0F); });
  }
  return use([](float r) { return std::fabs(r); });
}

/// Visits the pairs u < v with u in the rows [top, top + kTile). Half of the reads of a comparison
/// with (v, u) jump from row to row: in tiles they share lines.
template <typename Visit>
void for_pairs(Index n, Index top, const Visit& visit) {
  for (Index left = top; left < n; left += kTile) {
    for (Index u = top; u < std::min(n, top + kTile); ++u) {
      for (Index v = std::max(left, u + 1); v < std::min(n, left + kTile); ++v) visit(u, v);
    }
  }
}

/// Refuses weights that are none and pairs whose two entries differ; the first in the order of
/// for_pairs().
template <typename Weight>
void check_matrix(Index n, const Weight& weight) {
  bool is_fit = true;
#pragma omp parallel for schedule(dynamic) reduction(&& : is_fit) if (n >= kParallelSize)
  for (Index top = 0; top < n; top += kTile) {
    for_pairs(n, top, [&](Index u, Index v) {
      const float one = weight(u, v);
      is_fit = is_fit && is_weight(one) && one == weight(v, u);
    });
  }
  if (is_fit) return;
  for (Index top = 0; top < n; top += kTile) {
    for_pairs(n, top, [&](Index u, Index v) {
      check_weight(u, v, weight(u, v));
      if (weight(u, v) == weight(v, u)) return;
      throw Error(ErrorCode::usage,
                  fmt::format("graph: the weight between {} and {} is {}, but {} between {} and "
                              "{}; expected a symmetric matrix",
                              u, v, weight(u, v), weight(v, u), v, u));
    });
  }
}

/// The edges that are among the k heaviest of either end.
template <typename Weight>
std::vector<Graph::Edge> heaviest_edges(const Weight& weight_between, Index n, Index k) {
  std::vector<Graph::Edge> edges;
  edges.reserve(at(n) * at(std::min(k, n)));
  std::vector<Index> row(at(n));
  for (Index u = 0; u < n; ++u) {
    const auto weight = [&](Index v) { return weight_between(u, v); };
    std::iota(row.begin(), row.end(), Index{0});
    row.erase(row.begin() + u);
    const auto kept = row.begin() + std::min(k, n - 1);
    // The order is total, so the k first are a set that does not depend on the algorithm.
    std::nth_element(row.begin(), kept, row.end(), [&](Index v, Index w) {
      return weight(v) != weight(w) ? weight(v) > weight(w) : v < w;
    });
    for (auto v = row.begin(); v != kept; ++v) {
      edges.push_back({std::min(u, *v), std::max(u, *v), weight(*v)});
    }
    row.push_back(u);  // back to n entries
  }
  const auto ends = [](const Graph::Edge& e) { return std::pair(e.u, e.v); };
  std::sort(edges.begin(), edges.end(),
            [&](const auto& e, const auto& f) { return ends(e) < ends(f); });
  edges.erase(std::unique(edges.begin(), edges.end(),
                          [&](const auto& e, const auto& f) { return ends(e) == ends(f); }),
              edges.end());
  return edges;
}

/// Bits that two rows of words have in common.
std::int64_t common_bits(const std::uint64_t* a, const std::uint64_t* b, std::int64_t words) {
  std::int64_t bits = 0;
  for (std::int64_t i = 0; i < words; ++i) bits += std::popcount(a[i] & b[i]);
  return bits;
}

[[gnu::target("popcnt")]] std::int64_t common_bits_popcnt(const std::uint64_t* a,
                                                          const std::uint64_t* b,
                                                          std::int64_t words) {
  std::int64_t bits = 0;
  for (std::int64_t i = 0; i < words; ++i) bits += std::popcount(a[i] & b[i]);
  return bits;
}

}  // namespace

Graph Graph::from_matrix(std::span<const float> weights, Index n) {
  check_matrix_size("matrix of weights", weights.size(), n);
  const auto weight = [&](Index u, Index v) { return weights[at(u) * at(n) + at(v)]; };
  check_matrix(n, weight);
  return GraphBuilder::of_matrix(n, weight);
}

Graph Graph::from_edges(Index n, std::vector<Edge> edges) {
  for (const Edge& edge : edges) {
    if (edge.u < 0 || edge.u >= n || edge.v < 0 || edge.v >= n || edge.u == edge.v) {
      throw Error(ErrorCode::usage,
                  fmt::format("graph of {}: there is an edge between {} and {}, expected two "
                              "different vertices below {}",
                              n, edge.u, edge.v, n));
    }
    check_weight(edge.u, edge.v, edge.weight);
  }
  std::erase_if(edges, [](const Edge& edge) { return edge.weight == 0; });

  const auto size = edges.size();
  edges.reserve(2 * size);
  for (std::size_t i = 0; i < size; ++i) {
    edges.push_back({edges[i].v, edges[i].u, edges[i].weight});
  }
  // By weight too: repeated edges add up in an order that is not the caller's.
  std::sort(edges.begin(), edges.end(), [](const Edge& e, const Edge& f) {
    return std::tie(e.u, e.v, e.weight) < std::tie(f.u, f.v, f.weight);
  });

  Graph graph;
  graph.begin_.assign(at(n) + 1, 0);
  graph.neighbours_.reserve(edges.size());
  for (std::size_t i = 0; i < edges.size(); ++i) {
    if (i > 0 && edges[i].u == edges[i - 1].u && edges[i].v == edges[i - 1].v) {
      float& sum = graph.neighbours_.back().weight;
      sum += edges[i].weight;
      check_weight(edges[i].u, edges[i].v, sum);
    } else {
      graph.neighbours_.push_back({edges[i].v, edges[i].weight});
      ++graph.begin_[at(edges[i].u) + 1];
    }
  }
  std::partial_sum(graph.begin_.begin(), graph.begin_.end(), graph.begin_.begin());
  graph.add_up();
  return graph;
}

void Graph::add_up() {
  strength_.assign(at(size()), 0);
#pragma omp parallel for schedule(static) if (size() >= kParallelSize)
  for (Index v = 0; v < size(); ++v) {
    for (const Neighbour& next : neighbours(v)) strength_[at(v)] += double{next.weight};
  }
  total_ = std::accumulate(strength_.begin(), strength_.end(), 0.0) / 2;
}

float Graph::weight(Index u, Index v) const noexcept {
  if (u == v) return 0;
  const auto row = neighbours(u);
  if (std::ssize(row) == std::ptrdiff_t{size()} - 1) return row[at(v < u ? v : v - 1)].weight;
  const auto found =
      std::lower_bound(row.begin(), row.end(), v,
                       [](const Neighbour& next, Index vertex) { return next.vertex < vertex; });
  return found != row.end() && found->vertex == v ? found->weight : 0;
}

Graph correlation_graph(std::span<const float> correlation, Index n,
                        const CorrelationGraphOptions& options) {
  check_matrix_size("matrix of correlations", correlation.size(), n);
  return with_weight_of(options.weight, [&](const auto& weight_of) {
    const auto weight = [&](Index u, Index v) {
      const float r = correlation[at(u) * at(n) + at(v)];
      return std::isnan(r) ? 0.0F : weight_of(r);
    };
    check_matrix(n, weight);
    if (options.top_k <= 0 || options.top_k >= n - 1) return GraphBuilder::of_matrix(n, weight);
    return Graph::from_edges(n, heaviest_edges(weight, n, options.top_k));
  });
}

Graph coactivation_graph(const Activity& activity) {
  const Index n = activity.size;
  const std::int64_t words = activity.words();
  if (n < 0 || activity.tokens < 0 ||
      activity.bits.size() != at(n) * static_cast<std::size_t>(words)) {
    throw Error(ErrorCode::usage, fmt::format("activity: has {} words, expected ({}, {})",
                                              activity.bits.size(), n, words));
  }
  const auto common = __builtin_cpu_supports("popcnt") != 0 ? common_bits_popcnt : common_bits;
  const auto row = [&](Index u) { return activity.bits.data() + u * words; };
  std::vector<std::int64_t> counts(at(n));
  for (Index u = 0; u < n; ++u) counts[at(u)] = common(row(u), row(u), words);

  std::vector<float> lifts(at(n) * at(n));
#pragma omp parallel for schedule(dynamic) if (n >= kParallelSize)
  for (Index top = 0; top < n; top += kTile) {
    for_pairs(n, top, [&](Index u, Index v) {
      const std::int64_t both = common(row(u), row(v), words);
      if (both == 0) return;
      // Of whole numbers below 2^53, so it is as exact as a double can be.
      const double lift = static_cast<double>(both * activity.tokens) /
                              static_cast<double>(counts[at(u)] * counts[at(v)]) -
                          1;
      const auto weight = static_cast<float>(std::max(lift, 0.0));
      lifts[at(u) * at(n) + at(v)] = lifts[at(v) * at(n) + at(u)] = weight;
    });
  }
  return GraphBuilder::of_matrix(n, [&](Index u, Index v) { return lifts[at(u) * at(n) + at(v)]; });
}

Graph shared_access_graph(Index n, std::span<const Index> tiles) {
  for (const Index width : tiles) {
    if (width < 1) {
      throw Error(ErrorCode::usage,
                  fmt::format("tiles: one is {} members wide, expected at least 1", width));
    }
  }
  return GraphBuilder::of_matrix(std::max<Index>(n, 0), [&](Index u, Index v) {
    const auto shared = std::count_if(tiles.begin(), tiles.end(),
                                      [&](Index width) { return u / width == v / width; });
    return static_cast<float>(shared);
  });
}

}  // namespace icd
