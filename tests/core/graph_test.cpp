#include "icd/graph.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gemm.h"
#include "icd/axis_facts.h"
#include "icd/error.h"
#include "icd/random.h"

namespace icd {
namespace {

using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// The message of the usage error that `call` ends in; empty if it does not.
template <typename Call>
std::string refusal(Call call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::usage);
    return error.what();
  }
  return {};
}

/// A symmetric (n, n) matrix with a zero diagonal, a share of `zeros` of no edge.
std::vector<float> random_weights(Index n, double zeros, std::uint64_t seed) {
  Random random(seed);
  const auto size = static_cast<std::size_t>(n);
  std::vector<float> weights(size * size, 0.0F);
  for (std::size_t u = 0; u < size; ++u) {
    for (std::size_t v = u + 1; v < size; ++v) {
      if (random.uniform() < zeros) continue;
      weights[u * size + v] = weights[v * size + u] = static_cast<float>(random.uniform());
    }
  }
  return weights;
}

TEST(Graph, OfNothingHasNoVertices) {
  EXPECT_EQ(Graph().size(), 0);
  EXPECT_EQ(Graph::from_matrix({}, 0).size(), 0);
  EXPECT_EQ(Graph::from_edges(0, {}).edges(), 0);
}

RC_GTEST_PROP(Graph, HoldsTheMatrixItWasMadeFrom, ()) {
  const auto n = *rc::gen::inRange<Index>(0, 70);  // across the edges of the tiles
  const double zeros = *rc::gen::element(0.0, 0.5, 0.95);
  const auto weights = random_weights(n, zeros, *rc::gen::arbitrary<std::uint64_t>());
  const Graph graph = Graph::from_matrix(weights, n);
  RC_ASSERT(graph.size() == n);

  double total = 0;
  for (Index u = 0; u < n; ++u) {
    double strength = 0;
    Index degree = 0;
    for (Index v = 0; v < n; ++v) {
      const float weight = weights[static_cast<std::size_t>(u * n + v)];
      RC_ASSERT(graph.weight(u, v) == weight);
      strength += double{weight};
      degree += weight != 0 ? 1 : 0;
      if (u < v) total += double{weight};
    }
    RC_ASSERT(graph.strength(u) == strength);
    RC_ASSERT(graph.degree(u) == degree);
    const auto row = graph.neighbours(u);
    RC_ASSERT(std::is_sorted(row.begin(), row.end(), [](const Neighbour& a, const Neighbour& b) {
      return a.vertex < b.vertex;
    }));
  }
  RC_ASSERT(std::fabs(graph.total_weight() - total) <= 1e-12 * total);
}

RC_GTEST_PROP(Graph, IsTheSameFromAMatrixAndFromEdgesInAnyOrder, ()) {
  const auto n = *rc::gen::inRange<Index>(2, 20);
  const auto seed = *rc::gen::arbitrary<std::uint64_t>();
  const auto weights = random_weights(n, 0.4, seed);
  std::vector<Graph::Edge> edges;
  for (Index u = 0; u < n; ++u) {
    for (Index v = 0; v < u; ++v) {
      const float weight = weights[static_cast<std::size_t>(u * n + v)];
      edges.push_back(v % 2 == 0 ? Graph::Edge{u, v, weight} : Graph::Edge{v, u, weight});
    }
  }
  Random random(seed);
  const Permutation shuffle = random_permutation(static_cast<Index>(edges.size()), random);
  std::vector<Graph::Edge> shuffled;
  for (const Index i : shuffle.gather()) shuffled.push_back(edges[static_cast<std::size_t>(i)]);

  const Graph one = Graph::from_matrix(weights, n);
  const Graph other = Graph::from_edges(n, shuffled);
  RC_ASSERT(one.edges() == other.edges());
  RC_ASSERT(one.total_weight() == other.total_weight());
  for (Index u = 0; u < n; ++u) {
    for (Index v = 0; v < n; ++v) RC_ASSERT(one.weight(u, v) == other.weight(u, v));
  }
}

TEST(Graph, AddsRepeatedEdgesUpWhateverTheirOrder) {
  // In float, (1 + 2^-24) + 2^-24 is 1, and 1 + (2^-24 + 2^-24) is not.
  const Graph one = Graph::from_edges(2, {{0, 1, 1.0F}, {1, 0, 0x1p-24F}, {0, 1, 0x1p-24F}});
  const Graph other = Graph::from_edges(2, {{0, 1, 0x1p-24F}, {0, 1, 0x1p-24F}, {1, 0, 1.0F}});
  EXPECT_EQ(one.edges(), 1);
  EXPECT_EQ(one.weight(0, 1), 1.0F + 0x1p-23F);
  EXPECT_EQ(other.weight(1, 0), one.weight(0, 1));
}

