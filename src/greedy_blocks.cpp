#include "greedy_blocks.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

namespace icd {
namespace {

constexpr double kTaken = -std::numeric_limits<double>::infinity();

// Eight maxima side by side: a single one would be a chain that no compiler may vectorise.
constexpr std::size_t kLanes = 8;

/// The largest of gain[v] - charge[v] * strength, ties to the lower v.
std::size_t most_drawn(const std::vector<double>& gain, const std::vector<double>& charge,
                       double strength) {
  double most[kLanes];
  for (double& lane : most) lane = kTaken;
  const std::size_t n = gain.size();
  const std::size_t whole = n - n % kLanes;
  for (std::size_t v = 0; v < whole; v += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const double here = gain[v + lane] - charge[v + lane] * strength;
      most[lane] = here > most[lane] ? here : most[lane];
    }
  }
  double largest = kTaken;
  for (const double lane : most) largest = std::max(largest, lane);
  for (std::size_t v = whole; v < n; ++v) {
    largest = std::max(largest, gain[v] - charge[v] * strength);
  }
  std::size_t v = 0;
  while (gain[v] == kTaken || gain[v] - charge[v] * strength < largest) ++v;
  return v;
}

}  // namespace

Permutation greedy_blocks(const Graph& graph, double gamma, Blocks blocks) {
  const auto n = static_cast<std::size_t>(graph.size());
  const double kappa = graph.total_weight() > 0 ? gamma / (2 * graph.total_weight()) : 0;
  std::vector<double> strength(n);  // kTaken once a block has the vertex
  std::vector<double> charge(n);
  for (std::size_t v = 0; v < n; ++v) {
    strength[v] = graph.strength(static_cast<Index>(v));
    charge[v] = kappa * strength[v];
  }
  std::vector<double> with_block(n);  // the weights with the block that grows, or kTaken
  double block_strength = 0;

  std::vector<Index> order;
  order.reserve(n);
  while (order.size() < n) {
    if (order.size() % static_cast<std::size_t>(blocks.size) == 0) {
      for (std::size_t v = 0; v < n; ++v) with_block[v] = strength[v] == kTaken ? kTaken : 0;
      block_strength = 0;
    }
    // In an empty block every gain is 0: the heaviest vertex opens it.
    const std::size_t chosen = block_strength == 0 ? most_drawn(strength, charge, 0)
                                                   : most_drawn(with_block, charge, block_strength);
    const auto v = static_cast<Index>(chosen);
    order.push_back(v);
    block_strength += graph.strength(v);
    strength[chosen] = kTaken;
    with_block[chosen] = kTaken;
    for (const Neighbour& next : graph.neighbours(v)) {
      with_block[static_cast<std::size_t>(next.vertex)] += double{next.weight};
    }
  }
  return Permutation::from_gather(std::move(order));
}

}  // namespace icd
