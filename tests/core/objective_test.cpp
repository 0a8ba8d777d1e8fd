#include "icd/objective.h"

#include <gtest/gtest.h>
#include <omp.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <ostream>
#include <string>
#include <vector>

#include "icd/random.h"
#include "plain_search.h"
#include "support/graphs.h"

namespace icd {

void PrintTo(const Objective& objective, std::ostream* out) { *out << objective.name; }

namespace {

using testing::facts_of;
using testing::problem_of;

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

double score_as_it_is(std::string_view objective, const Graph& graph, Index block) {
  return problem_of(objective, graph, {.block = block})->score(Permutation::identity(graph.size()));
}

// What every objective promises, asked of every row of the table on facts of every kind. A new
// objective is under test as soon as it is in all_objectives().
class ObjectiveContract : public ::testing::TestWithParam<Objective> {};

// On every awkward graph: the score is a number, and both searches keep their word.
TEST_P(ObjectiveContract, TakesAwkwardGraphs) {
  for (const auto& [name, graph, block] : testing::awkward_graphs()) {
    SCOPED_TRACE(name);
    const auto problem = problem_of(GetParam().name, graph, {.block = block});
    EXPECT_EQ(problem->size(), graph.size());
    EXPECT_GE(problem->blocks().size, 1);
    const Permutation before = Permutation::identity(graph.size());
    const double score = problem->score(before);
    EXPECT_TRUE(std::isfinite(score));
    const Permutation greedy = problem->greedy();
    EXPECT_EQ(greedy.size(), graph.size());
    EXPECT_TRUE(std::isfinite(problem->score(greedy)));
    const auto keys = problem->keys();
    EXPECT_TRUE(keys.empty() || std::ssize(keys) == graph.size());
    for (const double key : keys) EXPECT_TRUE(std::isfinite(key));

    const auto search = problem->search(before);
    std::int64_t steps = 10'000;
    search->descend(steps);
    const double after = problem->score(search->order());
    EXPECT_GE(problem->gain(score, after), -1e-9 * (1 + std::abs(score)));
    Random random(1);
    search->kick(random, 3);
    EXPECT_EQ(search->order().size(), graph.size());
  }
}

TEST_P(ObjectiveContract, ChangesBySwapDeltaUnderASwap) {
  for (const auto& [name, graph, block] : testing::awkward_graphs()) {
    SCOPED_TRACE(name);
    const auto problem = problem_of(GetParam().name, graph, {.block = block});
    Random random(graph.size());
    const Permutation order = random_permutation(graph.size(), random);
    const double before = problem->score(order);
    for (Index i = 0; i < order.size(); ++i) {
      for (Index j = 0; j < order.size(); ++j) {
        const double change = problem->score(exchanged(order, i, j)) - before;
        EXPECT_NEAR(problem->swap_delta(order, i, j), change, 1e-9 * (1 + std::abs(before)))
            << "positions " << i << " and " << j;
      }
    }
  }
}

TEST_P(ObjectiveContract, IsTheSameForEveryNumberOfThreads) {
  const auto problem = problem_of(GetParam().name, testing::random_graph(90, 0.5, 3), {.block = 8});
  Random random(1);
  const Permutation from = random_permutation(90, random);
  const auto descend = [&](int threads) {
    const int usual = omp_get_max_threads();
    omp_set_num_threads(threads);
    const auto search = problem->search(from);
    std::int64_t steps = 400;
    search->descend(steps);
    omp_set_num_threads(usual);
    return search->order();
  };
  EXPECT_EQ(descend(1), descend(2));
}

TEST_P(ObjectiveContract, SaysEverythingAUserAsks) {
  EXPECT_EQ(find_objective(GetParam().name)->name, GetParam().name);
  for (const std::string_view text : {GetParam().summary, GetParam().unit, GetParam().solver,
                                      GetParam().source, GetParam().buys}) {
    EXPECT_FALSE(text.empty());
  }
  EXPECT_EQ(GetParam().direction, problem_of(GetParam().name, Graph())->direction());
}

INSTANTIATE_TEST_SUITE_P(Objectives, ObjectiveContract, ::testing::ValuesIn(all_objectives()),
                         [](const auto& row) {
                           std::string name(row.param.name);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

RC_GTEST_PROP(ObjectiveContractOnAnyGraph, ChangesBySwapDeltaUnderASwap, ()) {
  const auto n = *rc::gen::inRange<Index>(1, 30);
  const auto seed = *rc::gen::arbitrary<std::uint64_t>();
  const Graph graph = testing::random_graph(n, *rc::gen::element(0.0, 0.2, 1.0), seed);
  const AxisFacts facts = facts_of(graph, seed);
  Random random(seed);
  const Permutation order = random_permutation(n, random);
  const ObjectiveOptions options = {.block = *rc::gen::inRange<Index>(1, 35),
                                    .gamma = *rc::gen::element(0.0, 0.5, 1.0, 2.0)};
  const auto i = *rc::gen::inRange<Index>(0, n);
  const auto j = *rc::gen::inRange<Index>(0, n);
  for (const Objective& objective : all_objectives()) {
    const auto problem = objective.problem(facts, options);
    const double before = problem->score(order);
    const double change = problem->score(exchanged(order, i, j)) - before;
    RC_ASSERT(std::abs(problem->swap_delta(order, i, j) - change) <= 1e-9 * (1 + std::abs(before)));
  }
}

TEST(Objective, IsFoundByItsName) {
  EXPECT_EQ(find_objective("intra-block")->problem, intra_block_problem);
  EXPECT_EQ(find_objective("intra_block"), nullptr);
  EXPECT_EQ(find_objective("bandwidth"), nullptr);
}

TEST(Modularity, IsTheTextbookValueForTwoTriangles) {
  EXPECT_DOUBLE_EQ(score_as_it_is("modularity", two_triangles(), 3), 6.0 / 7 - 0.5);
  EXPECT_DOUBLE_EQ(score_as_it_is("intra-block", two_triangles(), 3), 6.0 / 7);
  // Blocks of four: {0, 1, 2, 3} and the shorter {4, 5}.
  EXPECT_DOUBLE_EQ(score_as_it_is("intra-block", two_triangles(), 4), 5.0 / 7);
  EXPECT_DOUBLE_EQ(score_as_it_is("modularity", two_triangles(), 4),
                   5.0 / 7 - (100.0 + 16.0) / 196);
}

TEST(Modularity, OfOneBlockIsOneLessGamma) {
  const Graph graph = testing::planted_blocks(3, 5, 1);
  for (const Index block : {15, 16, 1000, 2147483647}) {
    EXPECT_NEAR(score_as_it_is("modularity", graph, block), 0, 1e-12);
    EXPECT_NEAR(score_as_it_is("intra-block", graph, block), 1, 1e-12);
  }
}

TEST(Modularity, OfAGraphWithoutEdgesIsZero) {
  for (const std::string_view name : {"modularity", "intra-block"}) {
    const auto problem = problem_of(name, Graph::from_edges(4, {}), {.block = 2});
    EXPECT_EQ(problem->score(Permutation::identity(4)), 0);
    EXPECT_EQ(problem->swap_delta(Permutation::identity(4), 0, 3), 0);
    EXPECT_EQ(problem_of(name, Graph())->score({}), 0);
  }
}

RC_GTEST_PROP(Modularity, IsTheSumOverAllPairs, ()) {
  const auto n = *rc::gen::inRange<Index>(2, 30);
  const auto seed = *rc::gen::arbitrary<std::uint64_t>();
  const Graph graph = testing::random_graph(n, *rc::gen::element(0.2, 1.0), seed);
  RC_PRE(graph.edges() > 0);
  Random random(seed);
  const Permutation order = random_permutation(n, random);
  const Blocks blocks = {.size = *rc::gen::inRange<Index>(1, 35)};
  const double gamma = *rc::gen::element(0.0, 0.5, 1.0, 2.0);
  const AxisFacts facts = facts_of(graph);
  const auto problem = modularity_problem(facts, {.block = blocks.size, .gamma = gamma});
  // The pairs i = j hold no weight, and the null model has them: so has the score.
  const double pairs = modularity_by_pairs(graph, order, blocks, gamma);
  RC_ASSERT(std::abs(problem->score(order) - pairs) <= 1e-12);
}

/// The largest modularity over every cut of the order into runs, each bit of `cuts` one.
double best_of_all_cuts(const Graph& graph, const Permutation& order, double gamma) {
  const Index n = order.size();
  const double total = graph.total_weight();
  double best = -1e300;
  for (Index cuts = 0; cuts < 1 << (n - 1); ++cuts) {
    double worth = 0;
    for (Index begin = 0; begin < n;) {
      Index end = begin + 1;
      while (end < n && (cuts >> (end - 1) & 1) == 0) ++end;
      double inside = 0;
      double strength = 0;
      for (Index p = begin; p < end; ++p) {
        strength += graph.strength(order[p]);
        for (Index q = begin; q < p; ++q) inside += double{graph.weight(order[p], order[q])};
      }
      worth += inside / total - gamma * strength * strength / (4 * total * total);
      begin = end;
    }
    best = std::max(best, worth);
  }
  return best;
}

RC_GTEST_PROP(Communities, IsTheBestOfAllCutsIntoRuns, ()) {
  const auto n = *rc::gen::inRange<Index>(2, 11);
  const auto seed = *rc::gen::arbitrary<std::uint64_t>();
  const Graph graph = testing::random_graph(n, *rc::gen::element(0.3, 1.0), seed);
  RC_PRE(graph.edges() > 0);
  const double gamma = *rc::gen::element(0.0, 0.5, 1.0, 2.0);
  const AxisFacts facts = facts_of(graph);
  Random random(seed);
  const Permutation order = random_permutation(n, random);
  const double score = communities_problem(facts, {.gamma = gamma})->score(order);
  RC_ASSERT(std::abs(score - best_of_all_cuts(graph, order, gamma)) < 1e-12);
}

TEST(Communities, AreTheTwoTrianglesInWhateverOrder) {
  const auto problem = problem_of("communities", two_triangles());
  EXPECT_NEAR(problem->score(Permutation::identity(6)), 6.0 / 7 - 0.5, 1e-12);
  EXPECT_NEAR(problem->score(Permutation::from_gather({5, 3, 4, 1, 0, 2})), 6.0 / 7 - 0.5, 1e-12);
  EXPECT_LT(problem->score(Permutation::from_gather({0, 3, 1, 4, 2, 5})), 0.3);
}

TEST(Arrangement, IsTheMeanDistanceBetweenTheEndsOfAnEdge) {
  const auto problem = problem_of("arrangement", Graph::from_edges(4, {{0, 1, 3}, {0, 3, 1}}));
  EXPECT_DOUBLE_EQ(problem->score(Permutation::identity(4)), (3.0 + 3.0) / 4);
  EXPECT_DOUBLE_EQ(problem->score(Permutation::from_gather({1, 0, 3, 2})), 1);
}

}  // namespace
}  // namespace icd
