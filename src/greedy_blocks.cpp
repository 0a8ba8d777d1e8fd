#include "greedy_blocks.h"

#include <numeric>
#include <utility>
#include <vector>

namespace icd {

Permutation greedy_blocks(const Graph& graph, double gamma, Blocks blocks) {
  const auto n = static_cast<std::size_t>(graph.size());
  const double kappa = graph.total_weight() > 0 ? gamma / (2 * graph.total_weight()) : 0;

  std::vector<Index> left(n);  // ascending
  std::iota(left.begin(), left.end(), Index{0});
  std::vector<double> with_block(n, 0.0);  // sum of weights with the block that grows
  double block_strength = 0;

  std::vector<Index> order;
  order.reserve(n);
  while (!left.empty()) {
    if (order.size() % static_cast<std::size_t>(blocks.size) == 0) {
      with_block.assign(n, 0.0);
      block_strength = 0;
    }
    // In an empty block every gain is 0: the heaviest vertex opens it.
    const bool opens = block_strength == 0;
    const auto worth = [&](Index v) {
      return opens ? graph.strength(v)
                   : with_block[static_cast<std::size_t>(v)] -
                         kappa * graph.strength(v) * block_strength;
    };
    auto chosen = left.begin();
    double most = worth(*chosen);
    for (auto v = left.begin() + 1; v != left.end(); ++v) {
      if (const double here = worth(*v); here > most) {
        most = here;
        chosen = v;
      }
    }
    const Index v = *chosen;
    left.erase(chosen);
    order.push_back(v);
    block_strength += graph.strength(v);
    for (const Neighbour& next : graph.neighbours(v)) {
      with_block[static_cast<std::size_t>(next.vertex)] += double{next.weight};
    }
  }
  return Permutation::from_gather(std::move(order));
}

}  // namespace icd
