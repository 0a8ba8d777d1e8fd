#include "icd/objective.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "icd/random.h"
#include "support/graphs.h"

namespace icd {
namespace {

/// Newman's sum over all ordered pairs, joined or not, i = j included.
double modularity_by_pairs(const Graph& graph, const Permutation& order, Blocks blocks,
                           double gamma) {
  const double twice = 2 * graph.total_weight();
  double sum = 0;
  for (Index i = 0; i < order.size(); ++i) {
    for (Index j = 0; j < order.size(); ++j) {
      if (blocks.of(i) != blocks.of(j)) continue;
      const Index u = order[i];
      const Index v = order[j];
      sum += double{graph.weight(u, v)} - gamma * graph.strength(u) * graph.strength(v) / twice;
    }
  }
  return sum / twice;
}

/// Two triangles and the edge between them.
Graph two_triangles() {
  return Graph::from_edges(
      6, {{0, 1, 1}, {1, 2, 1}, {0, 2, 1}, {3, 4, 1}, {4, 5, 1}, {3, 5, 1}, {2, 3, 1}});
}

TEST(Objective, IsTheTextbookValueForTwoTriangles) {
  const auto order = Permutation::identity(6);
  EXPECT_DOUBLE_EQ(modularity().score(two_triangles(), order, {.size = 3}), 6.0 / 7 - 0.5);
  EXPECT_DOUBLE_EQ(intra_block().score(two_triangles(), order, {.size = 3}), 6.0 / 7);
  // Blocks of four: {0, 1, 2, 3} and the shorter {4, 5}.
  EXPECT_DOUBLE_EQ(intra_block().score(two_triangles(), order, {.size = 4}), 5.0 / 7);
  EXPECT_DOUBLE_EQ(modularity().score(two_triangles(), order, {.size = 4}),
                   5.0 / 7 - (100.0 + 16.0) / 196);
}

TEST(Objective, OfOneBlockIsOneLessGamma) {
  const Graph graph = testing::planted_blocks(3, 5, 1);
  for (const Objective* objective : all_objectives()) {
    for (const Index size : {15, 16, 1000, 2147483647}) {
      EXPECT_NEAR(objective->score(graph, Permutation::identity(15), {.size = size}),
                  1 - objective->gamma(), 1e-12);
    }
  }
}

TEST(Objective, OfAGraphWithoutEdgesIsZero) {
  const Graph graph = Graph::from_edges(4, {});
  for (const Objective* objective : all_objectives()) {
    EXPECT_EQ(objective->score(graph, Permutation::identity(4), {.size = 2}), 0);
    EXPECT_EQ(objective->swap_delta(graph, Permutation::identity(4), {.size = 2}, 0, 3), 0);
    EXPECT_EQ(objective->score({}, {}, {.size = 2}), 0);
  }
}

RC_GTEST_PROP(Objective, IsTheSumOverAllPairs, ()) {
  const auto n = *rc::gen::inRange<Index>(2, 30);
  const auto seed = *rc::gen::arbitrary<std::uint64_t>();
  const Graph graph = testing::random_graph(n, *rc::gen::element(0.2, 1.0), seed);
  RC_PRE(graph.edges() > 0);
  Random random(seed);
  const Permutation order = random_permutation(n, random);
  const Blocks blocks = {.size = *rc::gen::inRange<Index>(1, 35)};
  // The pairs i = j hold no weight, and the null model has them: so has the score.
  for (const Objective* objective : all_objectives()) {
    const double pairs = modularity_by_pairs(graph, order, blocks, objective->gamma());
    RC_ASSERT(std::fabs(objective->score(graph, order, blocks) - pairs) <= 1e-12);
  }
}

RC_GTEST_PROP(Objective, ChangesBySwapDeltaUnderASwap, ()) {
  const auto n = *rc::gen::inRange<Index>(1, 30);
  const auto seed = *rc::gen::arbitrary<std::uint64_t>();
  const Graph graph = testing::random_graph(n, *rc::gen::element(0.0, 0.2, 1.0), seed);
  Random random(seed);
  const Permutation order = random_permutation(n, random);
  const Blocks blocks = {.size = *rc::gen::inRange<Index>(1, 35)};
  const auto i = *rc::gen::inRange<Index>(0, n);
  const auto j = *rc::gen::inRange<Index>(0, n);
  std::vector<Index> swapped(order.gather().begin(), order.gather().end());
  std::swap(swapped[static_cast<std::size_t>(i)], swapped[static_cast<std::size_t>(j)]);
  const Permutation after = Permutation::from_gather(swapped);
  for (const Objective* objective : all_objectives()) {
    const double change =
        objective->score(graph, after, blocks) - objective->score(graph, order, blocks);
    RC_ASSERT(std::fabs(objective->swap_delta(graph, order, blocks, i, j) - change) <= 1e-12);
  }
}

TEST(Objective, IsFoundByItsName) {
  for (const Objective* objective : all_objectives()) {
    EXPECT_EQ(find_objective(objective->name()), objective);
  }
  EXPECT_EQ(find_objective("modularity"), &modularity());
  EXPECT_EQ(find_objective("intra_block"), &intra_block());
  EXPECT_EQ(find_objective("bandwidth"), nullptr);
}

}  // namespace
}  // namespace icd
