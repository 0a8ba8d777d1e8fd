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
/// What is looked at in runs lies by place: the members of block b have the places
/// [b * size, (b + 1) * size), so that loops over a block are loops over vectors.
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

  Index block_of(Index v) const noexcept { return blocks_.of(place_[at(v)]); }

  /// The cached sum of the weights between v and the members of `block`.
  float sum(Index v, Index block) const noexcept { return sums_of(block)[place_[at(v)]]; }

  /// The vertex of another block that gains most when exchanged with u, by the cached sums;
  /// -1 if none gains. Ties to the lower vertex. Blocks whose bound is not above the best
  /// gain so far are not looked into, which is nearly all of them near an optimum; nor are
  /// blocks in which u found nobody before, if neither they nor its own have changed.
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
  Index size() const noexcept { return static_cast<Index>(member_.size()); }
  Index count() const noexcept { return static_cast<Index>(block_strength_.size()); }
  Index end(Index block) const noexcept { return blocks_.end(block, size()); }
  float* sums_of(Index block) noexcept { return sums_.data() + at(block) * member_.size(); }
  const float* sums_of(Index block) const noexcept {
    return sums_.data() + at(block) * member_.size();
  }
  float pull(Index place, Index block) const noexcept;
  float bound(Index from, Index to);
  void move_sums(Index u, Index v, Index a, Index b);
  void settle(Index block);

  const Graph& graph_;
  Blocks blocks_;
  double kappa_;        // gamma / 2W: the null model takes kappa s_u s_v from the weight of a pair
  float heaviest_ = 0;  // the largest strength
  std::vector<Index> place_;   // (n), by vertex
  std::vector<Index> member_;  // (n), by place

  std::vector<float> sums_;            // (nb, n), by place
  std::vector<float> strength_;        // (n), by place
  std::vector<float> charge_;          // (n), kappa times the strength
  std::vector<float> away_;            // (n), what is lost by leaving the block
  std::vector<float> block_strength_;  // (nb)

  // bounds_[a, b] is the largest pull(v, a) over v in b, as of the swap bounded_at_[a, b].
  std::vector<float> bounds_;             // (nb, nb)
  std::vector<std::int32_t> bounded_at_;  // (nb, nb)
  std::vector<std::int32_t> changed_at_;  // (nb), the last swap that touched the block
  std::vector<std::int32_t> alone_at_;    // (n), by vertex: the swap as of which it had no partner
  std::int32_t swaps_ = 0;
  std::vector<float> promise_;  // (nb), scratch of best_partner
  std::vector<float> offer_;    // (block), the same
};

}  // namespace icd
