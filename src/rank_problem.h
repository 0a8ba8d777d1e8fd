#pragma once

#include <vector>

#include "facts_problem.h"

namespace icd {

/// A ranking: what counts is that every prefix holds as much as it can. The score is the share
/// of the total that the first k members hold, averaged over k = 1 ... n: above 1/2 if what
/// counts comes first, 1 if one member holds it all and leads, 1/2 if nothing counts. A sort by
/// falling values is the best order.
class RankProblem : public FactsProblem {
 public:
  /// `values` are >= 0, (size).
  RankProblem(const AxisFacts& facts, std::vector<double> values);

  Direction direction() const noexcept override { return Direction::higher; }
  Blocks blocks() const noexcept override { return {1}; }
  double score(const Permutation& order) const override;
  double swap_delta(const Permutation& order, Index i, Index j) const override;  // O(1)
  Permutation greedy() const override;
  std::vector<double> keys() const override { return values_; }

 private:
  std::vector<double> values_;
  double total_;
};

}  // namespace icd
