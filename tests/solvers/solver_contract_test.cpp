#include <gtest/gtest.h>
#include <omp.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "icd/digest.h"
#include "icd/random.h"
#include "icd/solver.h"
#include "solvers/block_sums.h"
#include "solvers/greedy.h"
#include "support/graphs.h"

namespace icd {

void PrintTo(const Solver& solver, std::ostream* out) { *out << solver.name; }

namespace {

using testing::planted_blocks;
using testing::random_graph;

Permutation solve(std::string_view name, const Graph& graph, const SolveOptions& options = {},
                  const Objective& objective = modularity()) {
  return find_solver(name)->solve(graph, objective, options);
}

std::string digest(const Permutation& order) {
  std::string text;
  for (const Index v : order.gather()) text += std::to_string(v) + ' ';
  return sha256_of_text(text).substr(0, 16);
}

Graph path(const Permutation& walk) {
  std::vector<Graph::Edge> edges;
  for (Index i = 1; i < walk.size(); ++i) edges.push_back({walk[i - 1], walk[i], 1.0F});
  return Graph::from_edges(walk.size(), edges);
}

// What every solver promises, asked of every row of the table. A new solver is under test as
// soon as it is in all_solvers().
class SolverContract : public ::testing::TestWithParam<Solver> {
 protected:
  static Permutation solve(const Graph& graph, const SolveOptions& options = {},
                           const Objective& objective = modularity()) {
    return GetParam().solve(graph, objective, options);
  }
};

TEST_P(SolverContract, OrdersEveryVertexOnce) {
  const Graph graph = planted_blocks(4, 8, 1);
  // Bijective by type: only the size is left to ask.
  for (const Objective* objective : all_objectives()) {
    EXPECT_EQ(solve(graph, {.blocks = {.size = 8}}, *objective).size(), graph.size());
  }
}

TEST_P(SolverContract, TakesBlocksThatDoNotDivideTheSize) {
  const Graph graph = planted_blocks(3, 7, 1);
  for (const Index size : {1, 2, 4, 20, 21, 22, 1000, 2147483647}) {
    EXPECT_EQ(solve(graph, {.blocks = {.size = size}}).size(), 21) << "blocks of " << size;
  }
}

TEST_P(SolverContract, TakesTheSmallestGraphs) {
  EXPECT_EQ(solve(Graph()), Permutation());
  EXPECT_EQ(solve(Graph::from_edges(1, {})), Permutation::identity(1));
  for (const Index size : {1, 2}) {
    EXPECT_EQ(solve(Graph::from_edges(2, {{0, 1, 1}}), {.blocks = {.size = size}}).size(), 2);
  }
}

TEST_P(SolverContract, TakesGraphsWithoutEdges) {
  const Graph graph = Graph::from_edges(9, {});
  const Permutation order = solve(graph, {.blocks = {.size = 4}});
  if (GetParam().name != "random" && GetParam().name != "rcm") {
    EXPECT_TRUE(order.is_identity());
  }
  EXPECT_EQ(order.size(), 9);
}

TEST_P(SolverContract, TakesGraphsInPieces) {
  const Graph graph = Graph::from_edges(
      12, {{0, 5, 1}, {5, 9, 2}, {9, 0, 1}, {1, 4, 1}, {4, 11, 1}, {11, 8, 1}, {3, 7, 1}});
  EXPECT_EQ(solve(graph, {.blocks = {.size = 4}}).size(), 12);
}

TEST_P(SolverContract, TakesWeightsOfAnyMagnitude) {
  for (const float scale : {1e-38F, 1e-20F, 1e30F}) {
    std::vector<Graph::Edge> edges;
    for (Index u = 0; u < 12; ++u) {
      for (Index v = 0; v < u; ++v) {
        edges.push_back({u, v, scale * static_cast<float>(1 + (u * v) % 3)});
      }
    }
    const Graph graph = Graph::from_edges(12, edges);
    EXPECT_EQ(solve(graph, {.blocks = {.size = 3}}).size(), 12) << "weights times " << scale;
  }
}

TEST_P(SolverContract, IsAFunctionOfItsArguments) {
  const Graph graph = planted_blocks(4, 8, 1);
  const SolveOptions options = {.blocks = {.size = 8}, .seed = 7};
  EXPECT_EQ(solve(graph, options), solve(graph, options));
}

TEST_P(SolverContract, IsTheSameForEveryNumberOfThreads) {
  const Graph graph = random_graph(150, 1.0, 3);
  const SolveOptions options = {.blocks = {.size = 16}, .seed = 7};
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const Permutation alone = solve(graph, options);
  omp_set_num_threads(2);
  const Permutation together = solve(graph, options);
  omp_set_num_threads(threads);
  EXPECT_EQ(alone, together);
}

// Of one graph: a change of these digests is a change of every plan that users can repeat.
// They are the same on every machine, or a solver depends on more than its arguments.
TEST_P(SolverContract, RepeatsTheCommittedOrder) {
  const std::map<std::string_view, std::string> golden = {
      {"swap", "5491efd19ac63a9c"},   {"spectral", "b15d2035b734817b"},
      {"rcm", "de43b48ac92d4166"},    {"degree", "851ec4aa82088833"},
      {"random", "5fbae4ded933d806"}, {"identity", "6f0a8bff29ce9515"},
  };
  // Weak blocks in a dense graph, so that no order is the obvious one.
  const Graph graph = random_graph(200, 0.7, 11);
  const Permutation order = solve(graph, {.blocks = {.size = 16}, .seed = 5});
  ASSERT_TRUE(golden.contains(GetParam().name));
  EXPECT_EQ(digest(order), golden.at(GetParam().name)) << GetParam().name;
}

INSTANTIATE_TEST_SUITE_P(Solvers, SolverContract, ::testing::ValuesIn(all_solvers()),
                         [](const auto& row) { return std::string(row.param.name); });

RC_GTEST_PROP(SolverContractOnAnyGraph, OrdersEveryVertexOnceAndRepeats, ()) {
  const auto n = *rc::gen::inRange<Index>(0, 40);
  const Graph graph =
      random_graph(n, *rc::gen::element(0.0, 0.05, 0.3, 1.0), *rc::gen::arbitrary<std::uint64_t>());
  const SolveOptions options = {.blocks = {.size = *rc::gen::inRange<Index>(1, 50)},
                                .seed = *rc::gen::arbitrary<std::uint64_t>()};
  for (const Solver& solver : all_solvers()) {
    for (const Objective* objective : all_objectives()) {
      const Permutation order = solver.solve(graph, *objective, options);
      RC_ASSERT(order.size() == n);
      RC_ASSERT(order == solver.solve(graph, *objective, options));
    }
  }
}

TEST(Solvers, AreFoundByName) {
  for (const Solver& solver : all_solvers()) EXPECT_EQ(find_solver(solver.name)->name, solver.name);
  EXPECT_EQ(find_solver("rmc"), nullptr);
}

TEST(Random, DependsOnTheSeedAlone) {
  const Graph one = planted_blocks(4, 8, 1);
  const Graph other = Graph::from_edges(32, {});
  EXPECT_EQ(solve("random", one, {.seed = 1}), solve("random", other, {.seed = 1}));
  EXPECT_NE(solve("random", one, {.seed = 1}), solve("random", one, {.seed = 2}));
}

TEST(Degree, PutsTheHeaviestFirstAndTiesToTheLowerVertex) {
  const Graph graph = Graph::from_edges(5, {{0, 3, 2}, {1, 3, 1}, {2, 3, 2}, {0, 2, 1}});
  EXPECT_EQ(solve("degree", graph), Permutation::from_gather({3, 0, 2, 1, 4}));
}

RC_GTEST_PROP(Rcm, FindsThePathInAShuffledPath, ()) {
  Random random(*rc::gen::arbitrary<std::uint64_t>());
  const Graph graph = path(random_permutation(*rc::gen::inRange<Index>(2, 60), random));
  const Permutation order = solve("rcm", graph);
  for (Index i = 1; i < order.size(); ++i) RC_ASSERT(graph.weight(order[i - 1], order[i]) == 1);
}

RC_GTEST_PROP(Spectral, FindsThePathInAShuffledPath, ()) {
  Random random(*rc::gen::arbitrary<std::uint64_t>());
  const Graph graph = path(random_permutation(*rc::gen::inRange<Index>(2, 60), random));
  const Permutation order = solve("spectral", graph);
  for (Index i = 1; i < order.size(); ++i) RC_ASSERT(graph.weight(order[i - 1], order[i]) == 1);
}

TEST(Spectral, RunsAlongTheOriginalOrderNotAgainstIt) {
  EXPECT_TRUE(solve("spectral", path(Permutation::identity(50))).is_identity());
  const Permutation reversed = Permutation::from_gather({4, 3, 2, 1, 0});
  EXPECT_TRUE(solve("spectral", path(reversed)).is_identity());
}

TEST(Spectral, KeepsComponentsTogetherByTheirLowestVertex) {
  // 0 - 4 - 2, 1 - 5, 3
  const Graph graph = Graph::from_edges(6, {{0, 4, 1}, {4, 2, 1}, {1, 5, 1}});
  EXPECT_EQ(solve("spectral", graph), Permutation::from_gather({0, 4, 2, 1, 5, 3}));
}

RC_GTEST_PROP(Swap, IsNeverWorseThanTheOrderAsItIs, ()) {
  const auto n = *rc::gen::inRange<Index>(0, 40);
  const Graph graph =
      random_graph(n, *rc::gen::element(0.05, 0.3, 1.0), *rc::gen::arbitrary<std::uint64_t>());
  const SolveOptions options = {.blocks = {.size = *rc::gen::inRange<Index>(1, 50)},
                                .seed = *rc::gen::arbitrary<std::uint64_t>(),
                                .max_steps = *rc::gen::element<std::int64_t>(0, 1, 30, 1'000'000)};
  for (const Objective* objective : all_objectives()) {
    const Permutation order = solve("swap", graph, options, *objective);
    const double before = objective->score(graph, Permutation::identity(n), options.blocks);
    const double after = objective->score(graph, order, options.blocks);
    RC_ASSERT(after > before || order.is_identity());
  }
}

RC_GTEST_PROP(Swap, EndsWhereNoExchangeHelps, ()) {
  const auto n = *rc::gen::inRange<Index>(2, 40);
  const Graph graph =
      random_graph(n, *rc::gen::element(0.05, 0.3, 1.0), *rc::gen::arbitrary<std::uint64_t>());
  const Blocks blocks = {.size = *rc::gen::inRange<Index>(1, 50)};
  for (const Objective* objective : all_objectives()) {
    const Permutation order = solve("swap", graph, {.blocks = blocks}, *objective);
    for (Index i = 0; i < n; ++i) {
      for (Index j = 0; j < i; ++j) {
        RC_ASSERT(objective->swap_delta(graph, order, blocks, i, j) <= 1e-6);
      }
    }
  }
}

TEST(Swap, FindsPlantedBlocks) {
  for (const Objective* objective : all_objectives()) {
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      const Graph graph = planted_blocks(6, 9, seed);
      const Permutation order = solve("swap", graph, {.blocks = {.size = 9}}, *objective);
      for (Index i = 0; i < order.size(); ++i) {
        const Index first = order[i / 9 * 9];
        EXPECT_TRUE(order[i] == first || graph.weight(order[i], first) >= 1)
            << objective->name() << ", seed " << seed << ", position " << i;
      }
    }
  }
}

TEST(Swap, LeavesTheOrderAsItIsWhereNothingCanBeWon) {
  const Graph graph = planted_blocks(4, 8, 1);
  EXPECT_TRUE(solve("swap", graph, {.blocks = {.size = 32}}).is_identity());  // one block
  EXPECT_TRUE(solve("swap", graph, {.blocks = {.size = 1}}).is_identity());
}

TEST(Swap, SortsMembersAndBlocksAndKeepsTheShorterBlockLast) {
  const Graph graph = random_graph(30, 1.0, 2);
  const Permutation order = solve("swap", graph, {.blocks = {.size = 8}});
  ASSERT_FALSE(order.is_identity());
  for (Index i = 1; i < 30; ++i) {
    if (i % 8 != 0) {
      EXPECT_LT(order[i - 1], order[i]);
    }
  }
  EXPECT_LT(order[0], order[8]);
  EXPECT_LT(order[8], order[16]);
}

TEST(Greedy, GrowsBlocksFromTheHeaviestVertexByWeightWithTheBlock) {
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
  for (const Objective* objective : all_objectives()) {
    const BlockSums partition(graph, objective->gamma(), blocks, order);
    const double delta = objective->swap_delta(graph, order, blocks, u, v) * graph.total_weight();
    RC_ASSERT(std::abs(partition.exact_gain(u, v) - delta) < 1e-9);
  }
}

}  // namespace
}  // namespace icd
