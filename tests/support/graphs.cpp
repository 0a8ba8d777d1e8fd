#include "support/graphs.h"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "icd/random.h"

namespace icd::testing {

Graph planted_blocks(Index blocks, Index size, std::uint64_t seed) {
  Random random(seed);
  const Index n = blocks * size;
  const Permutation vertex = random_permutation(n, random);
  std::vector<Graph::Edge> edges;
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < i; ++j) {
      if (i / size == j / size) {
        edges.push_back({vertex[i], vertex[j], static_cast<float>(1 + random.uniform())});
      } else if (random.below(4) == 0) {
        edges.push_back({vertex[i], vertex[j], static_cast<float>(0.1 * random.uniform())});
      }
    }
  }
  return Graph::from_edges(n, std::move(edges));
}

Graph random_graph(Index n, double density, std::uint64_t seed) {
  Random random(seed);
  std::vector<Graph::Edge> edges;
  for (Index u = 0; u < n; ++u) {
    for (Index v = 0; v < u; ++v) {
      if (random.uniform() >= density) continue;
      edges.push_back({u, v, static_cast<float>(1 - random.uniform())});
    }
  }
  return Graph::from_edges(n, std::move(edges));
}

namespace {

std::vector<float> uniform(std::size_t count, float from, float to, Random& random) {
  std::vector<float> values(count);
  for (float& value : values) {
    value = from + (to - from) * static_cast<float>(random.uniform());
  }
  return values;
}

Reader reader_of(Index members, Index rows, Random& random) {
  const auto columns = static_cast<std::size_t>(members);
  std::vector<float> weights(columns * static_cast<std::size_t>(rows));
  for (float& weight : weights) weight = static_cast<float>(random.normal());
  return {.tensor = "reader.weight",
          .rows = rows,
          .weights = std::make_shared<const std::vector<float>>(std::move(weights)),
          .input_square = uniform(columns, 0.1F, 4, random)};
}

Activity activity_of(Index members, std::int64_t tokens, Random& random) {
  Activity activity{.tokens = tokens, .size = members, .bits = {}};
  activity.bits.resize(static_cast<std::size_t>(members * activity.words()));
  for (Index j = 0; j < members; ++j) {
    for (std::int64_t t = 0; t < tokens; ++t) {
      if (random.below(5) != 0) continue;
      activity.bits[static_cast<std::size_t>(j * activity.words() + t / 64)] |= std::uint64_t{1}
                                                                                << (t % 64);
    }
  }
  return activity;
}

Graph scaled_clique(Index n, float scale) {
  std::vector<Graph::Edge> edges;
  for (Index u = 0; u < n; ++u) {
    for (Index v = 0; v < u; ++v) {
      edges.push_back({u, v, scale * static_cast<float>(1 + (u * v) % 3)});
    }
  }
  return Graph::from_edges(n, std::move(edges));
}

/// Keeps the facts for as long as somebody holds the problem.
struct Held {
  AxisFacts facts;
  std::unique_ptr<Problem> problem;
};

}  // namespace

AxisFacts facts_of(Graph graph, std::uint64_t seed) {
  Random random(seed);
  const Index n = graph.size();
  const auto members = static_cast<std::size_t>(n);
  AxisFacts facts;
  facts.size = n;
  facts.graph = std::make_shared<const Graph>(std::move(graph));
  facts.readers = {reader_of(n, 6, random), reader_of(n, 5, random)};
  facts.square = uniform(members, 0.1F, 4, random);
  facts.minimum = uniform(members, -6, -0.5F, random);
  facts.maximum = uniform(members, 0.5F, 6, random);
  const std::vector<float> decay = uniform(members, 0.001F, 1, random);
  facts.decay.assign(decay.begin(), decay.end());
  facts.weight_square = uniform(members, 0.5F, 9, random);
  facts.activity = std::make_shared<const Activity>(activity_of(n, 100, random));
  return facts;
}

std::shared_ptr<const Problem> problem_of(std::string_view objective, Graph graph,
                                          const ObjectiveOptions& options) {
  const auto held = std::make_shared<Held>();
  held->facts = facts_of(std::move(graph));
  held->problem = find_objective(objective)->problem(held->facts, options);
  return {held, held->problem.get()};
}

std::vector<AwkwardGraph> awkward_graphs() {
  std::vector<Graph::Edge> star;
  for (Index v = 0; v < 11; ++v) star.push_back({v, 11, 1});
  const std::vector<Graph::Edge> pieces = {{0, 5, 1},  {5, 9, 2},  {9, 0, 1}, {1, 4, 1},
                                           {4, 11, 1}, {11, 8, 1}, {3, 7, 1}};
  std::vector<Graph::Edge> equal;
  for (Index u = 0; u < 13; ++u) {
    for (Index v = 0; v < u; ++v) equal.push_back({u, v, 1});
  }
  std::vector<AwkwardGraph> graphs;
  const auto add = [&](std::string_view name, Graph graph, Index block) {
    graphs.push_back({name, std::move(graph), block});
  };
  add("no vertices", Graph(), 4);
  add("one vertex", Graph::from_edges(1, {}), 4);
  add("two vertices in blocks of one", Graph::from_edges(2, {{0, 1, 1}}), 1);
  add("no edges", Graph::from_edges(9, {}), 4);
  add("pieces", Graph::from_edges(12, pieces), 4);
  add("a star", Graph::from_edges(12, star), 4);
  add("equal weights", Graph::from_edges(13, equal), 4);
  add("weights near 1e-38", scaled_clique(12, 1e-38F), 3);
  add("weights near 1e30", scaled_clique(12, 1e30F), 3);
  add("blocks of one", planted_blocks(3, 7, 1), 1);
  add("a last block of one", planted_blocks(3, 7, 1), 4);
  add("a last block of one, large blocks", planted_blocks(3, 7, 1), 20);
  add("one block", planted_blocks(3, 7, 1), 21);
  add("a block larger than all", planted_blocks(3, 7, 1), 2147483647);
  return graphs;
}

}  // namespace icd::testing