TEST(Graph, DoesNotReadTheDiagonal) {
  const std::vector<float> weights = {kNan, 1, 1, -5};
  const Graph graph = Graph::from_matrix(weights, 2);
  EXPECT_EQ(graph.edges(), 1);
  EXPECT_EQ(graph.weight(1, 1), 0);
}

TEST(Graph, RefusesAMatrixThatIsNotSymmetricAndNamesThePair) {
  const std::vector<float> weights = {0, 1, 2, 1, 0, 3, 2, 4, 0};
  EXPECT_EQ(refusal([&] { Graph::from_matrix(weights, 3); }),
            "graph: the weight between 1 and 2 is 3, but 4 between 2 and 1; expected a symmetric "
            "matrix");
}

TEST(Graph, RefusesWeightsThatAreNegativeOrNotFinite) {
  for (const float bad : {-1.0F, kNan, kInfinity}) {
    const std::vector<float> weights = {0, bad, bad, 0};
    EXPECT_THAT(refusal([&] { Graph::from_matrix(weights, 2); }), HasSubstr("between 0 and 1"));
    EXPECT_THAT(refusal([&] {
                  Graph::from_edges(2, {{0, 1, bad}});
                }),
                HasSubstr("between 0 and 1"));
  }
}

TEST(Graph, RefusesAMatrixOfAnotherSize) {
  const std::vector<float> weights(5);
  EXPECT_EQ(refusal([&] { Graph::from_matrix(weights, 2); }),
            "matrix of weights: has 5 entries, expected (2, 2)");
  EXPECT_EQ(refusal([&] { correlation_graph(weights, 2); }),
            "matrix of correlations: has 5 entries, expected (2, 2)");
}

TEST(Graph, RefusesLoopsAndEndsThatAreNoVertices) {
  for (const auto& [u, v] : {std::pair<Index, Index>{1, 1}, {0, 3}, {-1, 0}}) {
    EXPECT_THAT(refusal([&] {
                  Graph::from_edges(3, {{u, v, 1.0F}});
                }),
                HasSubstr("expected two different vertices below 3"));
  }
}

TEST(CorrelationGraph, TakesTheWeightItIsAskedFor) {
  const std::vector<float> r = {1, -0.5F, 0.25F, -0.5F, 1, kNan, 0.25F, kNan, 1};
  const Graph absolute = correlation_graph(r, 3);
  EXPECT_EQ(absolute.weight(0, 1), 0.5F);
  EXPECT_EQ(absolute.weight(0, 2), 0.25F);
  const Graph squared = correlation_graph(r, 3, {.weight = EdgeWeight::squared});
  EXPECT_EQ(squared.weight(0, 1), 0.25F);
  const Graph relu = correlation_graph(r, 3, {.weight = EdgeWeight::relu});
  EXPECT_EQ(relu.weight(0, 1), 0);
  EXPECT_EQ(relu.edges(), 1);
}

TEST(CorrelationGraph, HasNoEdgesAtAChannelThatNeverMoves) {
  const std::vector<float> r = {kNan, kNan, kNan, kNan, 1, 0.5F, kNan, 0.5F, 1};
  for (const Index top_k : {0, 1}) {
    const Graph graph = correlation_graph(r, 3, {.top_k = top_k});
    EXPECT_EQ(graph.degree(0), 0);
    EXPECT_EQ(graph.weight(1, 2), 0.5F);
  }
}

RC_GTEST_PROP(CorrelationGraph, KeepsWhatIsAmongTheHeaviestOfEitherEnd, ()) {
  const auto n = *rc::gen::inRange<Index>(2, 25);
  const auto k = *rc::gen::inRange<Index>(1, 30);
  auto weights = random_weights(n, 0.3, *rc::gen::arbitrary<std::uint64_t>());
  for (float& weight : weights) weight = std::ceil(weight * 4) / 4;  // plenty of ties
  const auto weight = [&](Index u, Index v) {
    return weights[static_cast<std::size_t>(u * n + v)];
  };
  const auto is_kept_by = [&](Index u, Index v) {
    Index ahead = 0;
    for (Index w = 0; w < n; ++w) {
      if (w == u || w == v) continue;
      ahead += weight(u, w) > weight(u, v) || (weight(u, w) == weight(u, v) && w < v) ? 1 : 0;
    }
    return ahead < k;
  };
  const Graph graph = correlation_graph(weights, n, {.top_k = k});
  for (Index u = 0; u < n; ++u) {
    for (Index v = 0; v < n; ++v) {
      const bool kept = u != v && (is_kept_by(u, v) || is_kept_by(v, u));
      RC_ASSERT(graph.weight(u, v) == (kept ? weight(u, v) : 0.0F));
    }
  }
}

