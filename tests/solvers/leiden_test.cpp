#include "solvers/leiden.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include "icd/objective.h"
#include "support/graphs.h"

namespace icd {
namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// Newman's Q, by all pairs.
double modularity_of(const Graph& graph, const std::vector<Index>& community, double gamma) {
  const double twice = 2 * graph.total_weight();
  double sum = 0;
  for (Index u = 0; u < graph.size(); ++u) {
    for (Index v = 0; v < graph.size(); ++v) {
      if (community[at(u)] != community[at(v)]) continue;
      sum += double{graph.weight(u, v)} - gamma * graph.strength(u) * graph.strength(v) / twice;
    }
  }
  return sum / twice;
}

/// Can every member be reached from every other inside the community?
bool is_connected(const Graph& graph, const std::vector<Index>& community, Index wanted) {
  const auto first = std::find(community.begin(), community.end(), wanted) - community.begin();
  std::vector<bool> seen(community.size(), false);
  std::vector<Index> walk = {static_cast<Index>(first)};
  seen[at(walk.front())] = true;
  for (std::size_t head = 0; head < walk.size(); ++head) {
    for (const Neighbour& next : graph.neighbours(walk[head])) {
      if (community[at(next.vertex)] != wanted || seen[at(next.vertex)]) continue;
      seen[at(next.vertex)] = true;
      walk.push_back(next.vertex);
    }
  }
  return std::ssize(walk) == std::count(community.begin(), community.end(), wanted);
}

/// A ring of cliques of five, neighbours joined by one edge.
Graph ring_of_cliques(Index cliques) {
  std::vector<Graph::Edge> edges;
  for (Index c = 0; c < cliques; ++c) {
    for (Index i = 0; i < 5; ++i) {
      for (Index j = 0; j < i; ++j) edges.push_back({5 * c + i, 5 * c + j, 1});
    }
    edges.push_back({5 * c, (5 * c + 6) % (5 * cliques), 1});
  }
  return Graph::from_edges(5 * cliques, std::move(edges));
}

TEST(Leiden, FindsTheCliquesOfARing) {
  const std::vector<Index> found = leiden(ring_of_cliques(8), 1, 3, 10);
  for (Index v = 0; v < 40; ++v) EXPECT_EQ(found[at(v)], v / 5) << "vertex " << v;
}

TEST(Leiden, FindsPlantedBlocks) {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    const Graph graph = testing::planted_blocks(6, 9, seed);
    for (const auto& found : {leiden(graph, 1, seed, 10), louvain(graph, 1, seed)}) {
      for (Index u = 0; u < graph.size(); ++u) {
        for (Index v = 0; v < u; ++v) {
          EXPECT_EQ(found[at(u)] == found[at(v)], graph.weight(u, v) >= 1) << u << ", " << v;
        }
      }
    }
  }
}

TEST(Leiden, HasMoreCommunitiesAtAHigherResolution) {
  const Graph graph = ring_of_cliques(30);
  const auto communities = [&](double gamma) {
    const std::vector<Index> found = leiden(graph, gamma, 1, 10);
    return *std::max_element(found.begin(), found.end()) + 1;
  };
  EXPECT_LT(communities(0.1), communities(1));
  EXPECT_LT(communities(1), communities(20));
}

RC_GTEST_PROP(Leiden, EndsInConnectedCommunitiesThatNobodyGainsByLeaving, ()) {
  const auto n = *rc::gen::inRange<Index>(2, 50);
  const auto seed = *rc::gen::arbitrary<std::uint64_t>();
  const Graph graph = testing::random_graph(n, *rc::gen::element(0.05, 0.2, 1.0), seed);
  RC_PRE(graph.edges() > 0);
  const double gamma = *rc::gen::element(0.5, 1.0, 1.5);
  // Enough iterations to stand still.
  const std::vector<Index> found = leiden(graph, gamma, seed, 1000);
  const double value = modularity_of(graph, found, gamma);
  const Index communities = *std::max_element(found.begin(), found.end()) + 1;
  for (Index c = 0; c < communities; ++c) RC_ASSERT(is_connected(graph, found, c));
  for (Index v = 0; v < n; ++v) {
    for (Index c = 0; c <= communities; ++c) {
      std::vector<Index> moved = found;
      moved[at(v)] = c;
      RC_ASSERT(modularity_of(graph, moved, gamma) <= value + 1e-8);
    }
  }
}

RC_GTEST_PROP(Leiden, IsNotBelowOneCommunityNorSingleVertices, ()) {
  const auto n = *rc::gen::inRange<Index>(2, 50);
  const auto seed = *rc::gen::arbitrary<std::uint64_t>();
  const Graph graph = testing::random_graph(n, *rc::gen::element(0.05, 0.2, 1.0), seed);
  RC_PRE(graph.edges() > 0);
  for (const auto& found : {leiden(graph, 1, seed, 10), louvain(graph, 1, seed)}) {
    RC_ASSERT(modularity_of(graph, found, 1) >= -1e-9);  // of one community
    RC_ASSERT(found.front() == 0);
    Index highest = 0;  // numbered by lowest member
    for (const Index c : found) {
      RC_ASSERT(c <= highest + 1);
      highest = std::max(highest, c);
    }
  }
}

TEST(Leiden, LeavesTheVerticesOfAnEmptyGraphAlone) {
  EXPECT_EQ(leiden(Graph::from_edges(3, {}), 1, 1, 10), (std::vector<Index>{0, 1, 2}));
  EXPECT_TRUE(leiden(Graph(), 1, 1, 10).empty());
}

TEST(Leiden, LiesSideBySideByLowestMember) {
  EXPECT_EQ(side_by_side({4, 2, 4, 0, 2}), Permutation::from_gather({0, 2, 1, 4, 3}));
}

}  // namespace
}  // namespace icd
