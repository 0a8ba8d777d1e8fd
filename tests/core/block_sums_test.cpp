#include "block_sums.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "greedy_blocks.h"
#include "icd/random.h"
#include "support/graphs.h"

namespace icd {
namespace {

using testing::random_graph;

TEST(GreedyBlocks, GrowsBlocksFromTheHeaviestVertexByWeightWithTheBlock) {
  // 3 is the heaviest and draws 1; of what is left 0 is heaviest and draws 2.
  const Graph graph =
      Graph::from_edges(5, {{3, 1, 4}, {3, 0, 3}, {0, 2, 2}, {2, 4, 1}, {1, 4, 0.5F}});
  EXPECT_EQ(greedy_blocks(graph, 0, {.size = 2}), Permutation::from_gather({3, 1, 0, 2, 4}));
}

RC_GTEST_PROP(BlockSums, StayThoseOfTheGraphUnderExchanges, ()) {
  const auto n = *rc::gen::inRange<Index>(3, 40);
  const auto seed = *rc::gen::arbitrary<std::uint64_t>();
  const Graph graph = random_graph(n, *rc::gen::element(0.3, 1.0), seed);
  RC_PRE(graph.edges() > 0);
  const Blocks blocks = {.size = *rc::gen::inRange<Index>(1, n)};
  Random random(seed);
  BlockSums partition(graph, 1, blocks, random_permutation(n, random));
  const auto any = [&] { return static_cast<Index>(random.below(static_cast<std::uint64_t>(n))); };
  for (int i = 0; i < 50; ++i) {
    const Index u = any();
    const Index v = any();
    if (partition.block_of(u) != partition.block_of(v)) partition.exchange(u, v);
    partition.best_partner(u);  // fills the cache of bounds, which must not go stale
  }
  for (Index v = 0; v < n; ++v) {
    std::vector<double> sums(static_cast<std::size_t>(blocks.count(n)));
    for (const Neighbour& next : graph.neighbours(v)) {
      sums[static_cast<std::size_t>(partition.block_of(next.vertex))] += double{next.weight};
    }
    for (Index b = 0; b < blocks.count(n); ++b) {
      RC_ASSERT(std::abs(double{partition.sum(v, b)} - sums[static_cast<std::size_t>(b)]) < 1e-4);
    }
  }
  // Whatever was pruned, nobody has a better partner than the one that is named.
  for (Index u = 0; u < n; ++u) {
    double best = 0;
    for (Index v = 0; v < n; ++v) {
      if (partition.block_of(v) != partition.block_of(u)) {
        best = std::max(best, partition.exact_gain(u, v));
      }
    }
    const Index partner = partition.best_partner(u);
    const double found = partner < 0 ? 0 : partition.exact_gain(u, partner);
    RC_ASSERT(std::abs(found - best) < 1e-4);
  }
}

RC_GTEST_PROP(BlockSums, ExactGainIsTheSwapDeltaOfTheObjective, ()) {
  const auto n = *rc::gen::inRange<Index>(3, 40);
  const Graph graph = random_graph(n, 0.5, *rc::gen::arbitrary<std::uint64_t>());
  RC_PRE(graph.edges() > 0);
  const Blocks blocks = {.size = *rc::gen::inRange<Index>(1, n)};
  const auto order = Permutation::identity(n);
  const auto u = *rc::gen::inRange<Index>(0, n);
  const auto v = *rc::gen::inRange<Index>(0, n);
  RC_PRE(blocks.of(u) != blocks.of(v));
  const double gamma = *rc::gen::element(0.0, 1.0);
  const AxisFacts facts = testing::facts_of(graph);
  const auto problem = modularity_problem(facts, {.block = blocks.size, .gamma = gamma});
  const BlockSums partition(graph, gamma, blocks, order);
  const double delta = problem->swap_delta(order, u, v) * graph.total_weight();
  RC_ASSERT(std::abs(partition.exact_gain(u, v) - delta) < 1e-9);
}

}  // namespace
}  // namespace icd
