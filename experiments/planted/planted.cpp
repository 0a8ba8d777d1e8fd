// planted: do the solvers find blocks that were planted in a sparse graph, and how much of the
// way from a random order to the planted one does J go? See README.md.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <ctime>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "../machine.h"
#include "icd/axis_facts.h"
#include "icd/graph.h"
#include "icd/objective.h"
#include "icd/random.h"
#include "icd/solver.h"
#include "icd/version.h"

namespace {

using icd::Index;
using icd::Permutation;
using nlohmann::ordered_json;

/// What is planted: an edge inside a block with probability 0.5 and weight 0.5 to 1, elsewhere
/// with 0.025 and weight up to `noise`. These are the edge counts of the study that the target
/// comes from: 19 thousand at n = 768, 404 thousand at 5120.
struct Planted {
  icd::Graph graph;
  Permutation order;  ///< that shows the blocks
};

Planted plant(Index n, Index block, double noise, icd::Random& random) {
  Permutation order = icd::random_permutation(n, random);
  std::vector<icd::Graph::Edge> edges;
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < i; ++j) {
      const bool inside = i / block == j / block;
      if (random.uniform() >= (inside ? 0.5 : 0.025)) continue;
      const double weight = inside ? 0.5 + 0.5 * random.uniform() : noise * random.uniform();
      edges.push_back({order[i], order[j], static_cast<float>(weight)});
    }
  }
  return {icd::Graph::from_edges(n, std::move(edges)), std::move(order)};
}

/// `swap` on one objective: the gap closed from a random order to the planted one, and the CPU
/// seconds of the process, three times over.
ordered_json close_gap(const Planted& planted, const icd::AxisFacts& facts,
                       std::string_view objective, Index block, int repeats) {
  const auto problem = icd::find_objective(objective)->problem(facts, {.block = block});
  const Index n = facts.size;
  const double random = problem->score(icd::find_solver("random")->solve(*problem, {.seed = 1}));
  const double identity = problem->score(Permutation::identity(n));
  const double there = problem->score(planted.order);
  double found = 0;
  std::vector<double> seconds;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    const std::clock_t begin = std::clock();
    const Permutation order = icd::find_solver("swap")->solve(*problem, {.seed = 1});
    seconds.push_back(static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC);
    found = problem->score(order);
  }
  std::vector<double> sorted = seconds;
  std::sort(sorted.begin(), sorted.end());
  const double closed = (found - random) / (there - random);
  fmt::print("| {} | {} | {} | {:.4f} | {:.4f} | {:.4f} | {:.1f} % | {:.2f} |\n", n,
             planted.graph.edges(), objective, random, there, found, 100 * closed,
             sorted[sorted.size() / 2]);
  std::fflush(stdout);
  return {{"objective", objective}, {"random", random}, {"identity", identity},  {"planted", there},
          {"swap", found},          {"closed", closed}, {"cpu_seconds", seconds}};
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<Index> sizes = {768, 1536, 2560, 5120};
  Index block = 64;
  double noise = 0.5;
  int repeats = 3;
  std::uint64_t seed = 1;
  std::string out;

  CLI::App app("How much of the way to planted blocks do orders go?");
  app.add_option("--sizes", sizes, "numbers of channels");
  app.add_option("--block", block, "channels in a block")->check(CLI::PositiveNumber);
  app.add_option("--noise", noise, "the largest weight between blocks; inside it is 1");
  app.add_option("--repeats", repeats, "runs of every method")->check(CLI::PositiveNumber);
  app.add_option("--seed", seed, "of the graphs");
  app.add_option("--out", out, "JSON record with every sample");
  CLI11_PARSE(app, argc, argv);

  std::string command;
  for (int i = 0; i < argc; ++i) command += fmt::format("{}{}", i > 0 ? " " : "", argv[i]);
  ordered_json record = {{"experiment", "planted"},
                         {"icd", icd::version()},
                         {"machine", icd::experiments::machine()},
                         {"command", command},
                         {"seed", seed},
                         {"noise", noise},
                         {"block", block},
                         {"sizes", ordered_json::array()}};
  fmt::print("| n | edges | objective | random | planted | swap | gap closed | CPU seconds |\n");
  fmt::print("|---|---|---|---|---|---|---|---|\n");
  for (const Index n : sizes) {
    icd::Random random = icd::Random::derived(seed, static_cast<std::uint64_t>(n));
    const Planted planted = plant(n, block, noise, random);
    const icd::AxisFacts facts{.size = n,
                               .graph = std::make_shared<const icd::Graph>(planted.graph)};
    ordered_json rows = ordered_json::array();
    for (const char* objective : {"icd-j", "intra-block", "modularity"}) {
      rows.push_back(close_gap(planted, facts, objective, block, repeats));
    }
    record["sizes"].push_back({{"n", n}, {"edges", planted.graph.edges()}, {"rows", rows}});
  }
  if (!out.empty()) std::ofstream(out) << record.dump(2) << '\n';
}