/// Bits at random, member by member of another density; some members are never active.
Activity random_activity(Index n, std::int64_t tokens, std::uint64_t seed) {
  Random random(seed);
  Activity activity{.tokens = tokens, .size = n, .bits = {}};
  activity.bits.resize(static_cast<std::size_t>(n * activity.words()));
  for (Index member = 0; member < n; ++member) {
    const double share = member % 5 == 4 ? 0 : random.uniform();
    for (std::int64_t token = 0; token < tokens; ++token) {
      if (random.uniform() >= share) continue;
      activity.bits[static_cast<std::size_t>(member * activity.words() + token / 64)] |=
          std::uint64_t{1} << (token % 64);
    }
  }
  return activity;
}

RC_GTEST_PROP(CoactivationGraph, HoldsTheLiftWhereItIsPositive, ()) {
  const auto n = *rc::gen::inRange<Index>(0, 70);
  const auto tokens = *rc::gen::inRange<std::int64_t>(1, 200);
  const Activity activity = random_activity(n, tokens, *rc::gen::arbitrary<std::uint64_t>());
  const auto is_active = [&](Index member, std::int64_t token) {
    const auto word = static_cast<std::size_t>(member * activity.words() + token / 64);
    return (activity.bits[word] >> (token % 64) & 1) != 0;
  };
  const Graph graph = coactivation_graph(activity);
  RC_ASSERT(graph.size() == n);
  for (Index u = 0; u < n; ++u) {
    for (Index v = 0; v < n; ++v) {
      std::int64_t of_u = 0;
      std::int64_t of_v = 0;
      std::int64_t both = 0;
      for (std::int64_t token = 0; token < tokens; ++token) {
        of_u += is_active(u, token) ? 1 : 0;
        of_v += is_active(v, token) ? 1 : 0;
        both += is_active(u, token) && is_active(v, token) ? 1 : 0;
      }
      const double lift =
          both == 0 ? 0 : static_cast<double>(both * tokens) / static_cast<double>(of_u * of_v) - 1;
      RC_ASSERT(graph.weight(u, v) == (u == v || lift <= 0 ? 0.0F : static_cast<float>(lift)));
    }
  }
}

TEST(CoactivationGraph, RefusesBitsOfAnotherSize) {
  Activity activity = random_activity(3, 100, 1);
  activity.bits.pop_back();
  EXPECT_EQ(refusal([&] { coactivation_graph(activity); }),
            "activity: has 5 words, expected (3, 2)");
}

TEST(SharedAccessGraph, CountsTheTilesThatHaveBoth) {
  const std::vector<Index> tiles = {2, 3, 8};
  const Graph graph = shared_access_graph(7, tiles);
  EXPECT_EQ(graph.weight(0, 1), 3);  // [0, 2), [0, 3), [0, 8)
  EXPECT_EQ(graph.weight(1, 2), 2);  // [0, 3), [0, 8)
  EXPECT_EQ(graph.weight(2, 3), 2);  // [2, 4), [0, 8)
  EXPECT_EQ(graph.weight(0, 6), 1);
  EXPECT_EQ(shared_access_graph(7, std::vector<Index>{3}).edges(), 3 + 3);
  EXPECT_EQ(shared_access_graph(4, {}).edges(), 0);
  EXPECT_EQ(refusal([] {
              shared_access_graph(7, std::vector<Index>{4, 0});
            }),
            "tiles: one is 0 members wide, expected at least 1");
}

/// Beyond the size from which threads share the work.
TEST(Graph, OfManyVerticesIsTheSameOnAnyNumberOfThreads) {
  const Index n = 700;
  const auto weights = random_weights(n, 0.3, 5);
  const auto rows_on = [&](int threads) {
    const ThreadScope scope(threads);
    const Graph graph = Graph::from_matrix(weights, n);
    std::vector<double> rows = {graph.total_weight()};
    for (Index u = 0; u < n; ++u) {
      rows.push_back(graph.strength(u));
      for (const Neighbour& next : graph.neighbours(u)) {
        rows.push_back(next.vertex);
        rows.push_back(next.weight);
      }
    }
    return rows;
  };
  const auto one = rows_on(1);
  EXPECT_EQ(
      one.size(),
      std::count_if(weights.begin(), weights.end(), [](float weight) { return weight != 0; }) * 2 +
          n + 1u);
  EXPECT_EQ(one, rows_on(3));

  auto broken = weights;
  broken[600 * 700 + 650] = 0.5F;
  broken[650 * 700 + 600] = 0.25F;
  broken[10 * 700 + 690] = kNan;
  EXPECT_THAT(refusal([&] { Graph::from_matrix(broken, n); }), HasSubstr("between 10 and 690"));
}

}  // namespace
}  // namespace icd
