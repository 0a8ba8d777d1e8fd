#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "icd/permutation.h"

namespace icd {

/// One end of an edge, seen from the other.
struct Neighbour {
  Index vertex;
  float weight;
};

/// An undirected graph with weights > 0, without loops, in compressed rows: every edge
/// stands in both of its rows, with the same weight, rows sorted by vertex. 16 bytes an edge: a
/// complete graph of 16384 vertices takes 2 GiB.
class Graph {
 public:
  /// The graph without vertices.
  Graph() = default;

  /// From a symmetric (n, n) matrix of weights, row-major; the diagonal is ignored, zeros
  /// are no edges. Throws Error{usage} for a size mismatch, a negative, NaN or infinite
  /// weight, or a pair whose two entries differ, naming the pair. O(n^2).
  static Graph from_matrix(std::span<const float> weights, Index n);

  /// From a list of edges between vertices below n >= 0, in any order and direction.
  /// Weights of repeated edges add up; zeros are no edges. Throws Error{usage} for a loop, a
  /// vertex out of range, or a negative, NaN or infinite weight. O(E log E).
  struct Edge {
    Index u;
    Index v;
    float weight;
  };
  static Graph from_edges(Index n, std::vector<Edge> edges);

  Index size() const noexcept { return static_cast<Index>(begin_.size()) - 1; }
  std::int64_t edges() const noexcept { return std::ssize(neighbours_) / 2; }

  std::span<const Neighbour> neighbours(Index v) const noexcept {
    const auto row = begin_.begin() + v;
    return {neighbours_.data() + row[0], static_cast<std::size_t>(row[1] - row[0])};
  }
  Index degree(Index v) const noexcept { return static_cast<Index>(neighbours(v).size()); }

  /// The weight between u and v, 0 if there is no edge. O(1) if u has an edge to every
  /// other vertex, else O(log degree).
  float weight(Index u, Index v) const noexcept;

  /// The sum of the weights at v, added in vertex order.
  double strength(Index v) const noexcept { return strength_[static_cast<std::size_t>(v)]; }

  /// The sum of the weights of all edges, each once: half the sum of the strengths.
  double total_weight() const noexcept { return total_; }

 private:
  friend struct GraphBuilder;

  void add_up();

  std::vector<std::int64_t> begin_ = {0};
  std::vector<Neighbour> neighbours_;
  std::vector<double> strength_;
  double total_ = 0;
};

/// How a correlation becomes a weight.
enum class EdgeWeight {
  absolute,  ///< |r|
  squared,   ///< r^2
  relu,      ///< max(r, 0)
};

struct CorrelationGraphOptions {
  EdgeWeight weight = EdgeWeight::absolute;
  Index top_k = 0;  ///< keep an edge that is among the k heaviest of either end; 0 keeps all
};

/// The graph of a symmetric (n, n) matrix of correlations. Ties go to the lower vertex.
/// NaN (a channel that never moves) counts as no correlation. The diagonal is ignored.
/// Throws Error{usage} as Graph::from_matrix does.
Graph correlation_graph(std::span<const float> correlation, Index n,
                        const CorrelationGraphOptions& options = {});

struct Activity;  // axis_facts.h

/// How much more often two members are active together than if they were independent: the lift
/// P(u and v) / (P(u) P(v)) - 1 where it is positive, by counts over the tokens. O(n^2 tokens /
/// 64); 4 n^2 bytes while it runs. Throws Error{usage} for bits that are not (size, words).
Graph coactivation_graph(const Activity& activity);

/// Which of n members the tiles of kernels read together: a kernel of tile width w reads members
/// [k w, (k + 1) w) at once, and the weight of a pair is how many of the widths have both in one
/// tile. Throws Error{usage} for a width below 1. O(n^2 widths).
Graph shared_access_graph(Index n, std::span<const Index> tiles);

}  // namespace icd
