#include "icd/graph.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>
#include <utility>

#include "icd/error.h"

namespace icd {
namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

void check_matrix_size(std::string_view what, std::size_t entries, Index n) {
  if (n < 0 || entries != at(n) * at(n)) {
    throw Error(ErrorCode::usage,
                fmt::format("{}: has {} entries, expected ({}, {})", what, entries, n, n));
  }
}

void check_weight(Index u, Index v, float weight) {
  if (!(weight >= 0) || std::isinf(weight)) {
    throw Error(ErrorCode::usage,
                fmt::format("graph: the weight between {} and {} is {}, expected a finite number "
                            "that is not negative",
                            u, v, weight));
  }
}

float weight_of(float correlation, EdgeWeight weight) {
  if (std::isnan(correlation)) return 0;
  switch (weight) {
    case EdgeWeight::absolute:
      return std::fabs(correlation);
    case EdgeWeight::squared:
      return correlation * correlation;
    case EdgeWeight::relu:
      return std::max(correlation, 0.0F);
  }
  return 0;
}

/// The edges that are among the k heaviest of either end.
std::vector<Graph::Edge> heaviest_edges(std::span<const float> weights, Index n, Index k) {
  std::vector<Graph::Edge> edges;
  edges.reserve(at(n) * at(std::min(k, n)));
  std::vector<Index> row(at(n));
  for (Index u = 0; u < n; ++u) {
    const auto weight = [&](Index v) { return weights[at(u) * at(n) + at(v)]; };
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

}  // namespace

Graph Graph::from_matrix(std::span<const float> weights, Index n) {
  check_matrix_size("matrix of weights", weights.size(), n);

  // Half of the reads for the comparison jump from row to row: in tiles they share lines.
  constexpr Index kTile = 32;
  for (Index top = 0; top < n; top += kTile) {
    for (Index left = top; left < n; left += kTile) {
      for (Index u = top; u < std::min(n, top + kTile); ++u) {
        for (Index v = std::max(left, u + 1); v < std::min(n, left + kTile); ++v) {
          const float weight = weights[at(u) * at(n) + at(v)];
          const float mirrored = weights[at(v) * at(n) + at(u)];
          check_weight(u, v, weight);
          if (weight != mirrored) {
            throw Error(ErrorCode::usage,
                        fmt::format("graph: the weight between {} and {} is {}, but {} between {} "
                                    "and {}; expected a symmetric matrix",
                                    u, v, weight, mirrored, v, u));
          }
        }
      }
    }
  }

  Graph graph;
  graph.begin_.reserve(at(n) + 1);
  std::size_t entries = 0;
  for (Index u = 0; u < n; ++u) {
    const auto row = weights.subspan(at(u) * at(n), at(n));
    entries += at(n) - static_cast<std::size_t>(std::count(row.begin(), row.end(), 0.0F));
    if (row[at(u)] != 0) --entries;
    graph.begin_.push_back(static_cast<std::int64_t>(entries));
  }
  graph.neighbours_.reserve(entries);
  for (Index u = 0; u < n; ++u) {
    for (Index v = 0; v < n; ++v) {
      const float weight = weights[at(u) * at(n) + at(v)];
      if (v != u && weight != 0) graph.neighbours_.push_back({v, weight});
    }
  }
  graph.add_up();
  return graph;
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
  std::vector<float> weights(correlation.size());
  std::transform(correlation.begin(), correlation.end(), weights.begin(),
                 [&](float r) { return weight_of(r, options.weight); });
  if (options.top_k <= 0 || options.top_k >= n - 1) return Graph::from_matrix(weights, n);
  return Graph::from_edges(n, heaviest_edges(weights, n, options.top_k));
}

}  // namespace icd
