#include "icd/problem.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <utility>
#include <vector>

#include "plain_search.h"

namespace icd {

Permutation Problem::greedy() const { return Permutation::identity(size()); }

std::unique_ptr<ExchangeSearch> Problem::search(const Permutation& from) const {
  return std::make_unique<PlainSearch>(*this, from);
}

PlainSearch::PlainSearch(const Problem& problem, const Permutation& from)
    : problem_(problem), order_(from) {}

void PlainSearch::descend(std::int64_t& steps) {
  const Index n = order_.size();
  // Below this an exchange changes the order and not the result, and could go on for ever.
  const double smallest = 1e-12 * (1 + std::abs(problem_.score(order_)));
  for (bool improved = true; improved;) {
    improved = false;
    for (Index i = 0; i < n; ++i) {
      if (steps-- <= 0) return;
      double most = smallest;
      Index partner = -1;
      for (Index j = 0; j < n; ++j) {
        if (j == i) continue;
        const double gain = problem_.gain(0, problem_.swap_delta(order_, i, j));
        if (gain > most) {
          most = gain;
          partner = j;
        }
      }
      if (partner < 0) continue;
      order_ = exchanged(order_, i, partner);
      improved = true;
    }
  }
}

void PlainSearch::kick(Random& random, Index pairs) {
  const auto n = static_cast<std::uint64_t>(order_.size());
  for (Index pair = 0; n > 1 && pair < pairs; ++pair) {
    const auto i = static_cast<Index>(random.below(n));
    const auto j = static_cast<Index>(random.below(n));
    order_ = exchanged(order_, i, j);
  }
}

Permutation exchanged(const Permutation& order, Index i, Index j) {
  std::vector<Index> gather(order.gather().begin(), order.gather().end());
  std::swap(gather[static_cast<std::size_t>(i)], gather[static_cast<std::size_t>(j)]);
  return Permutation::from_gather(std::move(gather));
}

Permutation sorted_by_falling(std::span<const double> keys) {
  std::vector<Index> order(keys.size());
  std::iota(order.begin(), order.end(), Index{0});
  std::stable_sort(order.begin(), order.end(), [&](Index u, Index v) {
    return keys[static_cast<std::size_t>(u)] > keys[static_cast<std::size_t>(v)];
  });
  return Permutation::from_gather(std::move(order));
}

Permutation sorted_within_blocks(std::span<const Index> members, Blocks blocks) {
  const auto n = static_cast<Index>(members.size());
  std::vector<std::vector<Index>> sorted;
  for (Index block = 0; block < blocks.count(n); ++block) {
    const auto begin = members.begin() + blocks.begin(block);
    sorted.emplace_back(begin, begin + (blocks.end(block, n) - blocks.begin(block)));
    std::sort(sorted.back().begin(), sorted.back().end());
  }
  std::sort(sorted.begin(), sorted.end(), [](const auto& one, const auto& other) {
    return one.size() != other.size() ? one.size() > other.size() : one.front() < other.front();
  });
  std::vector<Index> order;
  order.reserve(members.size());
  for (const auto& block : sorted) order.insert(order.end(), block.begin(), block.end());
  return Permutation::from_gather(std::move(order));
}

}  // namespace icd
