#pragma once

#include <vector>

#include "icd/graph.h"
#include "icd/problem.h"

namespace icd {

/// A linear arrangement of a graph's vertices under insertions: one vertex is taken out and put
/// in elsewhere, those between close up. An exchange of neighbours is the shortest of them.
///
/// The weight that a vertex has to its left is at hand, so what every place in the line would
/// cost a vertex comes from one walk along the line: O(n + degree) for all n places.
class LineSearch : public ExchangeSearch {
 public:
  /// `graph` has to outlive this.
  LineSearch(const Graph& graph, const Permutation& order);

  /// Puts each vertex in turn where the arrangement is shortest, until nobody moves. A step is
  /// one vertex. Ties to the place nearest to where it is, then to the left.
  void descend(std::int64_t& steps) override;
  void kick(Random& random, Index pairs) override;
  Permutation order() const override { return Permutation::from_gather(order_); }

  /// The place where the arrangement would be shortest with v in it, and by how much the sum of
  /// weight times distance would fall: at least 0.
  struct Insertion {
    Index place;
    double gain;
  };
  Insertion best_insertion(Index v);

  void insert(Index v, Index place);

 private:
  static std::size_t at(Index i) noexcept { return static_cast<std::size_t>(i); }
  void lay_out();
  double lean(Index v) const noexcept { return graph_.strength(v) - 2 * left_[at(v)]; }

  const Graph& graph_;
  std::vector<Index> order_;
  std::vector<Index> place_;   // (n), by vertex
  std::vector<double> left_;   // (n), the weight to the vertices on the left
  std::vector<float> joined_;  // (n), by place: the weights of the vertex at hand; else zeros
};

/// The sum over edges of weight times distance in the order. O(n + E).
double line_length(const Graph& graph, const Permutation& order);

}  // namespace icd
