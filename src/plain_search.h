#pragma once

#include <span>

#include "icd/problem.h"

namespace icd {

/// Every pair of positions by swap_delta(): for problems that know no faster way, and what
/// faster ones are tested against. O(n^2) deltas a sweep.
class PlainSearch : public ExchangeSearch {
 public:
  /// `problem` has to outlive this.
  PlainSearch(const Problem& problem, const Permutation& from);

  void descend(std::int64_t& steps) override;
  void kick(Random& random, Index pairs) override;
  Permutation order() const override { return order_; }

 private:
  const Problem& problem_;
  Permutation order_;
};

/// `order` with the members at positions i and j exchanged. O(n).
Permutation exchanged(const Permutation& order, Index i, Index j);

/// The members by falling keys, ties to the lower member.
Permutation sorted_by_falling(std::span<const double> keys);

/// The order of `members`, by position, where neither the order inside blocks nor that of blocks
/// counts: members ascending inside a block; blocks by their lowest member, except that a shorter
/// one stays last.
Permutation sorted_within_blocks(std::span<const Index> members, Blocks blocks);

}  // namespace icd
