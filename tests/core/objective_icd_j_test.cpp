#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "icd/objective.h"
#include "icd/random.h"
#include "icd/solver.h"
#include "support/graphs.h"

namespace icd {
namespace {

using testing::problem_of;

double phi(double lines) { return lines <= 3 ? lines : 3 + 0.25 * (lines - 3); }

/// The four terms, one at a time, over all pairs.
double j_by_pairs(const Graph& graph, const Permutation& order, Index block) {
  const Index n = order.size();
  if (n == 0) return 0;
  const double total = graph.total_weight();
  const auto quarter = [&](Index p) { return std::min(p / std::max(n / 4, 1), 3); };
  double distance = 0;
  double apart = 0;
  double modularity = 0;
  double moved = 0;
  for (Index p = 0; p < n; ++p) {
    moved += std::abs(order[p] - p) > 2 ? 1 : 0;
    for (Index q = 0; q < n; ++q) {
      const double weight = double{graph.weight(order[p], order[q])} / (2 * total);
      distance += weight * phi(std::abs(p / block - q / block));
      apart += p / 16 != q / 16 ? weight : 0;
      if (quarter(p) == quarter(q)) {
        modularity += weight - 1.2 * graph.strength(order[p]) * graph.strength(order[q]) /
                                   (4 * total * total);
      }
    }
  }
  const double farthest = phi((n - 1) / block);
  return (farthest > 0 ? distance / farthest : 0) + 0.2 * apart + 0.1 * moved / n -
         0.5 * modularity;
}

TEST(IcdJ, IsAWorkedValue) {
  // Positions 0 to 7 in lines of 4 and quarters of 2; edges inside a quarter, inside a line, and
  // across the lines' border: 3 and 4 are one apart and not free.
  const Graph graph = Graph::from_edges(8, {{0, 1, 1}, {1, 2, 1}, {3, 4, 2}});
  const double distance = 2.0 / 4;  // of a weight of 4, and the last line is 1 away
  // Strengths of the quarters 3, 3, 2, 0 of 8; of the weight 1/4 is inside.
  const double modularity = 1.0 / 4 - 1.2 * (9 + 9 + 4) / 64.0;
  const auto problem = problem_of("icd-j", graph, {.block = 4});
  EXPECT_NEAR(problem->score(Permutation::identity(8)), distance - 0.5 * modularity, 1e-12);
}

TEST(IcdJ, CountsMovesBeyondTheHysteresisFromTheOrderOfTheCheckpoint) {
  const auto problem = problem_of("icd-j", Graph::from_edges(5, {}), {.block = 4});
  EXPECT_EQ(problem->score(Permutation::identity(5)), 0);
  EXPECT_EQ(problem->score(Permutation::from_gather({2, 1, 0, 3, 4})), 0);  // by two: free
  EXPECT_NEAR(problem->score(Permutation::from_gather({3, 1, 2, 0, 4})), 0.1 * 2 / 5, 1e-15);
}

RC_GTEST_PROP(IcdJ, IsTheSumOfItsTermsOverAllPairs, ()) {
  const auto n = *rc::gen::inRange<Index>(1, 80);
  const auto seed = *rc::gen::arbitrary<std::uint64_t>();
  const Graph graph = testing::random_graph(n, *rc::gen::element(0.2, 1.0), seed);
  RC_PRE(graph.edges() > 0);
  Random random(seed);
  const Permutation order = random_permutation(n, random);
  const auto block = *rc::gen::inRange<Index>(1, 90);
  const double score = problem_of("icd-j", graph, {.block = block})->score(order);
  RC_ASSERT(std::abs(score - j_by_pairs(graph, order, block)) < 1e-10);
}

TEST(IcdJ, GoesAtLeastAsFarAsThePlantedOrder) {
  const Graph graph = testing::planted_blocks(8, 32, 3);
  const auto problem = problem_of("icd-j", graph, {.block = 32});
  // The blocks, members ascending: whoever has an edge of weight 1 or more.
  std::vector<Index> planted;
  std::vector<bool> placed(256, false);
  for (Index first = 0; first < 256; ++first) {
    if (placed[static_cast<std::size_t>(first)]) continue;
    for (Index v = first; v < 256; ++v) {
      if (v != first && graph.weight(first, v) < 1) continue;
      placed[static_cast<std::size_t>(v)] = true;
      planted.push_back(v);
    }
  }
  const double there = problem->score(Permutation::from_gather(std::move(planted)));
  const Permutation found = find_solver("swap")->solve(*problem, {});
  EXPECT_LE(problem->score(found), there);
}

}  // namespace
}  // namespace icd
