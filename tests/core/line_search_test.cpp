#include "line_search.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "icd/random.h"
#include "support/graphs.h"

namespace icd {
namespace {

/// `order` with v taken out and put in at `place`.
Permutation inserted(const Permutation& order, Index v, Index place) {
  std::vector<Index> line(order.gather().begin(), order.gather().end());
  line.erase(std::find(line.begin(), line.end(), v));
  line.insert(line.begin() + place, v);
  return Permutation::from_gather(std::move(line));
}

TEST(LineSearch, MeasuresDistancesByWeight) {
  const Graph graph = Graph::from_edges(4, {{0, 1, 2}, {0, 3, 1}, {2, 3, 0.5F}});
  EXPECT_EQ(line_length(graph, Permutation::identity(4)), 2 + 3 + 0.5);
  EXPECT_EQ(line_length(graph, Permutation::from_gather({1, 0, 3, 2})), 2 + 1 + 0.5);
}

RC_GTEST_PROP(LineSearch, NamesTheShortestOfAllInsertionsAndKeepsUpWithThem, ()) {
  const auto n = *rc::gen::inRange<Index>(1, 25);
  const auto seed = *rc::gen::arbitrary<std::uint64_t>();
  const Graph graph = testing::random_graph(n, *rc::gen::element(0.2, 1.0), seed);
  Random random(seed);
  LineSearch search(graph, random_permutation(n, random));
  for (int round = 0; round < 10; ++round) {
    const auto v = static_cast<Index>(random.below(static_cast<std::uint64_t>(n)));
    const Permutation before = search.order();
    const double length = line_length(graph, before);
    double least = length;
    for (Index place = 0; place < n; ++place) {
      least = std::min(least, line_length(graph, inserted(before, v, place)));
    }
    const auto [place, gain] = search.best_insertion(v);
    RC_ASSERT(std::abs(gain - (length - least)) < 1e-9);
    RC_ASSERT(std::abs(line_length(graph, inserted(before, v, place)) - least) < 1e-9);
    // Anywhere, not only where it is best: what is cached has to follow.
    const auto anywhere = static_cast<Index>(random.below(static_cast<std::uint64_t>(n)));
    search.insert(v, anywhere);
    RC_ASSERT(search.order() == inserted(before, v, anywhere));
  }
}

RC_GTEST_PROP(LineSearch, EndsWhereNoInsertionHelps, ()) {
  const auto n = *rc::gen::inRange<Index>(1, 25);
  const Graph graph = testing::random_graph(n, *rc::gen::element(0.0, 0.2, 1.0),
                                            *rc::gen::arbitrary<std::uint64_t>());
  LineSearch search(graph, Permutation::identity(n));
  Random random(1);
  search.kick(random, 3);
  std::int64_t steps = 1'000'000;
  search.descend(steps);
  RC_ASSERT(steps > 0);
  for (Index v = 0; v < n; ++v) {
    RC_ASSERT(search.best_insertion(v).gain <= 1e-8 * (1 + graph.total_weight()));
  }
}

}  // namespace
}  // namespace icd
