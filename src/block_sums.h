#pragma once

#include <cstdint>
#include <vector>

#include "icd/graph.h"
#include "icd/problem.h"

namespace icd {

/// A partition of a graph's vertices into equal blocks under pair swaps, with the sum of
/// weights between every vertex and every block at hand. Gains are changes of the
/// modularity, times the total weight.
///
/// The sums are floats that swaps update in a fixed order; what is accepted is always
/// decided by exact_gain(). Memory: 4 n nb + 8 nb^2 bytes for nb blocks.
class BlockSums : public ExchangeSearch {
 public:
  /// The blocks that `order` cuts. `graph` has to outlive this, and has an edge.
  BlockSums(const Graph& graph, double gamma, Blocks blocks, const Permutation& order);

  /// Visits the vertices in turn and exchanges each with its best partner, until a whole sweep
  /// over exact sums finds none.
  void descend(std::int64_t& steps) override;
  void kick(Random& random, Index pairs) override;

  Index block_of(Index v) const noexcept { return block_[at(v)]; }

  /// The cached sum of the weights between v and the members of `block`.
  float sum(Index v, Index block) const noexcept { return sums_[at(block) * size() + at(v)]; }

  /// The vertex of another block that gains most when exchanged with u, by the cached sums;
  /// -1 if none gains. Ties to the lower vertex. Blocks whose bound is not above the best
  /// gain so far are not looked into, which is nearly all of them near an optimum.
  Index best_partner(Index u);

  /// What exchanging u and v of different blocks gains, from the graph, in double.
  double exact_gain(Index u, Index v) const;

  void exchange(Index u, Index v);

  /// Recomputes every sum from the graph, in double: undoes what updates have rounded.
  void refresh();

  /// Members in ascending order inside a block; blocks by their lowest member, except that
  /// a shorter one stays last.
  Permutation order() const override;

 private:
  static std::size_t at(Index i) noexcept { return static_cast<std::size_t>(i); }
  std::size_t size() const noexcept { return block_.size(); }
  float pull(Index v, Index block) const noexcept;
  float bound(Index from, Index to);

  const Graph& graph_;
  double kappa_;        // gamma / 2W: the null model takes kappa s_u s_v from the weight of a pair
  float heaviest_ = 0;  // the largest strength
  std::vector<Index> block_;                 // (n)
  std::vector<Index> slot_;                  // (n), the place among the members
  std::vector<std::vector<Index>> members_;  // (nb)
  std::vector<float> sums_;                  // (nb, n)
  std::vector<float> own_;                   // (n), the sum with one's own block
  std::vector<float> strength_;              // (n)
  std::vector<float> block_strength_;        // (nb)

  // bounds_[a, b] is the largest pull(v, a) over v in b, as of the swap bounded_at_[a, b].
  std::vector<float> bounds_;             // (nb, nb)
  std::vector<std::int32_t> bounded_at_;  // (nb, nb)
  std::vector<std::int32_t> changed_at_;  // (nb), the last swap that touched the block
  std::int32_t swaps_ = 0;
  std::vector<float> promise_;  // (nb), scratch of best_partner
};

}  // namespace icd
