#include "rank_problem.h"

#include <numeric>
#include <utility>

#include "plain_search.h"

namespace icd {

RankProblem::RankProblem(const AxisFacts& facts, std::vector<double> values)
    : FactsProblem(facts),
      values_(std::move(values)),
      total_(std::accumulate(values_.begin(), values_.end(), 0.0)) {}

// The member at position i lies in n - i of the n prefixes.
double RankProblem::score(const Permutation& order) const {
  if (total_ == 0) return 0.5;
  const Index n = order.size();
  double sum = 0;
  for (Index i = 0; i < n; ++i) {
    sum += values_[static_cast<std::size_t>(order[i])] * static_cast<double>(n - i);
  }
  return sum / total_ / static_cast<double>(n);
}

double RankProblem::swap_delta(const Permutation& order, Index i, Index j) const {
  if (total_ == 0) return 0;
  const double less =
      values_[static_cast<std::size_t>(order[i])] - values_[static_cast<std::size_t>(order[j])];
  return less * static_cast<double>(i - j) / total_ / static_cast<double>(order.size());
}

Permutation RankProblem::greedy() const { return sorted_by_falling(values_); }

}  // namespace icd
